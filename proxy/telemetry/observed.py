"""A data plane that counts which store answered each read and why, and what became of writes."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.dataplane import (
    BatchItem,
    Counted,
    DataPlane,
    Found,
    Got,
    Listed,
    RequestContext,
    Served,
    WriteAck,
)
from proxy.model import Key, Write
from proxy.query import CountQuery, Filter, ListQuery, Projection, SearchQuery
from proxy.telemetry.metrics import Metrics


class ObservedDataPlane:
    """Wraps a data plane; satisfies the same Protocol. Failed calls are counted by the front."""

    def __init__(self, inner: DataPlane, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics

    async def write(self, write: Write, context: RequestContext) -> WriteAck:
        """See `DataPlane.write`."""
        ack = await self._inner.write(write, context)
        self._metrics.write(write.collection, _outcome(ack))
        return ack

    async def batch(
        self, writes: Sequence[Write], *, atomic: bool, context: RequestContext
    ) -> list[BatchItem]:
        """See `DataPlane.batch`."""
        items = await self._inner.batch(writes, atomic=atomic, context=context)
        for write, item in zip(writes, items, strict=True):
            if item.ack is not None:
                self._metrics.write(write.collection, _outcome(item.ack))
        return items

    async def delete_where(
        self, collection: str, filter: Filter, *, context: RequestContext
    ) -> int:
        """See `DataPlane.delete_where`."""
        deleted = await self._inner.delete_where(collection, filter, context=context)
        self._metrics.write(collection, "both", deleted)
        return deleted

    async def get(
        self, collection: str, keys: Sequence[Key], projection: Projection, context: RequestContext
    ) -> Got:
        """See `DataPlane.get`."""
        got = await self._inner.get(collection, keys, projection, context)
        self._read(collection, got.served)
        return got

    async def list_records(self, query: ListQuery, context: RequestContext) -> Listed:
        """See `DataPlane.list_records`."""
        listed = await self._inner.list_records(query, context)
        self._read(query.collection, listed.served)
        return listed

    async def count(self, query: CountQuery, context: RequestContext) -> Counted:
        """See `DataPlane.count`."""
        counted = await self._inner.count(query, context)
        self._read(query.collection, counted.served)
        return counted

    async def search(self, query: SearchQuery, context: RequestContext) -> Found:
        """See `DataPlane.search`."""
        found = await self._inner.search(query, context)
        self._read(query.collection, found.served)
        return found

    def _read(self, collection: str, served: Served) -> None:
        self._metrics.read(collection, served.store, served.reason)


def _outcome(ack: WriteAck) -> str:
    if ack.replayed:
        return "replayed"
    return "pending" if ack.secondary_pending else "both"
