"""The write path's side of the ledger, reporting each call and counting intents."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from proxy.ledger.base import IntentLog
from proxy.ledger.types import Intent, IntentDraft, Settlement
from proxy.model import JsonValue, Key
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.probe import Probe
from proxy.telemetry.traces import Tracing


class InstrumentedIntents:
    """Wraps an `IntentLog`; satisfies the same Protocol."""

    def __init__(self, inner: IntentLog, tracing: Tracing, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics
        self._probe = Probe(
            target="ledger", tracing=tracing, record=metrics.ledger_call, shared=True
        )

    async def append(
        self, drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        """See `IntentLog.append`. An intent that answers from an earlier one is not counted."""
        collection = drafts[0].collection if drafts else ""
        work = self._inner.append(drafts, epoch=epoch, replica_id=replica_id)
        intents = await self._probe.call("append", collection, work)
        self._metrics.appended(sum(intent.earlier is None for intent in intents))
        return intents

    async def recall(self, idempotency_key: str) -> Key | None:
        """See `IntentLog.recall`."""
        return await self._probe.call("recall", "", self._inner.recall(idempotency_key))

    async def answered(
        self, idempotency_key: str, request_digest: str
    ) -> Mapping[str, JsonValue] | None:
        """See `IntentLog.answered`."""
        return await self._probe.call(
            "answered", "", self._inner.answered(idempotency_key, request_digest)
        )

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """See `IntentLog.settle`. What overlapped is known to the ledger alone, so it counts
        here as what this replica asked for.
        """
        await self._probe.call("settle", "", self._inner.settle(settlements))
        clean = sum(settlement.clean for settlement in settlements)
        self._metrics.settled(clean=clean, dirty=len(settlements) - clean)

    async def fenced(self, collection: str, keys: Collection[Key]) -> frozenset[Key]:
        """See `IntentLog.fenced`."""
        return await self._probe.call("fenced", collection, self._inner.fenced(collection, keys))

    async def mark_dirty(self, collection: str, keys: Collection[Key], *, reason: str) -> None:
        """See `IntentLog.mark_dirty`."""
        work = self._inner.mark_dirty(collection, keys, reason=reason)
        await self._probe.call("mark_dirty", collection, work)

    async def unsettled(self, collection: str | None = None) -> int:
        """See `IntentLog.unsettled`."""
        work = self._inner.unsettled(collection)
        return await self._probe.call("unsettled", collection or "", work)

    async def dirty_counts(self) -> dict[str, int]:
        """See `IntentLog.dirty_counts`."""
        return await self._probe.call("dirty_counts", "", self._inner.dirty_counts())

    async def sweep(self) -> int:
        """See `IntentLog.sweep`."""
        return await self._probe.call("sweep", "", self._inner.sweep())

    async def prune(self) -> int:
        """See `IntentLog.prune`."""
        return await self._probe.call("prune", "", self._inner.prune())
