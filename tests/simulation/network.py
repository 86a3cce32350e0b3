"""Between processes and servers: calls that are delayed, reordered, lost, doubled or refused.

What is assumed of a store, as the product does: a write that was given up lands within
`late_write_s` or never, and one whose caller is dead or stopped not after its deadline.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proxy.errors import Ambiguous, CrossfadeError, Reason, Rejected, Unavailable
from proxy.layouts import StoreSchema
from proxy.ledger.memory import MemoryLedger
from proxy.model import Key
from proxy.query import KeyRange
from proxy.stores.base import BulkTarget
from proxy.stores.memory import MemoryStore
from proxy.stores.memory_table import MemoryPage
from tests.simulation.loop import SimLoop, process

T = TypeVar("T")

LATE_S = 2.0
"""`writes.late_write_s` of the simulated replicas; a copier assumes more."""

LEDGER_DEADLINE_S = 1.5
_WRITING = frozenset({"apply", "next_ids", "align_sequences", "bulk_load", "build_index"})
_LOCAL = frozenset({"open", "close", "rest", "stats", "unconvertible", "key_order", "capabilities"})
_DEFAULT_S = 3.0
_LOOKING = frozenset(
    {"get", "page", "fetch", "digest", "key_digests", "ping", "routing", "fenced", "replicas"}
    | {"dirty_counts", "dirty_keys", "flags", "jobs", "ranges", "unsettled", "dead_letters"}
    | {"settled_since", "differences", "index_states", "recall", "answered", "row_estimate"}
)
"""Calls that change nothing, so that nothing can have gone wrong by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How likely each trouble is for one call, and how long a call takes."""

    delay_s: float = 0.004
    slow: float = 0.0
    refused: float = 0.0
    unreachable: float = 0.0
    lost: float = 0.0
    reset: float = 0.0
    twice: float = 0.0


CALM = Weather()


@dataclass(slots=True)
class Network:
    """The one network of a run.

    Attributes:
        weather: by server ("old", "new", "ledger").
        down: servers that do not answer at all for now.
        cut: (process, server) that cannot reach each other for now.
    """

    loop: SimLoop
    rng: random.Random
    weather: dict[str, Weather]
    down: set[str] = field(default_factory=set)
    cut: set[tuple[str, str]] = field(default_factory=set)
    over: bool = False
    digest: int = 0
    trace: list[str] | None = None
    on_landing: Callable[[], None] = lambda: None

    def note(self, text: str, about: object = "") -> None:
        """Take a line into the digest that two runs of a seed must share; the trace tells more."""
        line = f"{self.loop.time():.6f} {text}"
        self.digest = zlib.crc32(line.encode(), self.digest)
        if self.trace is not None:
            self.trace.append(f"{line} {about}")

    def calm(self) -> None:
        """No more trouble from here on."""
        self.weather = dict.fromkeys(self.weather, CALM)
        self.down.clear()
        self.cut.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call to a server."""

    server: str
    what: str
    work: Callable[[], Awaitable[Any]]
    writing: bool
    deadline_s: float
    about: Any = ()


@dataclass(slots=True, kw_only=True)
class _Sent:
    """A call under way. `again_s`: it lands twice, so far apart; the first answer counts."""

    call: Call
    reply: asyncio.Future[Any]
    ends_s: float
    lost: bool
    again_s: float = 0.0
    answer: tuple[bool, Any] | None = None


