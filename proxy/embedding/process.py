"""The embedder whose models run in a process of their own: the event loop never stalls."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from proxy.clock import Clock
from proxy.config.settings import EmbedderSettings
from proxy.embedding.cpus import usable_cpus
from proxy.embedding.frames import Cancel, Embed, Refused, Start, Vectors
from proxy.embedding.link import start_worker
from proxy.embedding.locate import locate
from proxy.embedding.text_queue import TextQueue
from proxy.errors import ConfigInvalid, CrossfadeError, Rejected, Unavailable, Violation

log = logging.getLogger(__name__)

_RESTART_S = (0.1, 0.5, 2.0, 10.0)
_SOON_S = 60.0
"""A worker that dies sooner after its start is started again later each time."""
_LANES_MAX = 8
_LOOKS = 4
_PAGE_BYTES = 4096


class Link(Protocol):
    """A worker whose models are loaded (`proxy.embedding.link.WorkerLink`)."""

    @property
    def pid(self) -> int: ...

    @property
    def dims(self) -> Mapping[str, int]: ...

    def send(self, embed: Embed) -> None: ...

    def cancel(self, cancel: Cancel) -> None: ...

    async def receive(self) -> Vectors | Refused: ...

    def kill(self) -> None: ...

    async def stop(self) -> None: ...


class Starter(Protocol):
    """Starts a worker (`proxy.embedding.link.start_worker`)."""

    async def __call__(self, start: Start, *, timeout_s: float) -> Link: ...


class ProcessEmbedder:
    """Meets `proxy.embedding.base.Embedder` with one worker process for all models.

    Texts of all callers wait in one queue; the worker holds at most a batch of each model's, so
    that it is never idle and a later caller is not behind a long queue in the worker. A dead worker
    fails those who wait and is started anew, with a growing pause between failures; a text over
    which it died again and again is refused.
    """

    def __init__(
        self,
        settings: EmbedderSettings,
        models: Collection[str],
        clock: Clock,
        *,
        starter: Starter = start_worker,
    ) -> None:
        self._settings = settings
        self._starter = starter
        self._clock = clock
        self._start = _start(settings, models)
        self._queue = TextQueue(
            texts_max=settings.queue_texts_max,
            window=max(settings.batch_texts_max, 2 * self._start.lanes),
        )
        self._cache: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._dims: dict[str, int] = {}
        self._link: Link | None = None
        self._down = "it was not opened"
        self._tasks: list[asyncio.Task[None]] = []
        self._gathering: asyncio.Task[None] | None = None

    async def open(self) -> None:
        link = await self._starter(self._start, timeout_s=self._settings.start_timeout_s)
        self._up(link)
        self._tasks = [
            asyncio.create_task(self._supervise(link), name="embedder"),
            asyncio.create_task(self._watch(), name="embedder-watch"),
        ]

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        if self._gathering is not None:
            tasks.append(self._gathering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        link = self._link
        self._went_down("it was closed")
        if link is not None:
            await link.stop()

    def dim(self, model: str) -> int:
        if model not in self._dims:
            raise ConfigInvalid(
                f"The embedder has no model {model!r}.",
                (Violation(where="model", expected=f"one of {', '.join(sorted(self._dims))}"),),
            )
        return self._dims[model]

    async def documents(
        self, model: str, texts: Sequence[str], *, deadline_s: float
    ) -> list[bytes]:
        # A call larger than the queue goes through it in parts.
        step = max(1, self._settings.queue_texts_max // 2)
        found: list[bytes] = []
        async with _within(deadline_s):
            for start in range(0, len(texts), step):
                found += await self._embed(model, texts[start : start + step], urgent=False)
        return found

    async def query(self, model: str, text: str, *, deadline_s: float) -> bytes:
        key = (model, text)
        if key in self._cache:
            self._counts["query_cache_hits"] += 1
            self._cache.move_to_end(key)
            return self._cache[key]
        self._counts["query_cache_misses"] += 1
        async with _within(deadline_s):
            (vector,) = await self._embed(model, [text], urgent=True)
        if self._settings.query_cache:
            self._cache[key] = vector
            while len(self._cache) > self._settings.query_cache:
                self._cache.popitem(last=False)
        return vector

    def stats(self) -> Mapping[str, float]:
        names = ("texts", "batches", "texts_refused", "restarts")
        cache = ("query_cache_hits", "query_cache_misses")
        return {
            "up": float(self._link is not None),
            "texts_waiting": float(
                self._queue.waiting(urgent=False) + self._queue.waiting(urgent=True)
            ),
            "texts_computing": float(self._computing()),
            "texts_joined": float(self._queue.joined),
            **{name: float(self._counts[name]) for name in (*names, *cache)},
            "worker_bytes": float(_resident_bytes(self._link.pid) if self._link else 0),
        }

    async def _embed(self, model: str, texts: Sequence[str], *, urgent: bool) -> list[bytes]:
        self.dim(model)
        _check_texts(texts)
        if self._link is None:
            raise Unavailable(
                f"The embedder is down: {self._down}.", where="embedder", hint="Try again."
            )
        if not texts:
            return []
        done = asyncio.Event()
        try:
            call = self._queue.add(model, texts, urgent=urgent, on_done=done.set)
        except Rejected:
            self._counts["texts_refused"] += len(texts)
            raise
        try:
            self._gather(urgent=urgent)
            await done.wait()
            return call.vectors()
        finally:
            abandoned = self._queue.drop(call)
            if abandoned and self._link is not None:
                self._link.cancel(Cancel(ids=abandoned))

    def _gather(self, *, urgent: bool) -> None:
        """Send now what must not wait for company; let the rest wait a little."""
        wait_s = self._settings.batch_wait_ms / 1000
        full = self._queue.waiting(urgent=False) >= self._settings.batch_texts_max
        if urgent or full or not wait_s:
            self._pump()
        elif self._gathering is None:
            self._gathering = asyncio.create_task(self._pump_after(wait_s), name="embedder-batch")

    async def _pump_after(self, wait_s: float) -> None:
        try:
            await self._clock.sleep(wait_s)
        finally:
            self._gathering = None
        self._pump()

    def _pump(self) -> None:
        """Send texts to the worker, as many as it may hold; searches beside them."""
        if self._link is None:
            return
        texts_max = self._settings.batch_texts_max
        for urgent in (True, False):
            while (embed := self._queue.take(urgent=urgent, texts_max=texts_max)) is not None:
                self._counts["batches"] += 1
                self._link.send(embed)

    def _computing(self) -> int:
        return self._queue.outstanding(urgent=False) + self._queue.outstanding(urgent=True)

    async def _supervise(self, link: Link) -> None:
        """Take answers from the worker; start another when it dies."""
        deaths = 0
        while True:
            up_s = self._clock.monotonic_s()
            why = await self._listen(link)
            log.warning("The embedding worker is gone; it is started anew: %s", why)
            deaths = deaths + 1 if self._clock.monotonic_s() - up_s < _SOON_S else 1
            self._queue.died()
            self._went_down(why)
            await link.stop()
            link = await self._start_again(deaths - 1)
            self._up(link)

    async def _listen(self, link: Link) -> str:
        """Take answers until the worker is gone; return why it is."""
        while True:
            try:
                answer = await link.receive()
            except CrossfadeError as error:
                return error.message
            self._counts["answers"] += 1
            if isinstance(answer, Refused):
                missed = self._queue.refuse(answer.ids, _refusal(answer))
                self._counts["texts_refused"] += missed
            else:
                self._counts["texts"] += len(answer.by_id)
                self._queue.settle(answer.by_id)
            self._pump()

    async def _start_again(self, failures: int) -> Link:
        while True:
            await self._clock.sleep(_RESTART_S[min(failures, len(_RESTART_S) - 1)])
            self._counts["restarts"] += 1
            try:
                return await self._starter(self._start, timeout_s=self._settings.start_timeout_s)
            except (CrossfadeError, OSError) as error:
                failures += 1
                self._down = str(error)
                log.warning("The embedding worker does not start (%d): %s", failures, error)

    async def _watch(self) -> None:
        """End a worker that has texts and has said nothing for the deadline of a text.

        Looks are counted, not seconds: a proxy that was itself asleep has looked but once.
        """
        silent = 0
        while True:
            before = (self._counts["batches"], self._counts["answers"])
            await self._clock.sleep(self._settings.deadline_s / _LOOKS)
            same = before == (self._counts["batches"], self._counts["answers"])
            silent = silent + 1 if same and self._computing() else 0
            if silent >= _LOOKS and self._link is not None:
                log.warning("The embedding worker says nothing any more; it is ended")
                silent = 0
                self._link.kill()

    def _up(self, link: Link) -> None:
        self._link = link
        self._dims = dict(link.dims)

    def _went_down(self, why: str) -> None:
        self._link = None
        self._down = why.rstrip(".")
        self._queue.fail_all(
            Unavailable(
                f"The embedder went down: {self._down}.", where="embedder", hint="Try again."
            )
        )


@asynccontextmanager
async def _within(deadline_s: float) -> AsyncIterator[None]:
    """Give up at the deadline, with the contract's error."""
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError as error:
        raise Unavailable(
            f"The embedder gave no answer within {deadline_s:g} s.",
            where="embedder",
            hint="Try again; send fewer texts at once.",
        ) from error


def _refusal(answer: Refused) -> CrossfadeError:
    if answer.text:
        return Rejected(
            f"A text has no embedding: {answer.message}.",
            hint="Change the text, or give the vector.",
        )
    return Unavailable(
        f"A text could not be embedded: {answer.message}.", where="embedder", hint="Try again."
    )


def _start(settings: EmbedderSettings, models: Collection[str]) -> Start:
    threads = settings.threads or usable_cpus()
    lanes = min(threads, _LANES_MAX)
    return Start(
        locations={model: locate(model) for model in sorted(set(models))},
        backend=settings.backend,
        lanes=lanes,
        lane_threads=max(1, threads // lanes),
    )


def _check_texts(texts: Sequence[str]) -> None:
    for at, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            where = Violation(where=f"texts[{at}]", expected="valid Unicode", got=repr(text[:40]))
            raise Rejected("A text to embed is not valid Unicode.", violations=(where,)) from error


def _resident_bytes(pid: int) -> int:
    """Return the memory of a process that is in RAM; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0
