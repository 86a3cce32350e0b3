"""The copy rule's bookkeeping in memory: snapshots, step 5, dirty keys, dead letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from proxy.errors import Unavailable
from proxy.ledger.memory_state import MemoryState, StoredClaim, StoredSnapshot
from proxy.ledger.types import CopyOutcome, CopySnapshot, DeadLetter, DirtyKey, RangeState
from proxy.model import Key

_SNAPSHOT_TTL_S = 60.0
_CLAIM_TTL_S = 25.0


class MemoryCopies:
    """`CopyLog` over a MemoryState."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def begin_copy(
        self, collection: str, *, copying: bool = True, keys: Collection[Key] = ()
    ) -> CopySnapshot:
        """See `CopyLog.begin_copy`."""
        state = self._state
        number = state.number()
        self._claim(number, collection, keys, _CLAIM_TTL_S)
        # Who claims a clean key has nothing to copy, and holds up nobody who looks at it.
        for key in keys:
            claim = state.claims.get((collection, key))
            if claim and claim.snapshot_id == number and (collection, key) not in state.dirty:
                del state.claims[collection, key]
        claims = self._claims(collection)
        state.snapshots[number] = StoredSnapshot(
            collection=collection,
            copying=copying,
            xid=state.xid,
            expires_s=state.clock.monotonic_s() + _SNAPSHOT_TTL_S,
        )
        in_flight = frozenset(
            intent.key
            for intent in state.intents.values()
            if intent.collection == collection and intent.settled_xid is None
        )
        return CopySnapshot(
            snapshot_id=number,
            collection=collection,
            in_flight=in_flight.union(key for key, by in claims.items() if by != number),
            claimed=frozenset(
                key
                for key, by in claims.items()
                if by == number and (collection, key) in state.dirty
            ),
        )

    def _claims(self, collection: str) -> dict[Key, int]:
        """Return who has claimed which keys."""
        now_s = self._state.clock.monotonic_s()
        return {
            key: claim.snapshot_id
            for (name, key), claim in self._state.claims.items()
            if name == collection and claim.expires_s > now_s
        }

    def _claim(self, number: int, collection: str, keys: Collection[Key], for_s: float) -> None:
        """Claim those of the keys that are nobody else's."""
        others = {key for key, by in self._claims(collection).items() if by != number}
        expires_s = self._state.clock.monotonic_s() + for_s
        for key in keys:
            if key not in others:
                self._state.claims[collection, key] = StoredClaim(number, expires_s)

    def _release(self, number: int) -> None:
        claims = self._state.claims
        for claimed in [item for item, claim in claims.items() if claim.snapshot_id == number]:
            del claims[claimed]

    async def finish_copy(
        self,
        snapshot: CopySnapshot,
        *,
        touched: Collection[Key],
        left_out: Collection[Key] = (),
        progress: RangeState | None = None,
    ) -> CopyOutcome:
        """See `CopyLog.finish_copy`."""
        state, collection = self._state, snapshot.collection
        seen = state.snapshots.pop(snapshot.snapshot_id, None)
        self._release(snapshot.snapshot_id)
        xid = state.commit()
        if seen is None or seen.expires_s <= state.clock.monotonic_s():
            for key in (*touched, *left_out):
                state.mark(collection, key, "copy outlived its snapshot", xid)
            raise Unavailable(
                "A copy took longer than its snapshot is good for (60 s); its keys are dirty.",
                where="ledger",
                hint="Use smaller batches (reconcile.batch_rows).",
            )
        newer = {
            intent.key
            for intent in state.intents.values()
            if intent.collection == collection and intent.xid > seen.xid
        }
        dirty = frozenset(left_out) | (newer & set(touched))
        for key in dirty:
            state.mark(collection, key, "written during a copy", xid)
        cleared = 0
        for key in set(touched):
            mark = state.dirty.get((collection, key))
            if mark is not None and mark.xid <= seen.xid:
                del state.dirty[collection, key]
                cleared += 1
        if progress is not None:
            stored = state.ranges[progress.job_id]
            stored[progress.collection, progress.number] = progress
        return CopyOutcome(dirty=dirty, cleared=cleared)

    async def abandon_copy(
        self, snapshot: CopySnapshot, *, written: Collection[Key] = (), late_s: float = 0.0
    ) -> None:
        """See `CopyLog.abandon_copy`."""
        self._state.snapshots.pop(snapshot.snapshot_id, None)
        self._release(snapshot.snapshot_id)
        if written:
            xid = self._state.commit()
            for key in written:
                self._state.mark(snapshot.collection, key, "copy interrupted", xid)
            self._claim(snapshot.snapshot_id, snapshot.collection, written, late_s)

    async def settled_since(self, snapshot: CopySnapshot, keys: Collection[Key]) -> frozenset[Key]:
        """See `CopyLog.settled_since`."""
        wanted, seen = frozenset(keys), self._state.snapshots.get(snapshot.snapshot_id)
        if seen is None or seen.expires_s <= self._state.clock.monotonic_s():
            return wanted
        return frozenset(
            intent.key
            for intent in self._state.intents.values()
            if intent.collection == snapshot.collection
            and intent.key in wanted
            and (intent.settled_xid is None or intent.xid > seen.xid)
        )

    async def dirty_keys(self, collection: str, *, limit: int) -> list[DirtyKey]:
        """See `CopyLog.dirty_keys`."""
        found = [
            DirtyKey(collection=collection, key=key, reason=mark.reason, since=mark.since)
            for (name, key), mark in self._state.dirty.items()
            if name == collection
        ]
        return sorted(found, key=lambda item: item.since)[:limit]

    async def add_dead_letters(
        self, job_id: int, collection: str, letters: Mapping[Key, str]
    ) -> None:
        """See `CopyLog.add_dead_letters`."""
        for key, reason in letters.items():
            known = self._state.letters.get((collection, key))
            self._state.letters[collection, key] = DeadLetter(
                letter_id=known.letter_id if known else self._state.number(),
                collection=collection,
                key=key,
                reason=reason,
                job_id=job_id,
                created_at=known.created_at if known else self._state.clock.now(),
            )

    async def dead_letters(self, *, limit: int = 1000) -> list[DeadLetter]:
        """See `CopyLog.dead_letters`."""
        return sorted(self._state.letters.values(), key=lambda item: item.letter_id)[:limit]

    async def resolve_dead_letters(
        self, collection: str, keys: Collection[Key], *, resolution: str
    ) -> int:
        """See `CopyLog.resolve_dead_letters`; `resolution` is kept only by a durable ledger."""
        del resolution
        return sum(self._state.letters.pop((collection, key), None) is not None for key in keys)