class Link:
    """A process's way to the servers."""

    def __init__(self, network: Network, owner: str, *, late_s: float = LATE_S) -> None:
        self.network = network
        self._owner = owner
        self._late_s = late_s
        self._server_side = contextvars.Context()

    def cut_off(self, server: str) -> bool:
        """True while this process cannot reach a server."""
        return server in self.network.down or (self._owner, server) in self.network.cut

    async def call(self, call: Call) -> Any:
        """Make a call and wait for its answer.

        Raises:
            Unavailable: it was not applied (a read: or not answered).
            Ambiguous: a write that may have been applied, or may still be.
            Rejected: the server refused it.
        """
        network = self.network
        if network.over:
            raise Unavailable("the run is over", where=call.server)
        loop, rng, weather = network.loop, network.rng, network.weather[call.server]
        draw = rng.random
        if self.cut_off(call.server) or draw() < weather.unreachable:
            await asyncio.sleep(weather.delay_s * draw())
            raise Unavailable("connection refused", where=call.server)
        if call.writing and draw() < weather.refused:
            await asyncio.sleep(weather.delay_s * draw())
            raise Rejected("refused for no reason", reason=Reason.FAILED_PRECONDITION)
        reply: asyncio.Future[Any] = loop.create_future()
        ends_s = loop.time() + call.deadline_s
        way_s = weather.delay_s * draw()
        broken = draw() < weather.reset
        if draw() < weather.slow or (broken and draw() < 0.5):
            way_s = draw() * (call.deadline_s + self._late_s)
        last_s = way_s
        if call.what == "apply" and draw() < weather.twice:
            # The answer comes after the second landing: no store would bear another order.
            last_s = max(way_s, min(way_s + weather.delay_s * 8 * draw(), call.deadline_s))
        sent = _Sent(
            call=call,
            reply=reply,
            ends_s=ends_s,
            lost=draw() < weather.lost,
            again_s=last_s - way_s,
        )
        loop.call_later(way_s, self._land, sent, context=self._server_side)
        if broken:
            least_s = max(0.0, last_s - self._late_s)
            most_s = max(least_s, min(call.deadline_s, last_s + weather.delay_s))
            patience_s = least_s + draw() * (most_s - least_s)
            loop.call_later(patience_s, _reset, call, reply, context=self._server_side)
        if sent.lost or last_s + weather.delay_s > call.deadline_s:
            self._give_up_later(sent)
        return await reply

    def _give_up_later(self, sent: _Sent) -> None:
        """There may be no answer: the caller waits until its deadline (a timer costs time)."""
        self.network.loop.call_at(
            sent.ends_s,
            _deliver,
            sent.reply,
            self._no_answer(sent.call),
            True,  # as a failure
            context=self._server_side,
        )

    def _land(self, sent: _Sent) -> None:
        """The request reaches the server; perhaps it will once more."""
        network, call = self.network, sent.call
        loop = network.loop
        gone = not loop.alive(self._owner) or loop.paused(self._owner)
        if network.over or call.server in network.down or (gone and loop.time() > sent.ends_s):
            self._give_up_later(sent)
            return
        failed, outcome = False, None
        try:
            outcome = _drive(call.work())
        except CrossfadeError as error:
            failed, outcome = True, error
        network.note(f"{self._owner} {call.server} {call.what}", _told(call, outcome, network))
        if call.what not in _LOOKING:
            network.on_landing()
        sent.answer = sent.answer or (failed, outcome)
        if sent.again_s > 0:
            again_s, sent.again_s = sent.again_s, 0.0
            loop.call_later(again_s, self._land, sent, context=self._server_side)
        elif not sent.lost:
            way_s = network.weather[call.server].delay_s * network.rng.random()
            failed, outcome = sent.answer
            loop.call_later(way_s, _deliver, sent.reply, outcome, failed, context=self._server_side)

    def _no_answer(self, call: Call) -> CrossfadeError:
        if call.server == "ledger" or not call.writing:
            return Unavailable("no answer", where=call.server)
        return Ambiguous("no answer", where=call.server, timed_out=True)


def _told(call: Call, outcome: object, network: Network) -> str:
    """Return what a trace says of a call, "" if there is none."""
    if network.trace is None:
        return ""
    if call.what == "apply":
        writes = [f"{w.op.value} {w.key[0]} {w.fields.get('body')}" for w in call.about[0]]
        return f"{writes} -> {outcome}"
    return f"{call.about} -> {outcome}"


def _deliver(reply: asyncio.Future[Any], outcome: Any, failed: bool) -> None:
    if reply.done():
        return
    if failed:
        reply.set_exception(outcome)
        reply.exception()
    else:
        reply.set_result(outcome)


def _reset(call: Call, reply: asyncio.Future[Any]) -> None:
    lost = "the connection was lost"
    error: CrossfadeError = Unavailable(lost, where=call.server)
    if call.writing and call.server != "ledger":
        error = Ambiguous(lost, where=call.server)
    _deliver(reply, error, failed=True)


def _drive(work: Awaitable[T]) -> T:
    """Run a coroutine of a server in memory to its end; it gives way to nobody."""
    steps = work.__await__()
    try:
        next(iter(steps))
    except StopIteration as ended:
        result: T = ended.value
        return result
    raise AssertionError("a server in memory waited for something")


