"""Intents in memory: append, settle, fence, sweep, prune."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from proxy.errors import LeaseLost, Reason, Rejected, StaleEpoch, Unavailable
from proxy.ledger.memory_state import MemoryState, StoredAnswer, StoredIntent
from proxy.ledger.types import Intent, IntentDraft, Settlement
from proxy.model import JsonValue, Key

_EXPIRED_KEPT_S = 30.0
"""A copy that is ending as its time runs out is judged by its snapshot still."""


class MemoryIntents:
    """`IntentLog` over a MemoryState."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def append(
        self, drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        """See `IntentLog.append`."""
        state = self._state
        if state.routing.epoch != epoch or state.routing.hold:
            raise StaleEpoch(f"The routing of epoch {epoch} is no longer in force.", where="ledger")
        replica = state.replicas.get(replica_id)
        if replica is None or not state.alive(replica):
            raise LeaseLost("This replica's lease has run out.", where="ledger")
        seen: dict[str, str] = {}
        for draft in drafts:
            self._check_idempotency(draft, seen)
        snapshot, xid = state.xid, state.commit()
        return [self._append(draft, replica_id, snapshot, xid) for draft in drafts]

    def _check_idempotency(self, draft: IntentDraft, seen: dict[str, str]) -> None:
        """Refuse a reused or busy key. `seen`: digests by key of the drafts before this one."""
        idem = draft.idempotency_key
        if not idem:
            return
        known, twice = self._state.answers.get(idem), idem in seen
        digest = known.digest if known else seen.setdefault(idem, draft.request_digest)
        seen[idem] = digest
        if digest != draft.request_digest:
            raise _reused(idem)
        unanswered = known is None or known.answer is None
        elsewhere = known is not None and known.key != draft.key
        if unanswered and (twice or elsewhere or self._under_way(idem)):
            raise Unavailable(
                f"The first try with idempotency key {idem!r} has not ended yet.",
                where="proxy",
                hint="Retry in a moment with the same key.",
            )

    def _under_way(self, idem: str) -> bool:
        return any(
            intent.idem == idem and intent.settled_xid is None
            for intent in self._state.intents.values()
        )

    def _append(self, draft: IntentDraft, replica_id: str, snapshot: int, xid: int) -> Intent:
        state, idem = self._state, draft.idempotency_key
        known = state.answers.get(idem) if idem else None
        earlier = known.answer if known else None
        seq = 0
        if earlier is None:
            seq = state.number()
            state.intents[seq] = StoredIntent(
                seq=seq,
                collection=draft.collection,
                key=draft.key,
                replica_id=replica_id,
                idem=idem,
                xid=xid,
                snapshot=snapshot,
            )
            if idem and known is None:
                state.answers[idem] = StoredAnswer(digest=draft.request_digest, key=draft.key)
        return Intent(
            seq=seq,
            collection=draft.collection,
            key=draft.key,
            snapshot=str(snapshot),
            replica_id=replica_id,
            idempotency_key=idem,
            earlier=earlier,
            resumed=known is not None and earlier is None,
        )

    async def recall(self, idempotency_key: str) -> Key | None:
        """See `IntentLog.recall`."""
        known = self._state.answers.get(idempotency_key)
        return known.key if known else None

    async def answered(
        self, idempotency_key: str, request_digest: str
    ) -> Mapping[str, JsonValue] | None:
        """See `IntentLog.answered`."""
        known = self._state.answers.get(idempotency_key)
        if known is not None and known.digest != request_digest:
            raise _reused(idempotency_key)
        return known.answer if known else None

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """See `IntentLog.settle`."""
        state = self._state
        if not settlements:
            return
        xid = state.commit()
        for item in settlements:
            reason = self._dirty_reason(item)
            if reason:
                state.mark(item.intent.collection, item.intent.key, reason, xid)
        for item in settlements:
            if item.answer and item.intent.idempotency_key in state.answers:
                state.answers[item.intent.idempotency_key].answer = dict(item.answer)
        undone = [item.intent for item in settlements if item.forget]
        for intent in filter(self._is_open, undone):
            known = state.answers.get(intent.idempotency_key)
            if known is not None and known.answer is None:
                del state.answers[intent.idempotency_key]
        for item in settlements:
            if self._is_open(item.intent):
                state.intents[item.intent.seq].settled_xid = xid

    def _is_open(self, intent: Intent) -> bool:
        mine = self._state.intents.get(intent.seq)
        return mine is not None and mine.settled_xid is None

    def _dirty_reason(self, item: Settlement) -> str:
        if not item.clean:
            return item.reason
        mine = self._state.intents.get(item.intent.seq)
        if mine is None or mine.settled_xid is not None:
            return "taken over"
        overlapped = any(
            other.collection == mine.collection
            and other.key == mine.key
            and other.seq != mine.seq
            and other.replica_id != mine.replica_id
            and (other.settled_xid is None or other.settled_xid > mine.snapshot)
            for other in self._state.intents.values()
        )
        return "overlapping writes" if overlapped else ""

    async def fenced(self, collection: str, keys: Collection[Key]) -> frozenset[Key]:
        """See `IntentLog.fenced`."""
        wanted = set(keys)
        unsettled = {
            intent.key
            for intent in self._state.intents.values()
            if intent.collection == collection and intent.settled_xid is None
        }
        return frozenset(
            key for key in wanted if key in unsettled or (collection, key) in self._state.dirty
        )

    async def mark_dirty(self, collection: str, keys: Collection[Key], *, reason: str) -> None:
        """See `IntentLog.mark_dirty`."""
        xid = self._state.commit()
        for key in keys:
            self._state.mark(collection, key, reason, xid)

    async def unsettled(self, collection: str | None = None) -> int:
        """See `IntentLog.unsettled`."""
        return sum(
            intent.settled_xid is None and collection in (None, intent.collection)
            for intent in self._state.intents.values()
        )

    async def dirty_counts(self) -> dict[str, int]:
        """See `IntentLog.dirty_counts`."""
        counts: dict[str, int] = {}
        for collection, _ in self._state.dirty:
            counts[collection] = counts.get(collection, 0) + 1
        return counts

    async def sweep(self) -> int:
        """See `IntentLog.sweep`."""
        state, taken = self._state, 0
        for replica in state.replicas.values():
            replica.swept = replica.swept or replica.clean_exit or not state.alive(replica)
        live = {item.replica_id for item in state.replicas.values() if not item.swept}
        xid = state.commit()
        for intent in state.intents.values():
            if intent.settled_xid is None and intent.replica_id not in live:
                intent.settled_xid = xid
                state.mark(intent.collection, intent.key, "left by a dead replica", xid)
                taken += 1
        return taken

    async def prune(self) -> int:
        """See `IntentLog.prune`."""
        state = self._state
        now_s = state.clock.monotonic_s()
        horizon = min(
            [state.xid]
            + [item.snapshot for item in state.intents.values() if item.settled_xid is None]
            + [
                item.xid
                for item in state.snapshots.values()
                if item.expires_s + _EXPIRED_KEPT_S > now_s
            ]
        )
        old = [
            intent.seq
            for intent in state.intents.values()
            if intent.settled_xid is not None and intent.settled_xid <= horizon
        ]
        for seq in old:
            del state.intents[seq]
        return len(old)


def _reused(idem: str) -> Rejected:
    return Rejected(
        f"Idempotency key {idem!r} was used for another request.",
        reason=Reason.FAILED_PRECONDITION,
        hint="Use a new key for every new request.",
    )
