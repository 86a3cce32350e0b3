"""Shadow reads beside live traffic: sampled, queued with a bound, never on the client's path."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from proxy.clock import Clock, SystemClock
from proxy.config.settings import ShadowSettings
from proxy.dataplane import Reading
from proxy.embedding.base import Embedder
from proxy.embedding.queries import QueryEmbedder
from proxy.errors import CrossfadeError
from proxy.ledger.types import Routing
from proxy.model import JsonValue
from proxy.query import SearchQuery
from proxy.routing.phases import shadows
from proxy.stores.base import Store
from shadow.answers import Answer, Policy, Question
from shadow.compare import Comparison
from shadow.evidence import Failed, Fence, Investigator, Outcome
from shadow.histogram import Shares
from shadow.rankers import Rankers
from shadow.samples import failure_of, sample_of
from shadow.semantics import SemanticRule, any_of, fields_held_once, nothing_is_known
from shadow.stats import GroupKey, GroupStats, Stats, of_comparison
from shadow.windows import Window, Windows, window_name

FLUSH_S = 5.0
"""How often statistics go to the ledger."""

_HOLD_LOOK_S = 0.02
_HOLD_LOOKS_MAX = 250
"""After so many looks it goes on all the same: a hold may be forgotten, a queue is not."""

QUEUED_RECORDS_MAX = 5_000
"""Records that may wait in the queue: with 10 kB of text each about 50 MB, whatever queue_max."""

_log = structlog.get_logger(__name__)


class ShadowLedger(Fence, Protocol):
    """What shadow reads need of the ledger: where keys are in flight, and a place to report."""

    async def put_shadow(
        self, replica_id: str, window: str, stats: Mapping[str, JsonValue]
    ) -> None:
        """Store a replica's statistics of a window (replaces the same window)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """A reading in the queue, with the window it belongs to."""

    reading: Reading
    window: Window
    at: str

    @property
    def records(self) -> int:
        """How many records it holds in memory."""
        return _records(self.reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowParts:
    """What the shadow reader is made of.

    Attributes:
        stores: by name, "old" and "new", open.
        routing: returns the routing in force in this replica.
        engines: by name; the words of a search are read alike by equal ones.
        semantic: known differences of meaning, beyond those that the stores tell themselves.
        embedder: makes vectors of searches by text; None if no store needs it.
    """

    stores: Mapping[str, Store]
    ledger: ShadowLedger
    routing: Callable[[], Routing]
    replica_id: str
    clock: Clock = field(default_factory=SystemClock)
    engines: Mapping[str, str] = field(default_factory=dict)
    semantic: SemanticRule = nothing_is_known
    embedder: Embedder | None = None


class ShadowReader:
    """Compares what was served with the other store's answer; a `proxy.dataplane.ReadObserver`.

    A difference that a write could explain is looked at twice: then the control is asked once
    more. Lower `settings.sample` if the control cannot bear that.
    """

    def __init__(self, parts: ShadowParts, settings: ShadowSettings) -> None:
        stores = parts.stores
        self._stores = stores
        self._ledger = parts.ledger
        self._routing = parts.routing
        self._replica_id = parts.replica_id
        self._settings = settings
        self._clock = parts.clock
        self._rankers = Rankers.of(stores, parts.engines)
        held_once = fields_held_once(stores["old"].schema, stores["new"].schema)
        self._investigator = Investigator(
            stores=stores,
            fence=parts.ledger,
            clock=self._clock,
            policy=Policy(score_epsilon=settings.score_epsilon),
            semantic=any_of(parts.semantic, self._rankers.differ, held_once),
            deadline_s=settings.deadline_s,
            queries=QueryEmbedder(parts.embedder),
        )
        self._windows = Windows(parts.replica_id)
        # Bounded in `_take`, by readings and by records, so that a stop mark always fits.
        self._queue: asyncio.Queue[_Sampled | None] = asyncio.Queue()
        self._queued_records = 0
        self._totals: Counter[str] = Counter()
        self._flushing = asyncio.Lock()
        self._closed = True
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the workers. Readings observed before are counted as dropped."""
        if self._task is None:
            self._drop_queued()
            self._closed = False
            self._task = asyncio.create_task(self._run(), name="shadow-reads")

    async def close(self, *, deadline_s: float = 2.0) -> None:
        """Stop: what waits is dropped and counted, what runs may end, statistics are stored.

        Args:
            deadline_s: for queries that are running, and once more for the ledger.
        """
        task, self._task = self._task, None
        if task is None:
            return
        self._closed = True
        self._drop_queued()
        for _ in range(self._settings.workers):
            self._queue.put_nowait(None)
        try:
            await asyncio.wait({task}, timeout=deadline_s)
        finally:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            async with asyncio.timeout(deadline_s):
                await self.flush()
        except TimeoutError:
            _log.warning("shadow statistics were not stored: the ledger did not answer in time")

    def observe(self, reading: Reading) -> None:
        """Take note of a served read; returns at once, never blocks, never raises."""
        try:
            self._take(reading)
        except Exception:  # noqa: BLE001 - a client's answer must not fail for its shadow
            self._totals["internal"] += 1
            _log.exception("a reading could not be observed", request_id=reading.request_id)

    def gauges(self) -> Mapping[str, float]:
        """Return counters since the start, and how many readings wait."""
        return {"queued": self._queue.qsize(), **self._totals}

    def stats(self) -> Stats:
        """Return what this replica holds now, merged; older windows are in the ledger alone."""
        return self._windows.total()

    async def idle(self) -> None:
        """Return when everything observed so far has been compared or dropped."""
        await self._queue.join()

    async def flush(self) -> None:
        """Store the windows that changed; what the ledger does not take is offered again."""
        async with self._flushing:  # an older state must not be stored after a newer one
            await self._flush()

    async def _flush(self) -> None:
        for name, stats in self._windows.changed():
            stored = False
            try:
                await self._ledger.put_shadow(self._replica_id, name, stats.to_json())
                stored = True
            except CrossfadeError as error:
                _log.warning("shadow statistics were not stored", window=name, error=str(error))
            finally:
                if not stored:
                    self._windows.not_stored(name)
        self._windows.forget_stored(self._window_now())

    def _take(self, reading: Reading) -> None:
        routing = self._routing()
        if not shadows(routing.phase):
            return
        now = self._clock.now()
        window, at = self._windows.of(window_name(routing.epoch, now)), _iso(now)
        identity = reading.request_id or str(self._totals["observed"])
        sampled = _share(identity, "sample") < self._settings.sample
        window.seen(at, sampled=sampled)
        self._totals["observed"] += 1
        if not sampled:
            return
        reason = self._no_room(_records(reading))
        if reason:
            window.drop(reason)
            self._totals["dropped"] += 1
            return
        window.pending += 1
        self._queued_records += _records(reading)
        self._queue.put_nowait(_Sampled(reading=reading, window=window, at=at))

    def _no_room(self, records: int) -> str:
        """Say why a reading cannot wait, "" if it can."""
        if self._closed:
            return "closed"
        if self._queue.qsize() >= self._settings.queue_max:
            return "queue_full"
        if self._queued_records and self._queued_records + records > QUEUED_RECORDS_MAX:
            return "queue_full"
        return ""

    def _drop_queued(self) -> None:
        while not self._queue.empty():
            item = self._queue.get_nowait()
            self._queue.task_done()
            if item is not None:
                self._queued_records -= item.records
                item.window.pending -= 1
                self._dropped(item)

    def _dropped(self, item: _Sampled) -> None:
        item.window.drop("closed")
        self._totals["dropped"] += 1

    async def _run(self) -> None:
        """Own the workers and the flusher until the workers are told to stop."""
        async with asyncio.TaskGroup() as group:
            flusher = group.create_task(self._flush_forever())
            workers = [group.create_task(self._work()) for _ in range(self._settings.workers)]
            await asyncio.wait(workers)
            flusher.cancel()

    async def _flush_forever(self) -> None:
        while True:
            await self._clock.sleep(FLUSH_S)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - shadow reads go on; the window is offered again
                _log.exception("shadow statistics were not stored")

    async def _work(self) -> None:
        while True:
            item = await self._queue.get()
            try:
                if item is None:
                    return
                self._queued_records -= item.records
                await self._compare(item)
            finally:
                self._queue.task_done()

    async def _leave_room(self) -> None:
        """Compare nothing while a swap holds the writes: clients wait for every moment of it."""
        for _ in range(_HOLD_LOOKS_MAX):
            if not self._routing().hold:
                return
            await self._clock.sleep(_HOLD_LOOK_S)

    async def _compare(self, item: _Sampled) -> None:
        try:
            await self._leave_room()
            await self._compare_one(item)
        except asyncio.CancelledError:
            self._dropped(item)
            raise
        except Exception:  # noqa: BLE001 - one bad query must not end the worker; it is counted
            _log.exception("a shadow read failed", request_id=item.reading.request_id)
            self._count(item, GroupStats(inconclusive={"internal": 1}))
        finally:
            item.window.pending -= 1

    async def _compare_one(self, item: _Sampled) -> None:
        reading = item.reading
        question = Question.of(
            reading.query,
            self._stores["old"].schema,
            self._stores["new"].schema,
            by_rank=self._rankers.by_rank(reading.query),
        )
        beyond = self._rankers.beyond(reading.query, reading.candidate_store)
        if beyond:
            self._count(item, GroupStats(inconclusive={beyond: 1}), question.kind)
            return
        control = _served(reading, question)
        outcome = await self._investigator.investigate(question, control, reading.candidate_store)
        group = self._group(item, question, outcome)
        if _share(reading.request_id or item.at, "noise") < self._settings.noise_sample:
            noise = await self._investigator.noise(control, question)
            group += GroupStats() if noise is None else GroupStats(noise=Shares.of(noise))
        self._count(item, group, question.kind)

    def _group(self, item: _Sampled, question: Question, outcome: Outcome) -> GroupStats:
        request_id = item.reading.request_id
        if isinstance(outcome, Comparison):
            self._totals["compared"] += 1
            return of_comparison(outcome, sample_of(outcome, request_id=request_id, at=item.at))
        if isinstance(outcome, Failed):
            self._totals["failed"] += 1
            example = failure_of(
                question, outcome.error, outcome.message, request_id=request_id, at=item.at
            )
            return GroupStats(errors={outcome.error: 1}, failures=(example,))
        return GroupStats(inconclusive={outcome.reason: 1})

    def _count(self, item: _Sampled, group: GroupStats, kind: str = "unknown") -> None:
        reading = item.reading
        self._totals["inconclusive"] += sum(group.inconclusive.values())
        key = GroupKey(
            collection=reading.query.collection,
            kind=kind,
            control=reading.control_store,
            candidate=reading.candidate_store,
        )
        item.window.add(key, group)

    def _window_now(self) -> str:
        return window_name(self._routing().epoch, self._clock.now())


def _iso(at: dt.datetime) -> str:
    return at.isoformat(timespec="milliseconds")


def _records(reading: Reading) -> int:
    return max(len(reading.records), len(reading.search.hits) if reading.search else 0)


def _served(reading: Reading, question: Question) -> Answer:
    """Return the control's answer as it was served."""
    limit, store = reading.query.limit, reading.control_store
    if isinstance(reading.query, SearchQuery) and reading.search is not None:
        return Answer.of_search(store, reading.search, question, latency_ms=reading.latency_ms)
    return Answer.of_list(store, reading.records, limit=limit, latency_ms=reading.latency_ms)


def _share(identity: str, salt: str) -> float:
    """Return a stable number in 0..1 for an identity; each salt gives another one."""
    digest = hashlib.blake2b(f"{salt}:{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