class SimStore:
    """A store as one process sees it: every call goes over the network."""

    def __init__(self, link: Link, store: MemoryStore) -> None:
        self._link = link
        self._store = store
        self.name = store.name
        self.schema: StoreSchema = store.schema
        self.capabilities = store.capabilities

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name in _LOCAL:
            return method

        async def over(*args: Any, **kwargs: Any) -> Any:
            return await self._link.call(
                Call(
                    server=self.name,
                    what=name,
                    work=lambda: method(*args, **kwargs),
                    writing=name in _WRITING,
                    deadline_s=kwargs.get("deadline_s", _DEFAULT_S),
                    about=args,
                )
            )

        return over

    @asynccontextmanager
    async def page(
        self, collection: str, keys: KeyRange, *, limit: int, order: str, deadline_s: float
    ) -> AsyncIterator[SimPage]:
        """Read a page; it is consistent, and its records come later than its keys."""

        async def read() -> MemoryPage:
            ask = self._store.page(
                collection, keys, limit=limit, order=order, deadline_s=deadline_s
            )
            async with ask as page:
                return page

        call = Call(server=self.name, what="page", work=read, writing=False, deadline_s=deadline_s)
        yield SimPage(self._link, self.name, await self._link.call(call), deadline_s)

    async def bulk_load(
        self,
        collection: str,
        target: BulkTarget,
        chunks: AsyncIterator[bytes],
        *,
        deadline_s: float,
    ) -> int:
        """Gather the chunks, then load them in one call."""
        data = [chunk async for chunk in chunks]

        async def again() -> AsyncIterator[bytes]:
            for chunk in data:
                yield chunk

        loaded: int = await self._link.call(
            Call(
                server=self.name,
                what="bulk_load",
                work=lambda: self._store.bulk_load(
                    collection, target, again(), deadline_s=deadline_s
                ),
                writing=True,
                deadline_s=deadline_s,
            )
        )
        return loaded


class SimPage:
    """An open page: what it holds was read when it was opened."""

    def __init__(self, link: Link, server: str, page: MemoryPage, deadline_s: float) -> None:
        self._link = link
        self._server = server
        self._page = page
        self._deadline_s = deadline_s
        self.keys: Sequence[Key] = page.keys

    async def _fetch(self) -> None:
        async def nothing() -> None:
            return None

        await self._link.call(
            Call(
                server=self._server,
                what="fetch",
                work=nothing,
                writing=False,
                deadline_s=self._deadline_s,
            )
        )

    async def records(self, exclude: frozenset[Key]) -> list[Any]:
        """See `Page.records`."""
        await self._fetch()
        return await self._page.records(exclude)

    async def bulk(self, exclude: frozenset[Key], target: BulkTarget) -> AsyncIterator[bytes]:
        """See `Page.bulk`."""
        await self._fetch()
        async for chunk in self._page.bulk(exclude, target):
            yield chunk


class SimLedger:
    """The ledger as one process sees it; whatever goes wrong there is Unavailable."""

    def __init__(self, link: Link, ledger: MemoryLedger) -> None:
        self._link = link
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def over(*args: Any, **kwargs: Any) -> Any:
            return await self._link.call(
                Call(
                    server="ledger",
                    what=name,
                    work=lambda: method(*args, **kwargs),
                    writing=False,
                    deadline_s=LEDGER_DEADLINE_S,
                    about=(*args, *kwargs.items()),
                )
            )

        return over

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to close."""

    async def wait_change(self, epoch: int, *, timeout_s: float) -> None:
        """Wait for a notification; a process that cannot reach the ledger hears of none."""
        state, network = self._ledger.state, self._link.network
        if network.over:
            raise Unavailable("the run is over", where="ledger")
        try:
            async with asyncio.timeout(timeout_s):
                while state.routing.epoch == epoch:
                    await state.changed.wait()
                await asyncio.sleep(network.weather["ledger"].delay_s * network.rng.random())
        except TimeoutError:
            return
        if self._link.cut_off("ledger"):
            await asyncio.sleep(timeout_s)


def owner() -> str:
    """Return the name of the process that runs now."""
    return process.get()
