"""Repair: bring every dirty key to the primary's state, parents first, until none is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.config.settings import LATE_WRITE_S
from proxy.errors import Rejected
from proxy.ledger.types import DirtyKey
from proxy.model import JsonValue, Key
from reconcile.batch import Copied
from reconcile.bench import Bench, Check
from reconcile.checkpoint import JobRun
from reconcile.copy import Copier
from reconcile.letters import DeadLetters
from reconcile.params import ROUNDS_MAX, JobParams
from reconcile.ranges import BatchSize, parents_first
from reconcile.roles import Pair, RolesChanged
from reconcile.snapshot import TooSlow
from reconcile.tasks import sleep_watched

ACTOR = "reconciler"

VERIFY_REASON = "verify: "
"""Dirty marks that verify sets begin with this; a repair of one calls for a new verify."""

RETRY_S_MIN = 0.05
RETRY_S_MAX = 5.0
"""A key that could not be repaired is tried again after this long, doubling each time."""

WAITING_MAX = 100_000
"""Keys of a collection whose next try is remembered; beyond that all are tried each round."""

ROUND_PAUSE_S = 0.01
"""Pause before the next round when the last one could repair nothing (keys in flight)."""

ROUND_PAUSE_S_MAX = 1.0

FRUITLESS_ROUNDS_MAX = 5
"""After this many rounds in a row without a repair, what is left needs a person or more time."""

IN_FLIGHT_S_MAX = LATE_WRITE_S + 1.0
"""So long it waits for keys in flight: another process may have given up a copy of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What repair did.

    Attributes:
        from_verify: repaired keys that verify had found different.
        left: keys that could not be repaired (dead letters, missing parents, children in the way).
        in_flight: keys that live writes were busy with.
    """

    repaired: int = 0
    deleted: int = 0
    bytes: int = 0
    from_verify: int = 0
    left: int = 0
    in_flight: int = 0

    def plus(self, other: Repaired) -> Repaired:
        """Add up what was done; what is left is the later one's."""
        return Repaired(
            repaired=self.repaired + other.repaired,
            deleted=self.deleted + other.deleted,
            bytes=self.bytes + other.bytes,
            from_verify=self.from_verify + other.from_verify,
            left=other.left,
            in_flight=other.in_flight,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wait:
    """When a key that could not be repaired is tried again."""

    until_s: float
    pause_s: float


class Repair:
    """Repairs dirty keys by the copy rule. One object per job, or per process in `serve`."""

    def __init__(self, bench: Bench, *, job_id: int, check: Check) -> None:
        self._bench = bench
        self._check = check
        self._letters = DeadLetters(bench.ledger, job_id)
        self._copier: Copier = bench.copier(self._letters)
        self._waits: dict[str, dict[Key, _Wait]] = {}
        self._letters_loaded = False
        self._sizes: dict[str, BatchSize] = {}

    async def until_clean(self, collections: Sequence[str], *, rounds_max: int) -> Repaired:
        """Repair until no key is dirty, or nothing more can be done, at most `rounds_max` rounds.

        Raises:
            Rejected(FAILED_PRECONDITION): the phase writes to one store only.
        """
        total, fruitless, waited_s = Repaired(), 0, 0.0
        for _ in range(rounds_max):
            if not await self._dirty(collections):
                return replace(total, left=0, in_flight=0)
            done = await self.round(collections)
            total = total.plus(done)
            fruitless = 0 if done.repaired else fruitless + 1
            late_s = self._bench.late.wait_s()
            if fruitless and late_s:
                await self._bench.clock.sleep(late_s)
                continue
            patient = done.in_flight and waited_s < IN_FLIGHT_S_MAX
            if fruitless >= FRUITLESS_ROUNDS_MAX and not patient:
                break
            if fruitless:
                pause_s = min(ROUND_PAUSE_S_MAX, ROUND_PAUSE_S * 2**fruitless)
                waited_s += pause_s
                await self._bench.clock.sleep(pause_s)
        left = sum((await self._dirty(collections)).values())
        return replace(total, left=max(0, left - total.in_flight))

    async def _dirty(self, collections: Sequence[str]) -> dict[str, int]:
        counts = await self._bench.retry(self._bench.ledger.dirty_counts, self._check)
        return {
            name: count
            for name, count in counts.items()
            if count and (not collections or name in collections)
        }

    async def round(self, collections: Sequence[str] = ()) -> Repaired:
        """Try every dirty key that is due once, parents first; note what was repaired."""
        roles = await self._bench.roles()
        counts = await self._dirty(collections)
        known = roles.primary.schema.collections
        names = [
            name
            for name in parents_first(known, collections)
            if name in counts and self._any_due(name, counts[name])
        ]
        self._letters_loaded = False
        total = Repaired()
        pairs = await self._bench.pairs(roles, names)
        self._bench.vectors.require([pair.scope for pair in pairs.values()])
        try:
            for pair in pairs.values():
                total = total.plus(await self._collection(pair))
        except RolesChanged:
            # The next round works under the new roles; these keys are still dirty.
            return total
        return total

    async def _collection(self, pair: Pair) -> Repaired:
        """Try each dirty key of a collection at most once, as many as there are at the start.

        Only keys that are still dirty are remembered, so a long outage's worth of them is walked
        in bounded memory; a key that is written dirty again and again waits for the next round.
        """
        tried: set[Key] = set()
        total = Repaired()
        left = (await self._dirty((pair.name,))).get(pair.name, 0)
        while True:
            self._check()
            size = self._size(pair.name)
            limit = size.limit()
            found = await self._bench.ledger.dirty_keys(pair.name, limit=limit + len(tried))
            tried &= {item.key for item in found}
            todo = [item for item in found if item.key not in tried][: min(limit, left)]
            if not todo:
                self._forget_others(pair.name, {item.key for item in found})
                return total
            left -= len(todo)
            tried.update(item.key for item in todo)
            due = [item for item in todo if self._due(pair.name, item.key)]
            if due:
                total = total.plus(await self._batch(pair, due, size))

    async def _batch(self, pair: Pair, due: Sequence[DirtyKey], size: BatchSize) -> Repaired:
        keys = [item.key for item in due]
        if not self._letters_loaded:
            await self._bench.retry(self._letters.load, self._check)
            self._letters_loaded = True
        began_s = self._bench.clock.monotonic_s()
        try:
            copied = await self._copy(pair, keys)
        except TooSlow:
            self._sizes[pair.name] = size.too_slow()
            raise
        took_s = self._bench.clock.monotonic_s() - began_s
        self._sizes[pair.name] = size.after(copied.rows, copied.bytes, took_s)
        self._postpone(pair.name, keys, copied.left)
        verified = {item.key for item in due if item.reason.startswith(VERIFY_REASON)}
        return Repaired(
            repaired=copied.stored,
            deleted=copied.deleted,
            bytes=copied.bytes,
            from_verify=len(verified - copied.left),
            left=len(copied.left),
            in_flight=copied.in_flight,
        )

    async def _copy(self, pair: Pair, keys: Sequence[Key]) -> Copied:
        """Copy a batch; a store that refuses the batch as a whole is asked key by key."""

        async def once() -> Copied:
            return await self._copier.copy_keys(pair, keys)

        try:
            return await self._bench.retry(once, self._check)
        except Rejected as error:
            if len(keys) == 1:
                await self._letters.add(pair.name, {keys[0]: str(error)})
                return Copied(collection=pair.name, rows=1, dead=1, left=frozenset(keys))
        middle = len(keys) // 2
        return _joined(await self._copy(pair, keys[:middle]), await self._copy(pair, keys[middle:]))

    def _size(self, collection: str) -> BatchSize:
        settings = self._bench.settings
        fresh = BatchSize(rows_max=settings.batch_rows, bytes_max=settings.batch_bytes_max)
        return self._sizes.get(collection, fresh)

    def _forget_others(self, collection: str, dirty: set[Key]) -> None:
        """Drop what is remembered of keys that are not dirty any more."""
        waits = self._waits.get(collection, {})
        for key in waits.keys() - dirty:
            del waits[key]

    def _any_due(self, collection: str, dirty: int) -> bool:
        """False if every dirty key is known to wait, so that they need not be listed."""
        waits = self._waits.get(collection, {})
        now_s = self._bench.clock.monotonic_s()
        return dirty != len(waits) or any(wait.until_s <= now_s for wait in waits.values())

    def _due(self, collection: str, key: Key) -> bool:
        wait = self._waits.get(collection, {}).get(key)
        return wait is None or wait.until_s <= self._bench.clock.monotonic_s()

    def _postpone(self, collection: str, keys: Sequence[Key], left: frozenset[Key]) -> None:
        waits = self._waits.setdefault(collection, {})
        now_s = self._bench.clock.monotonic_s()
        for key in keys:
            last = waits.pop(key, None)
            if key in left and len(waits) < WAITING_MAX:
                pause_s = RETRY_S_MIN if last is None else min(RETRY_S_MAX, last.pause_s * 2)
                waits[key] = _Wait(until_s=now_s + pause_s, pause_s=pause_s)


def _joined(first: Copied, second: Copied) -> Copied:
    """Add up two halves of a batch."""
    return replace(
        first,
        rows=first.rows + second.rows,
        bytes=first.bytes + second.bytes,
        stored=first.stored + second.stored,
        deleted=first.deleted + second.deleted,
        in_flight=first.in_flight + second.in_flight,
        dead=first.dead + second.dead,
        resolved=first.resolved + second.resolved,
        left=first.left | second.left,
    )


async def repair_job(bench: Bench, run: JobRun, params: JobParams) -> None:
    """Repair until nothing is dirty, or with `continuous` until the job is stopped."""
    repair = Repair(bench, job_id=run.job_id, check=run.check)
    run.progress.stage = "repair"
    total = Repaired()
    while True:
        done = await repair.until_clean(params.collections, rounds_max=ROUNDS_MAX)
        total = total.plus(done)
        run.progress.facts.update(
            rows=total.repaired,
            repaired=total.repaired,
            deleted=total.deleted,
            bytes=total.bytes,
            left=total.left,
            in_flight=total.in_flight,
        )
        if done.repaired:
            await note_repair(bench, done)
        if not params.continuous:
            break
        await sleep_watched(bench.clock, params.interval_s, run.check)
    run.progress.stage = "done"


async def note_repair(bench: Bench, done: Repaired) -> None:
    """Store that something was repaired: a verify before this says nothing about it."""
    value: JsonValue = {
        "at": bench.clock.now().isoformat(),
        "repaired": done.repaired,
        "from_verify": done.from_verify,
    }
    await bench.ledger.set_flag("last_repair", value, actor=ACTOR, reason="repair")
