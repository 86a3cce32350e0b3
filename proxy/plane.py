"""The data plane put together from the write path and the read path."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.dataplane import (
    BatchItem,
    Counted,
    Found,
    Got,
    Listed,
    RequestContext,
    WriteAck,
)
from proxy.dual_write.deletes import Deletes
from proxy.dual_write.writer import DualWriter
from proxy.errors import CrossfadeError, RolledBack
from proxy.model import Key, Write, WriteOp
from proxy.query import CountQuery, Filter, ListQuery, Projection, SearchQuery
from proxy.read_path import ReadPath


class Plane:
    """`DataPlane` over a DualWriter and a ReadPath."""

    def __init__(self, writer: DualWriter, deletes: Deletes, reader: ReadPath) -> None:
        self._writer = writer
        self._deletes = deletes
        self._reader = reader

    async def write(self, write: Write, context: RequestContext) -> WriteAck:
        """See `DataPlane.write`."""
        if write.op is WriteOp.DELETE and self._deletes.has_children(write.collection):
            return await self._deletes.delete_tree(write.collection, write.key, context=context)
        (item,) = await self._writer.submit([write], atomic=True, context=context)
        if item.ack is None:
            raise item.error or CrossfadeError("a write ended without an answer")
        return item.ack

    async def batch(
        self, writes: Sequence[Write], *, atomic: bool, context: RequestContext
    ) -> list[BatchItem]:
        """See `DataPlane.batch`; a parent in a batch is deleted only if it has no children left."""
        items = await self._writer.submit(writes, atomic=atomic, context=context)
        if atomic:
            errors = [item.error for item in items if item.error is not None]
            causes = [error for error in errors if not isinstance(error, RolledBack)]
            if errors:
                raise (causes or errors)[0]
        return items

    async def delete_where(
        self, collection: str, filter: Filter, *, context: RequestContext
    ) -> int:
        """See `DataPlane.delete_where`."""
        return await self._deletes.delete_where(collection, filter, context=context)

    async def get(
        self, collection: str, keys: Sequence[Key], projection: Projection, context: RequestContext
    ) -> Got:
        """See `DataPlane.get`."""
        return await self._reader.get(collection, keys, projection, context)

    async def list_records(self, query: ListQuery, context: RequestContext) -> Listed:
        """See `DataPlane.list_records`."""
        return await self._reader.list_records(query, context)

    async def count(self, query: CountQuery, context: RequestContext) -> Counted:
        """See `DataPlane.count`."""
        return await self._reader.count(query, context)

    async def search(self, query: SearchQuery, context: RequestContext) -> Found:
        """See `DataPlane.search`."""
        return await self._reader.search(query, context)
