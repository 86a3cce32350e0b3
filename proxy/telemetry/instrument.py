"""A store that reports each of its calls: same Protocol in, same Protocol out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from proxy.errors import StoreProblem
from proxy.model import Key, Record, Write, WriteResult
from proxy.query import CountQuery, Group, KeyRange, ListQuery, SearchQuery, SearchResult
from proxy.stores.base import (
    BulkTarget,
    IndexState,
    KeyDigest,
    Page,
    RangeDigest,
    Store,
)
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.probe import Probe, outcome_of
from proxy.telemetry.traces import Tracing


class InstrumentedStore:
    """Wraps a store; every call is one duration by (store, operation, outcome) and one span."""

    def __init__(self, inner: Store, tracing: Tracing, metrics: Metrics) -> None:
        self._inner = inner
        self.name = inner.name
        self.schema = inner.schema
        self.capabilities = inner.capabilities

        def record(operation: str, outcome: str, seconds: float) -> None:
            metrics.store_call(inner.name, operation, outcome, seconds)

        self._probe = Probe(target=inner.name, tracing=tracing, record=record)

    async def open(self) -> None:
        """See `Store.open`."""
        await self._probe.call("open", "", self._inner.open())
        self.capabilities = self._inner.capabilities

    async def close(self) -> None:
        """See `Store.close`."""
        await self._inner.close()

    async def ping(self, *, deadline_s: float) -> None:
        """See `Store.ping`."""
        await self._probe.call("ping", "", self._inner.ping(deadline_s=deadline_s))

    async def check(self) -> list[StoreProblem]:
        """See `Store.check`."""
        return await self._probe.call("check", "", self._inner.check())

    async def apply(
        self, writes: Sequence[Write], *, atomic: bool, deadline_s: float
    ) -> list[WriteResult]:
        """See `Store.apply`."""
        collection = writes[0].collection if writes else ""
        work = self._inner.apply(writes, atomic=atomic, deadline_s=deadline_s)
        return await self._probe.call("apply", collection, work)

    async def get(
        self, collection: str, keys: Sequence[Key], *, vectors: bool, deadline_s: float
    ) -> dict[Key, Record]:
        """See `Store.get`."""
        work = self._inner.get(collection, keys, vectors=vectors, deadline_s=deadline_s)
        return await self._probe.call("get", collection, work)

    async def list_records(self, query: ListQuery, *, deadline_s: float) -> list[Record]:
        """See `Store.list_records`."""
        work = self._inner.list_records(query, deadline_s=deadline_s)
        return await self._probe.call("list_records", query.collection, work)

    async def list_keys(self, query: ListQuery, *, deadline_s: float) -> list[Key]:
        """See `Store.list_keys`."""
        work = self._inner.list_keys(query, deadline_s=deadline_s)
        return await self._probe.call("list_keys", query.collection, work)

    async def count(self, query: CountQuery, *, deadline_s: float) -> list[Group]:
        """See `Store.count`."""
        work = self._inner.count(query, deadline_s=deadline_s)
        return await self._probe.call("count", query.collection, work)

    async def search(self, query: SearchQuery, *, deadline_s: float) -> SearchResult:
        """See `Store.search`."""
        work = self._inner.search(query, deadline_s=deadline_s)
        return await self._probe.call("search", query.collection, work)

    async def next_ids(self, collection: str, field: str, count: int) -> list[int]:
        """See `Store.next_ids`."""
        work = self._inner.next_ids(collection, field, count)
        return await self._probe.call("next_ids", collection, work)

    async def align_sequences(self, floors: Mapping[tuple[str, str], int] | None = None) -> None:
        """See `Store.align_sequences`."""
        await self._probe.call("align_sequences", "", self._inner.align_sequences(floors))

    async def rest(self, *, for_s: float, deadline_s: float) -> None:
        """See `Store.rest`."""
        await self._inner.rest(for_s=for_s, deadline_s=deadline_s)

    async def landed(self, collection: str, *, deadline_s: float) -> None:
        """See `Store.landed`."""
        await self._inner.landed(collection, deadline_s=deadline_s)

    async def key_order(self, collection: str) -> str:
        """See `Store.key_order`."""
        return await self._inner.key_order(collection)

    async def split(self, collection: str, *, rows_per_range: int, order: str) -> list[KeyRange]:
        """See `Store.split`."""
        work = self._inner.split(collection, rows_per_range=rows_per_range, order=order)
        return await self._probe.call("split", collection, work)

    def page(
        self, collection: str, keys: KeyRange, *, limit: int, order: str, deadline_s: float
    ) -> AbstractAsyncContextManager[Page]:
        """See `Store.page`. The duration is that of the whole `async with` block."""
        return self._page(
            collection,
            self._inner.page(collection, keys, limit=limit, order=order, deadline_s=deadline_s),
        )

    @asynccontextmanager
    async def _page(
        self, collection: str, inner: AbstractAsyncContextManager[Page]
    ) -> AsyncIterator[Page]:
        start = self._probe.now()
        outcome = "ok"
        try:
            async with inner as page:
                yield page
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._probe.record("page", outcome, self._probe.now() - start)

    async def range_keys(
        self, collection: str, keys: KeyRange, *, order: str, deadline_s: float
    ) -> list[Key]:
        """See `Store.range_keys`."""
        work = self._inner.range_keys(collection, keys, order=order, deadline_s=deadline_s)
        return await self._probe.call("range_keys", collection, work)

    async def digest(
        self,
        collection: str,
        keys: KeyRange,
        *,
        fields: Sequence[str],
        order: str,
        deadline_s: float,
        vectors: bool = True,
    ) -> RangeDigest:
        """See `Store.digest`."""
        work = self._inner.digest(
            collection,
            keys,
            fields=fields,
            order=order,
            deadline_s=deadline_s,
            vectors=vectors,
        )
        return await self._probe.call("digest", collection, work)

    async def key_digests(
        self,
        collection: str,
        keys: KeyRange,
        *,
        fields: Sequence[str],
        order: str,
        deadline_s: float,
        vectors: bool = True,
    ) -> list[KeyDigest]:
        """See `Store.key_digests`."""
        work = self._inner.key_digests(
            collection,
            keys,
            fields=fields,
            order=order,
            deadline_s=deadline_s,
            vectors=vectors,
        )
        return await self._probe.call("key_digests", collection, work)

    async def bulk_target(self, collection: str, fields: Sequence[str]) -> BulkTarget | None:
        """See `Store.bulk_target`."""
        return await self._inner.bulk_target(collection, fields)

    async def bulk_load(
        self,
        collection: str,
        target: BulkTarget,
        chunks: AsyncIterator[bytes],
        *,
        deadline_s: float,
    ) -> int:
        """See `Store.bulk_load`."""
        work = self._inner.bulk_load(collection, target, chunks, deadline_s=deadline_s)
        return await self._probe.call("bulk_load", collection, work)

    async def unconvertible(self, record: Record) -> str:
        """See `Store.unconvertible`."""
        return await self._inner.unconvertible(record)

    async def index_states(self) -> list[IndexState]:
        """See `Store.index_states`."""
        return await self._probe.call("index_states", "", self._inner.index_states())

    async def build_index(self, collection: str) -> None:
        """See `Store.build_index`."""
        work = self._inner.build_index(collection)
        await self._probe.call("build_index", collection, work)

    async def row_estimate(self, collection: str) -> int:
        """See `Store.row_estimate`."""
        return await self._probe.call(
            "row_estimate", collection, self._inner.row_estimate(collection)
        )

    def stats(self) -> Mapping[str, float]:
        """See `Store.stats`."""
        return self._inner.stats()
