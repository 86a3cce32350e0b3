"""A worker without a process and a clock that moves when told."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence

from proxy.config.settings import EmbedderSettings
from proxy.embedding.frames import Cancel, Embed, Refused, Start, Vectors
from proxy.embedding.process import ProcessEmbedder
from proxy.errors import CrossfadeError, Unavailable
from tests.embedding import vector_of

MODEL = "m"
OTHER = "n"
DIMS = {MODEL: 4, OTHER: 6}


class ManualClock:
    """A clock that stands still until `advance`."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic_s(self) -> float:
        return self.at_s

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.at_s, dt.UTC)

    async def sleep(self, delay_s: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.at_s + delay_s, woken))
        await woken

    async def advance(self, by_s: float) -> None:
        """Move on, wake those who slept until then, and let everything run that can."""
        self.at_s += by_s
        due = [woken for until_s, woken in self._sleepers if until_s <= self.at_s]
        self._sleepers = [item for item in self._sleepers if item[0] > self.at_s]
        for woken in due:
            if not woken.done():
                woken.set_result(None)
        await settled()


class FakeLink:
    """Keeps what is sent; answers when told."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        self._dims = dims
        self.sent: list[Embed] = []
        self.cancelled: list[int] = []
        self.answers: asyncio.Queue[Vectors | Refused | CrossfadeError] = asyncio.Queue(1000)
        self.killed = False
        self.stopped = False

    @property
    def pid(self) -> int:
        return 0

    @property
    def dims(self) -> Mapping[str, int]:
        return self._dims

    def send(self, embed: Embed) -> None:
        self.sent.append(embed)

    def cancel(self, cancel: Cancel) -> None:
        self.cancelled += cancel.ids

    async def receive(self) -> Vectors | Refused:
        answer = await self.answers.get()
        if isinstance(answer, CrossfadeError):
            raise answer
        return answer

    def kill(self) -> None:
        self.killed = True
        self.die()

    async def stop(self) -> None:
        self.stopped = True

    def die(self) -> None:
        """End as a killed process does."""
        self.answers.put_nowait(Unavailable("The embedding worker ended.", where="embedder"))

    async def answer(self, embed: Embed) -> None:
        """Answer one frame, and let those who waited go on."""
        dim = self._dims[embed.model]
        by_id = {
            text_id: vector_of(embed.model, text, dim)
            for text_id, text in zip(embed.ids, embed.texts, strict=True)
        }
        self.answers.put_nowait(Vectors(dim=dim, by_id=by_id))
        await settled()

    async def refuse(self, text_ids: Sequence[int], message: str, *, text: bool) -> None:
        """Refuse some texts."""
        self.answers.put_nowait(Refused(ids=text_ids, message=message, text=text))
        await settled()


class Starts:
    """Hands out workers; `failures` are raised first, one a start."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.failures: list[CrossfadeError] = []
        self.asked: list[Start] = []

    async def __call__(self, start: Start, *, timeout_s: float) -> FakeLink:
        self.asked.append(start)
        if self.failures:
            raise self.failures.pop(0)
        self.links.append(FakeLink({model: DIMS[model] for model in start.locations}))
        return self.links[-1]

    @property
    def link(self) -> FakeLink:
        """Return the worker of now."""
        return self.links[-1]


class Bench:
    """An embedder with a fake worker and a clock of its own."""

    def __init__(self, **settings: object) -> None:
        self.clock = ManualClock()
        self.starts = Starts()
        self.embedder = ProcessEmbedder(
            EmbedderSettings.model_validate({"threads": 1, **settings}),
            [MODEL, OTHER],
            self.clock,
            starter=self.starts,
        )

    async def __aenter__(self) -> Bench:
        await self.embedder.open()
        await settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.embedder.close()

    @property
    def sent(self) -> list[Embed]:
        """Return what the worker of now was sent."""
        return self.starts.link.sent

    def ask(self, *texts: str, model: str = MODEL) -> asyncio.Task[list[bytes]]:
        """Ask for vectors of documents, without waiting."""
        return asyncio.create_task(self.embedder.documents(model, texts, deadline_s=60))

    def search(self, text: str, model: str = MODEL) -> asyncio.Task[bytes]:
        """Ask for the vector of a search, without waiting."""
        return asyncio.create_task(self.embedder.query(model, text, deadline_s=60))


async def settled() -> None:
    """Return when every task has gone as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)
