"""The PostgreSQL store: the Store Protocol on top of the pool and the compiled layouts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import psycopg

from proxy.errors import Corrupt, Reason, Rejected, StoreProblem
from proxy.layouts import StoreSchema
from proxy.model import Key, Record, Write, WriteResult
from proxy.query import (
    CountQuery,
    Group,
    KeyRange,
    ListQuery,
    Scoring,
    SearchQuery,
    SearchResult,
)
from proxy.stores.base import BulkTarget, Capabilities, IndexState, KeyDigest, RangeDigest
from proxy.stores.modes import modes_of_schema
from proxy.stores.postgres import bulk, indexes, pages, ranges, reads, sequences
from proxy.stores.postgres.apply import Writer
from proxy.stores.postgres.catalog import Catalog, read_catalog
from proxy.stores.postgres.checks import check_schema
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.errors import is_refusal, refusal_text
from proxy.stores.postgres.fitness import record_misfit
from proxy.stores.postgres.pool import Pool
from proxy.stores.postgres.search import SearchMemory, search
from proxy.stores.postgres.table import Table, compile_table

_T = TypeVar("_T")
_ADMIN_DEADLINE_S = 30.0
_SCAN_DEADLINE_S = 600.0


class PostgresStore:
    """One side of a migration, in PostgreSQL."""

    def __init__(
        self, name: str, dsn: str, schema: StoreSchema, *, pool_min: int = 2, pool_max: int = 8
    ) -> None:
        self.name = name
        self.schema = schema
        self.capabilities = Capabilities(
            transactions=True,
            search_modes=modes_of_schema(schema),
            keyword_scoring=Scoring.TS_RANK,
        )
        self._pool = Pool(name, dsn, size_min=pool_min, size_max=pool_max)
        self._catalog = Catalog()
        self._tables: dict[str, Table] = {}
        self._writer = Writer(name, self._tables)
        self._memory = SearchMemory.empty()

    async def open(self) -> None:
        """Connect and read the catalogue. What is missing there is told by `check`."""
        await self._pool.open()
        await self._read_catalog()

    async def close(self) -> None:
        """Release every connection."""
        await self._pool.close()

    async def ping(self, *, deadline_s: float) -> None:
        """Return if the server answers."""
        await self._pool.run(_ping, deadline_s=deadline_s)

    async def check(self) -> list[StoreProblem]:
        """Compare the layouts with what is really there."""
        await self._read_catalog()
        return await self._pool.run(
            lambda c: check_schema(c, self.schema, self._catalog, self.name),
            deadline_s=_ADMIN_DEADLINE_S,
        )

    def stats(self) -> Mapping[str, float]:
        """Return the pool's gauges."""
        return self._pool.stats()

    async def _read_catalog(self) -> None:
        """Read the catalogue anew and compile the layouts whose tables are complete."""
        layouts = self.schema.layouts
        names = {layout.table for layout in layouts.values()}
        for layout in layouts.values():
            names.update(c.lookup_table for c in layout.columns if c.lookup_table)
        self._catalog = await self._pool.run(
            lambda c: read_catalog(c, names), deadline_s=_ADMIN_DEADLINE_S
        )
        self._tables.clear()
        for name, layout in layouts.items():
            info = self._catalog.tables.get(layout.table)
            if info is not None and all(c.name in info.columns for c in layout.columns):
                self._tables[name] = compile_table(self.schema.collections[name], layout, info)

    async def _table(self, collection: str) -> Table:
        """Return the compiled table of a collection; a missing one is looked for once more."""
        table = self._tables.get(collection)
        if table is not None:
            return table
        layout = self.schema.layouts.get(collection)
        if layout is None:
            raise Rejected(
                f"The {self.name} store has no collection {collection!r}.",
                reason=Reason.NOT_FOUND,
            )
        await self._read_catalog()
        table = self._tables.get(collection)
        if table is None:
            raise Corrupt(
                f"The {self.name} store cannot serve {collection}: the table {layout.table} or one"
                " of its columns is missing.",
                hint="`crossfade plan` lists everything that is missing.",
            )
        return table

    async def _read(
        self, collection: str, work: Callable[[Connection, Table], Awaitable[_T]], deadline_s: float
    ) -> _T:
        table = self._tables.get(collection) or await self._table(collection)
        return await self._pool.run(
            lambda c: work(c, table), deadline_s=deadline_s, what=collection
        )

    async def apply(
        self, writes: Sequence[Write], *, atomic: bool, deadline_s: float
    ) -> list[WriteResult]:
        """Apply writes in order; see `Store.apply`."""
        if not writes:
            return []
        for write in writes:
            if write.collection not in self._tables:
                await self._table(write.collection)
        return await self._pool.run(
            lambda c: self._writer.apply(c, writes, atomic=atomic),
            deadline_s=deadline_s,
            writing=True,
            what=writes[0].collection,
        )

    async def get(
        self, collection: str, keys: Sequence[Key], *, vectors: bool, deadline_s: float
    ) -> dict[Key, Record]:
        """Return those of the records that exist."""
        return await self._read(
            collection,
            lambda c, t: reads.get_records(c, t, keys, vectors=vectors, store=self.name),
            deadline_s,
        )

    async def list_records(self, query: ListQuery, *, deadline_s: float) -> list[Record]:
        """Return at most `query.limit` records in the query's order."""
        return await self._read(
            query.collection, lambda c, t: reads.list_records(c, t, query), deadline_s
        )

    async def list_keys(self, query: ListQuery, *, deadline_s: float) -> list[Key]:
        """Return the keys that `list_records` would."""
        return await self._read(
            query.collection, lambda c, t: reads.list_keys(c, t, query), deadline_s
        )

    async def count(self, query: CountQuery, *, deadline_s: float) -> list[Group]:
        """Count, by group if asked."""
        return await self._read(query.collection, lambda c, t: reads.count(c, t, query), deadline_s)

    async def search(self, query: SearchQuery, *, deadline_s: float) -> SearchResult:
        """Return the nearest records."""
        return await self._read(
            query.collection,
            lambda c, t: search(c, t, query, self._memory, self.name),
            deadline_s,
        )

    async def next_ids(self, collection: str, field: str, count: int) -> list[int]:
        """Allocate numbers from the field's sequence."""
        return await self._read(
            collection,
            lambda c, t: sequences.next_ids(c, t, field, count, self.name),
            _ADMIN_DEADLINE_S,
        )

    async def align_sequences(self, floors: Mapping[tuple[str, str], int] | None = None) -> None:
        """See `Store.align_sequences`."""
        if floors is not None:
            for (collection, field), floor in floors.items():
                await self._read(
                    collection, partial(sequences.raise_to, field=field, floor=floor), 5.0
                )
            return
        for collection in self.schema.layouts:
            await self._read(collection, sequences.align, _SCAN_DEADLINE_S)

    # What the reconciler needs.

    async def rest(self, *, for_s: float, deadline_s: float) -> None:
        """Nothing keeps writes waiting here."""

    async def landed(self, collection: str, *, deadline_s: float) -> None:
        """Return: the server ends what a client that is gone has sent (`connection`)."""

    async def key_order(self, collection: str) -> str:
        """Name the native order of keys."""
        return (await self._table(collection)).order_token()

    async def split(self, collection: str, *, rows_per_range: int, order: str) -> list[KeyRange]:
        """Cut the whole collection into adjoining ranges."""
        ranges.check_order(await self._table(collection), order, self.name)
        return await self._read(
            collection, lambda c, t: ranges.split(c, t, rows_per_range, order), _SCAN_DEADLINE_S
        )

    @asynccontextmanager
    async def page(
        self, collection: str, keys: KeyRange, *, limit: int, order: str, deadline_s: float
    ) -> AsyncIterator[pages.PostgresPage]:
        """Read the first `limit` rows of a range, consistently."""
        table = await self._table(collection)
        ranges.check_order(table, order, self.name)
        async with self._pool.hold(deadline_s=deadline_s, what=collection) as connection:
            try:
                yield await pages.open_page(
                    connection, table, keys, limit=limit, order=order, store=self.name
                )
            finally:
                if not connection.closed:
                    await connection.rollback()

    async def range_keys(
        self, collection: str, keys: KeyRange, *, order: str, deadline_s: float
    ) -> list[Key]:
        """Return every key of the range, ascending."""
        ranges.check_order(await self._table(collection), order, self.name)
        return await self._read(
            collection, lambda c, t: ranges.range_keys(c, t, keys, order), deadline_s
        )

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
        """Digest the range over key, `fields` and vector, in the database."""
        ranges.check_order(await self._table(collection), order, self.name)
        asked = ranges.DigestAsk(fields, order, vectors)
        return await self._read(
            collection, lambda c, t: ranges.digest(c, t, keys, asked), deadline_s
        )

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
        """Digest each record of the range, ascending by key."""
        ranges.check_order(await self._table(collection), order, self.name)
        asked = ranges.DigestAsk(fields, order, vectors)
        return await self._read(
            collection, lambda c, t: ranges.key_digests(c, t, keys, asked), deadline_s
        )

    async def bulk_target(self, collection: str, fields: Sequence[str]) -> BulkTarget | None:
        """Say how to bulk-load these fields here, None if rows need their parent's id."""
        target = bulk.copy_target(await self._table(collection), fields)
        return None if target is None else BulkTarget(dialect=bulk.DIALECT, plan=target)

    async def bulk_load(
        self,
        collection: str,
        target: BulkTarget,
        chunks: AsyncIterator[bytes],
        *,
        deadline_s: float,
    ) -> int:
        """Load new rows, all or none; return how many."""
        table = await self._table(collection)
        plan = target.plan
        if target.dialect != bulk.DIALECT or not isinstance(plan, bulk.CopyTarget):
            raise Rejected(
                f"The {self.name} store cannot load the bulk format {target.dialect}.",
                reason=Reason.UNIMPLEMENTED,
            )

        async def load(connection: Connection) -> int:
            try:
                return await bulk.copy_in(connection, table, plan, chunks)
            except psycopg.Error as error:
                if is_refusal(error) and not connection.closed:
                    raise self._load_refused(table, error) from error
                raise

        return await self._pool.run(load, deadline_s=deadline_s, writing=True, what=collection)

    def _load_refused(self, table: Table, error: psycopg.Error) -> Rejected:
        exists = error.sqlstate == "23505"
        return Rejected(
            f"The {self.name} store refused a bulk load of {table.name}: {refusal_text(error)}",
            reason=Reason.ALREADY_EXISTS if exists else Reason.FAILED_PRECONDITION,
            hint="Nothing was loaded; write the rows one by one to find the one it refuses.",
        )

    async def unconvertible(self, record: Record) -> str:
        """Say why this store could not hold the record, "" if nothing is known against it."""
        return record_misfit(await self._table(record.collection), record, self.name)

    async def index_states(self) -> list[IndexState]:
        """Return the state of each index the layouts ask for, and of those for words."""
        states: list[IndexState] = []
        for collection in self.schema.layouts:
            if indexes.has_indexes(self.schema, collection):
                states += await self._read(collection, indexes.states, _ADMIN_DEADLINE_S)
        return states

    async def build_index(self, collection: str) -> None:
        """Build the collection's indexes that are missing or invalid, without blocking writes."""
        table = await self._table(collection)
        if not indexes.has_indexes(self.schema, collection):
            return
        async with self._pool.dedicated(writing=True) as connection:
            await indexes.build(connection, table)
        self._memory.forget_index(collection)

    async def row_estimate(self, collection: str) -> int:
        """Return about how many rows the collection has."""
        return await self._read(collection, reads.row_estimate, _ADMIN_DEADLINE_S)


async def _ping(connection: Connection) -> None:
    await connection.execute("SELECT 1", prepare=True)
