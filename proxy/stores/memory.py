"""A store in memory that keeps every promise of the Store Protocol; for tests and simulations.

It is deterministic: no I/O, no sleeps, time comes from the clock that was handed in. Each call
runs to its end without giving way, so every one of them is atomic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from proxy.canonical import record_digest
from proxy.clock import Clock
from proxy.errors import Reason, Rejected, StoreProblem
from proxy.layouts import ColumnKind, StoreSchema
from proxy.model import Key, Metric, Record, Write, WriteOp, WriteResult
from proxy.query import (
    CountQuery,
    Group,
    KeyRange,
    ListQuery,
    Scoring,
    SearchMode,
    SearchQuery,
    SearchResult,
)
from proxy.stores.base import (
    BulkTarget,
    Capabilities,
    IndexState,
    KeyDigest,
    RangeDigest,
)
from proxy.stores.fusion import hybrid
from proxy.stores.memory_rows import count_rows, list_rows, nearest, project
from proxy.stores.memory_table import DIALECT, MemoryPage, MemoryTable, decode_bulk
from proxy.stores.memory_words import best_words
from proxy.stores.memory_writes import MemoryWriter, table_of
from proxy.stores.modes import modes_of_schema, require_keyword_search, require_vector_search


class MemoryStore:
    """One side of a migration, in memory."""

    def __init__(self, name: str, schema: StoreSchema, clock: Clock) -> None:
        self.name = name
        self.schema = schema
        self.capabilities = Capabilities(
            transactions=True, search_modes=modes_of_schema(schema), keyword_scoring=Scoring.BM25
        )
        self._tables = {
            collection: MemoryTable(schema.collections[collection], layout)
            for collection, layout in schema.layouts.items()
        }
        self._writer = MemoryWriter(name, self._tables, clock)
        self._sequences: dict[str, int] = {}
        self._built: set[str] = set()

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """The records stay: a store that is opened again still has them."""

    async def ping(self, *, deadline_s: float) -> None:
        """Memory always answers."""

    async def check(self) -> list[StoreProblem]:
        """Memory fits every layout."""
        return []

    def stats(self) -> Mapping[str, float]:
        """Return how many records are held."""
        return {"records": float(sum(len(table.records) for table in self._tables.values()))}

    def _table(self, collection: str) -> MemoryTable:
        return table_of(self._tables, collection, self.name)

    async def apply(
        self, writes: Sequence[Write], *, atomic: bool, deadline_s: float
    ) -> list[WriteResult]:
        """Apply writes in order; see `Store.apply`."""
        return self._writer.apply(writes, atomic=atomic)

    # Reads.

    async def get(
        self, collection: str, keys: Sequence[Key], *, vectors: bool, deadline_s: float
    ) -> dict[Key, Record]:
        """Return those of the records that exist."""
        table = self._table(collection)
        found = {key: table.records[key] for key in keys if key in table.records}
        if vectors:
            return found
        return {
            key: Record(collection=collection, key=key, fields=record.fields)
            for key, record in found.items()
        }

    async def list_records(self, query: ListQuery, *, deadline_s: float) -> list[Record]:
        """Return at most `query.limit` records in the query's order."""
        table = self._table(query.collection)
        rows = list_rows(table.in_order(), query, table.spec)
        return [project(record, query.projection) for record in rows]

    async def list_keys(self, query: ListQuery, *, deadline_s: float) -> list[Key]:
        """Return the keys that `list_records` would."""
        table = self._table(query.collection)
        return [record.key for record in list_rows(table.in_order(), query, table.spec)]

    async def count(self, query: CountQuery, *, deadline_s: float) -> list[Group]:
        """Count, by group if asked."""
        table = self._table(query.collection)
        return count_rows(table.in_order(), query, table.spec)

    async def search(self, query: SearchQuery, *, deadline_s: float) -> SearchResult:
        """Return the best records; the scan is exact even where it says `indexed`."""
        table = self._table(query.collection)
        if query.mode is SearchMode.KEYWORD:
            return self._by_words(table, query)
        if query.mode is SearchMode.HYBRID:
            require_keyword_search(query, table.spec, self.name)
            return await hybrid(query, lambda leg: self.search(leg, deadline_s=deadline_s))
        metric = require_vector_search(query, table.spec, self.name)
        hits = nearest(table.in_order(), query, table.spec, metric)
        indexed = query.collection in self._built and query.exact is not True
        return SearchResult(hits=tuple(hits), metric=metric, indexed=indexed)

    def _by_words(self, table: MemoryTable, query: SearchQuery) -> SearchResult:
        keyword = require_keyword_search(query, table.spec, self.name)
        hits = best_words(table.in_order(), query, table.spec, keyword)
        metric = Metric.COSINE if table.spec.vector is None else table.spec.vector.metric
        return SearchResult(hits=tuple(hits), metric=metric, scoring=Scoring.BM25)

    # Sequences.

    async def next_ids(self, collection: str, field: str, count: int) -> list[int]:
        """Allocate numbers."""
        name = self._table(collection).layout.sequences.get(field)
        if name is None:
            raise Rejected(
                f"The {self.name} store has no sequence for {collection}.{field}.",
                reason=Reason.FAILED_PRECONDITION,
            )
        last = self._sequences.get(name, 0)
        self._sequences[name] = last + count
        return list(range(last + 1, last + count + 1))

    async def align_sequences(self, floors: Mapping[tuple[str, str], int] | None = None) -> None:
        """See `Store.align_sequences`."""
        if floors is not None:
            for (collection, field), floor in floors.items():
                name = self._tables[collection].layout.sequences.get(field)
                if name is not None:
                    self._sequences[name] = max(self._sequences.get(name, 0), floor)
            return
        for table in self._tables.values():
            for field, name in table.layout.sequences.items():
                for record in table.records.values():
                    parts = dict(zip(table.spec.key, record.key, strict=True))
                    value = parts.get(field, record.fields.get(field))
                    if isinstance(value, int):
                        self._sequences[name] = max(self._sequences.get(name, 0), value)

    # The reconciler.

    async def rest(self, *, for_s: float, deadline_s: float) -> None:
        """Nothing keeps writes waiting here."""

    async def landed(self, collection: str, *, deadline_s: float) -> None:
        """Return: a write is applied at once."""

    async def key_order(self, collection: str) -> str:
        """Memory orders texts by their bytes."""
        return "C"

    def _check_order(self, order: str) -> None:
        if order != "C":
            raise Rejected(f"The {self.name} store orders keys as 'C', not as {order!r}.")

    async def split(self, collection: str, *, rows_per_range: int, order: str) -> list[KeyRange]:
        """Cut the collection into ranges of `rows_per_range` rows."""
        self._check_order(order)
        keys = self._table(collection).keys()
        cuts: list[Key | None] = [*keys[rows_per_range - 1 : -1 : rows_per_range]]
        return [
            KeyRange(after=after, upto=upto)
            for after, upto in zip([None, *cuts], [*cuts, None], strict=True)
        ]

    @asynccontextmanager
    async def page(
        self, collection: str, keys: KeyRange, *, limit: int, order: str, deadline_s: float
    ) -> AsyncIterator[MemoryPage]:
        """Read the first `limit` rows of a range, consistently."""
        self._check_order(order)
        table = self._table(collection)
        found = table.keys(keys, limit)
        yield MemoryPage(table.spec, [table.records[key] for key in found])

    async def range_keys(
        self, collection: str, keys: KeyRange, *, order: str, deadline_s: float
    ) -> list[Key]:
        """Return every key of the range, ascending."""
        self._check_order(order)
        return self._table(collection).keys(keys)

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
        """Digest the range."""
        found = await self.key_digests(
            collection,
            keys,
            fields=fields,
            order=order,
            deadline_s=deadline_s,
            vectors=vectors,
        )
        return RangeDigest(rows=len(found), sum=sum(item.digest for item in found) % 2**128)

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
        """Digest each record of the range."""
        self._check_order(order)
        table = self._table(collection)
        return [
            KeyDigest(
                key=key,
                digest=record_digest(table.spec, table.records[key], fields, vectors=vectors),
            )
            for key in table.keys(keys)
        ]

    async def bulk_target(self, collection: str, fields: Sequence[str]) -> BulkTarget | None:
        """Ask for JSON lines, unless rows need their parent's id."""
        table = self._table(collection)
        if any(column.kind is ColumnKind.PARENT_ID for column in table.layout.columns):
            return None
        return BulkTarget(dialect=DIALECT, plan=tuple(fields))

    async def bulk_load(
        self,
        collection: str,
        target: BulkTarget,
        chunks: AsyncIterator[bytes],
        *,
        deadline_s: float,
    ) -> int:
        """Load new rows, all or none."""
        table = self._table(collection)
        data = b"".join([chunk async for chunk in chunks])
        writes = [
            Write(
                op=WriteOp.INSERT,
                collection=collection,
                key=record.key,
                fields=record.fields,
                vector=record.vector,
            )
            for record in decode_bulk(table.spec, data)
        ]
        for write in writes:
            if write.key in table.records:
                raise Rejected(
                    f"{collection} {write.key!r} is in the {self.name} store already.",
                    reason=Reason.ALREADY_EXISTS,
                )
            why = self._writer.misfit(write, whole=True)
            if why:
                raise Rejected(f"The {self.name} store cannot hold {collection} {write.key}: {why}")
        self._writer.apply(writes, atomic=False, orphans=True)
        return len(writes)

    async def unconvertible(self, record: Record) -> str:
        """Say why this store could not hold the record."""
        write = Write(
            op=WriteOp.INSERT,
            collection=record.collection,
            key=record.key,
            fields=record.fields,
            vector=record.vector,
        )
        return self._writer.misfit(write, whole=True)

    async def index_states(self) -> list[IndexState]:
        """Return the indexes that were asked for and whether `build_index` was called."""
        return [
            IndexState(
                collection=collection,
                name=table.layout.index.name,
                exists=collection in self._built,
                ready=collection in self._built,
            )
            for collection, table in self._tables.items()
            if table.layout.index is not None
        ]

    async def build_index(self, collection: str) -> None:
        """Note that the index was built."""
        if self._table(collection).layout.index is not None:
            self._built.add(collection)

    async def row_estimate(self, collection: str) -> int:
        """Return how many records the collection has."""
        return len(self._table(collection).records)
