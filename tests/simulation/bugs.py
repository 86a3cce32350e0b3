"""Planted bugs: each takes one rule out of the product, and some checker must notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from proxy.control.preconditions import conditions
from proxy.control.switch import Switch
from proxy.dataplane import BatchItem, RequestContext, WriteAck
from proxy.dual_write.attempt import Item, answer, settlement
from proxy.dual_write.outcome import dirty_reason
from proxy.dual_write.submission import Submission
from proxy.dual_write.tasks import OwnedTasks
from proxy.dual_write.writer import DualWriter
from proxy.errors import CrossfadeError
from proxy.ledger.memory_copies import MemoryCopies
from proxy.ledger.memory_intents import MemoryIntents
from proxy.ledger.memory_routing import MemoryRouting
from proxy.ledger.types import CopySnapshot, Phase, Routing, Settlement
from proxy.model import Key, Write
from proxy.read_path import ReadPath
from proxy.routing.flags import RoutingProvider
from proxy.routing.member import Membership, Ticket
from proxy.routing.phases import secondary_of, writes_both
from proxy.stores.base import RangeDigest
from reconcile.backfill import Backfill
from reconcile.bench import Bench
from reconcile.compare import Comparer
from reconcile.ranges import remaining
from reconcile.roles import Pair
from reconcile.snapshot import OpenCopy
from reconcile.writing import SecondaryWriter

Patches = Iterator[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """A planted bug. `patches` makes what is patched for as long as it is planted."""

    name: str
    patches: Callable[[], Patches]


@contextmanager
def planted(bug: Bug | None) -> Iterator[None]:
    """Run with a bug, or without any."""
    with ExitStack() as stack:
        for patch in bug.patches() if bug is not None else ():
            stack.enter_context(patch)
        yield


# Reads.


def _skip_the_fence() -> Patches:
    async def fence(
        self: ReadPath, routing: Routing, collection: str, keys: Sequence[Key]
    ) -> tuple[str, frozenset[Key], str]:
        return secondary_of(routing), frozenset(), "routed"

    yield mock.patch.object(ReadPath, "_fence", fence)


def _routing_by_percent_and_key() -> Patches:
    def answered(self: RoutingProvider, targeting_key: str) -> bool:
        percent = self._routing().percent
        return self._buckets.within(f"{targeting_key}/{percent:g}", percent)

    yield mock.patch.object(RoutingProvider, "answer", answered)


# Writes.


def _settle_before_the_write() -> Patches:
    original = DualWriter._write_stores

    async def write_stores(
        self: DualWriter,
        items: list[Item],
        submission: Submission,
        ticket: Ticket,
        *,
        dual: bool,
    ) -> None:
        due = [item.intent for item in items if item.intent is not None and not item.replayed]
        await self._parts.ledger.settle([Settlement(intent=one, clean=True) for one in due])
        await original(self, items, submission, ticket, dual=dual)

    def forget(settlements: Sequence[Settlement], **_: float) -> None:
        """They were settled before."""

    yield mock.patch.object(DualWriter, "_write_stores", write_stores)
    yield mock.patch.object(
        DualWriter, "_settle", lambda self, items, ticket, *, dual: forget(items)
    )


def _a_failed_secondary_is_clean() -> Patches:
    def reason(op: Any, primary: Any, secondary: Any) -> str:
        told = dirty_reason(op, primary, secondary)
        return "" if primary.error is None else told

    yield mock.patch("proxy.dual_write.attempt.dirty_reason", reason)


def _a_refused_write_is_clean() -> Patches:
    def reason(op: Any, primary: Any, secondary: Any) -> str:
        told = dirty_reason(op, primary, secondary)
        return "" if primary.error is not None and not primary.uncertain else told

    yield mock.patch("proxy.dual_write.attempt.dirty_reason", reason)


def _a_failed_primary_is_acknowledged() -> Patches:
    def always(item: Item, *, dual: bool) -> BatchItem:
        told = answer(item, dual=dual)
        if told.error is not None and item.primary.error is not None and item.write is not None:
            return BatchItem(ack=WriteAck(key=item.write.key))
        return told

    yield mock.patch("proxy.dual_write.writer.answer", always)


def _a_cancelled_request_stops_its_write() -> Patches:
    started: dict[asyncio.Task[Any] | None, asyncio.Task[Any]] = {}
    start, submit, settle = OwnedTasks.start, DualWriter.submit, DualWriter._settle

    def start_and_tell(self: OwnedTasks, work: Any, *, name: str) -> None:
        before = set(self._running)
        start(self, work, name=name)
        (started[asyncio.current_task()],) = self._running - before

    async def submit_and_stop(
        self: DualWriter,
        writes: Sequence[Write],
        *,
        atomic: bool,
        context: RequestContext,
        **more: Any,
    ) -> list[BatchItem]:
        try:
            return await submit(self, writes, atomic=atomic, context=context, **more)
        except asyncio.CancelledError:
            started[asyncio.current_task()].cancel()
            raise
        finally:
            started.pop(asyncio.current_task(), None)

    def settle_clean(self: DualWriter, items: list[Item], ticket: Ticket, *, dual: bool) -> None:
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            settle(self, items, ticket, dual=dual)
            return
        closed = [settlement(item, dual=dual) for item in items if item.intent is not None]
        self._parts.settle.add([replace(item, clean=True, reason="") for item in closed])

    yield mock.patch.object(OwnedTasks, "start", start_and_tell)
    yield mock.patch.object(DualWriter, "submit", submit_and_stop)
    yield mock.patch.object(DualWriter, "_settle", settle_clean)


def _no_lease_check() -> Patches:
    def as_wanted(self: DualWriter, wanted_s: float) -> float:
        return wanted_s

    yield mock.patch.object(DualWriter, "_lease_over", return_value=False)
    yield mock.patch.object(DualWriter, "_deadline_s", as_wanted)
    yield mock.patch.object(Membership, "lease_left_s", return_value=1000.0)


def _late_writes_are_settled_at_once() -> Patches:
    def settle(self: DualWriter, items: list[Item], ticket: Ticket, *, dual: bool) -> None:
        closed = [settlement(item, dual=dual) for item in items if item.intent is not None]
        self._parts.settle.add(closed)

    yield mock.patch.object(DualWriter, "_settle", settle)


def _new_primary_writes_one_store() -> Patches:
    def both(phase: Phase) -> bool:
        return writes_both(phase) and phase is not Phase.NEW_PRIMARY

    yield mock.patch("proxy.dual_write.writer.writes_both", both)


# The ledger.


def _no_overlap_detection() -> Patches:
    def reason(self: MemoryIntents, item: Settlement) -> str:
        if not item.clean:
            return item.reason
        mine = self._state.intents.get(item.intent.seq)
        return "taken over" if mine is None or mine.settled_xid is not None else ""

    yield mock.patch.object(MemoryIntents, "_dirty_reason", reason)


def _finish(change: Callable[[MemoryCopies, CopySnapshot, Sequence[Key]], None]) -> Patches:
    original = MemoryCopies.finish_copy

    async def finish_copy(
        self: MemoryCopies, snapshot: CopySnapshot, *, touched: Any, **more: Any
    ) -> Any:
        change(self, snapshot, touched)
        return await original(self, snapshot, touched=touched, **more)

    yield mock.patch.object(MemoryCopies, "finish_copy", finish_copy)


def _copy_without_step_2() -> Patches:
    original = MemoryCopies.begin_copy

    async def begin_copy(self: MemoryCopies, collection: str, **more: Any) -> CopySnapshot:
        begun = await original(self, collection, **more)
        others = {key for key, by in self._claims(collection).items() if by != begun.snapshot_id}
        return replace(begun, in_flight=frozenset(others))

    yield mock.patch.object(MemoryCopies, "begin_copy", begin_copy)


def _copy_without_step_5() -> Patches:
    def see_everything(self: MemoryCopies, snapshot: CopySnapshot, touched: Sequence[Key]) -> None:
        seen = self._state.snapshots.get(snapshot.snapshot_id)
        if seen is not None:
            for item in self._state.intents.values():
                if item.key in touched:
                    item.xid = min(item.xid, seen.xid)

    return _finish(see_everything)


def _clear_dirty_too_early() -> Patches:
    original = MemoryCopies.begin_copy

    async def begin_copy(self: MemoryCopies, collection: str, **more: Any) -> CopySnapshot:
        begun = await original(self, collection, **more)
        for key in begun.claimed:
            self._state.dirty.pop((collection, key), None)
        return begun

    yield mock.patch.object(MemoryCopies, "begin_copy", begin_copy)


def _two_copies_of_a_key_at_once() -> Patches:
    def everything(
        self: MemoryCopies, number: int, collection: str, keys: Any, for_s: float
    ) -> None:
        """Claim nothing."""

    original = OpenCopy.__init__

    def claims_all(self: OpenCopy, *arguments: Any, **more: Any) -> None:
        original(self, *arguments, **more)
        self.claimed = _All(self.in_flight)  # type: ignore[assignment]  # holds every key

    yield mock.patch.object(MemoryCopies, "_claim", everything)
    yield mock.patch.object(OpenCopy, "__init__", claims_all)


class _All:
    """Every key but some."""

    def __init__(self, but: frozenset[Key]) -> None:
        self._but = but

    def __contains__(self, key: Key) -> bool:
        return key not in self._but


# The swap and the steps.


def _swap_without_draining() -> Patches:
    async def nothing(self: Switch, held: Routing, limit_s: float) -> None:
        """Nobody is waited for."""

    yield mock.patch.object(MemoryRouting, "_require_drained")
    yield mock.patch.object(Switch, "_stop_writing", nothing)


def _acknowledge_too_early() -> Patches:
    yield mock.patch.object(Membership, "_older_than", return_value=False)


def _steps_without_preconditions() -> Patches:
    def fine(*arguments: Any) -> Any:
        return [replace(item, passed=True) for item in conditions(*arguments)]

    yield mock.patch("proxy.control.service.conditions", fine)


# The reconciler.


def _backfill_skips_after_resume() -> Patches:
    walk = Backfill._walk

    async def skip(self: Backfill, roles: Any) -> None:
        ledger = self._bench.ledger
        for state in await ledger.ranges(self._run.job_id):
            begun = remaining(state).after != state.keys.after
            if begun and not state.done:
                await ledger.save_range(replace(state, done=True))
        await walk(self, roles)

    yield mock.patch.object(Backfill, "_walk", skip)


def _backfill_before_everybody_follows() -> Patches:
    async def acknowledged(self: Bench, check: Callable[[], None]) -> Routing:
        return await self.ledger.routing()

    yield mock.patch.object(Bench, "acknowledged", acknowledged)


def _verify_counts_only() -> Patches:
    async def digest(self: Comparer, store: Any, keys: Any) -> RangeDigest:
        return RangeDigest(rows=len(await self._key_digests(store, keys)), sum=0)

    yield mock.patch.object(Comparer, "_digest", digest)


def _verify_does_not_look_twice() -> Patches:
    async def look(
        self: Comparer, keys: Sequence[Key], found: Any, *, made_vectors: bool
    ) -> list[Key]:
        here = await self._read(self._pair.primary, keys, vectors=False)
        there = await self._read(self._pair.secondary, keys, vectors=False)
        for key in keys:
            differs = self._difference(key, here, there)
            if differs is not None:
                found.declare(differs)
        return []

    yield mock.patch.object(Comparer, "_look", look)


def _repair_never_deletes() -> Patches:
    store = SecondaryWriter.store

    async def keep(
        self: SecondaryWriter, pair: Pair, records: Any, deletes: Sequence[Key], **more: Any
    ) -> Any:
        stored = await store(self, pair, records, (), **more)
        stored.touched.update(deletes)
        return stored

    yield mock.patch.object(SecondaryWriter, "store", keep)


def _a_copy_that_fails_is_forgotten() -> Patches:
    async def give_up(self: OpenCopy) -> bool:
        with suppress(CrossfadeError):
            await self._ledger.abandon_copy(self.snapshot)
        return True

    yield mock.patch.object(OpenCopy, "give_up", give_up)


BUGS: tuple[Bug, ...] = tuple(
    Bug(name=name, patches=patches)
    for name, patches in (
        ("skip the fence", _skip_the_fence),
        ("routing that changes with the percentage", _routing_by_percent_and_key),
        ("settle before the write", _settle_before_the_write),
        ("a failed secondary counts as clean", _a_failed_secondary_is_clean),
        ("a refused write counts as clean", _a_refused_write_is_clean),
        ("acknowledge although the primary failed", _a_failed_primary_is_acknowledged),
        ("ignore a cancelled request", _a_cancelled_request_stops_its_write),
        ("no lease check", _no_lease_check),
        ("late writes settled at once", _late_writes_are_settled_at_once),
        ("new_primary writes one store", _new_primary_writes_one_store),
        ("no overlap detection", _no_overlap_detection),
        ("copy without the watermark (step 2)", _copy_without_step_2),
        ("copy without step 5", _copy_without_step_5),
        ("clear dirty too early", _clear_dirty_too_early),
        ("two copies of a key at once", _two_copies_of_a_key_at_once),
        ("a copy that is given up is forgotten", _a_copy_that_fails_is_forgotten),
        ("swap without draining", _swap_without_draining),
        ("acknowledge an epoch too early", _acknowledge_too_early),
        ("steps without preconditions", _steps_without_preconditions),
        ("backfill skips after resume", _backfill_skips_after_resume),
        ("backfill before everybody follows", _backfill_before_everybody_follows),
        ("verify counts rows only", _verify_counts_only),
        ("verify does not look twice", _verify_does_not_look_twice),
        ("repair never deletes", _repair_never_deletes),
    )
)

QUICK = frozenset(
    {
        "routing that changes with the percentage",
        "settle before the write",
        "acknowledge although the primary failed",
        "ignore a cancelled request",
        "new_primary writes one store",
        "clear dirty too early",
        "steps without preconditions",
        "verify counts rows only",
        "verify does not look twice",
        "repair never deletes",
    }
)
"""Those that a handful of seeds is enough for: a part of every test run."""
