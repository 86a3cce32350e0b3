"""A page: the next rows of a range, read in one repeatable-read transaction."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import psycopg

from proxy.errors import Reason, Rejected
from proxy.model import Key, Record
from proxy.query import KeyRange
from proxy.stores.base import BulkTarget
from proxy.stores.postgres.bulk import DIALECT, CopyTarget, Literals, copy_out, source_query
from proxy.stores.postgres.conditions import Params, range_sql, where
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.errors import translate
from proxy.stores.postgres.ranges import begin_walk, by_key, first_keys
from proxy.stores.postgres.reads import fetch
from proxy.stores.postgres.rows import WHOLE, select
from proxy.stores.postgres.table import Table

ARROW = "arrow"
"""`proxy.stores.arrow.DIALECT`; that module needs an extra."""


class PostgresPage:
    """The rows of a page. It lives as long as its transaction."""

    def __init__(
        self, connection: Connection, table: Table, span: KeyRange, *, order: str, store: str
    ) -> None:
        self._connection = connection
        self._table = table
        self._span = span
        self._order = order
        self._store = store
        self.keys: Sequence[Key] = ()

    async def records(self, exclude: frozenset[Key]) -> list[Record]:
        """Return the full records with vectors, ascending by key, without those excluded."""
        if not self.keys:
            return []
        table = self._table
        selection = select(table, WHOLE)
        params = Params()
        condition = where(table, None, params, range_sql(table, self._span, self._order, params))
        statement = (
            f"SELECT {selection.sql} FROM {table.relation}{condition}{by_key(table, self._order)}"
            f" LIMIT {len(self.keys)}"
        )
        records = await fetch(self._connection, table, selection, statement, params)
        return [record for record in records if record.key not in exclude]

    async def bulk(self, exclude: frozenset[Key], target: BulkTarget) -> AsyncIterator[bytes]:
        """Stream the same rows as binary COPY data of the target's columns, or as Arrow's."""
        if target.dialect == ARROW:
            async with aclosing(self._arrow(exclude, target)) as columns:
                async for chunk in columns:
                    yield chunk
            return
        if target.dialect != DIALECT or not isinstance(target.plan, CopyTarget):
            raise self._unknown(target)
        if not self.keys:
            return
        query = source_query(
            self._table,
            target.plan,
            self._span,
            order=self._order,
            exclude=exclude,
            params=Literals(self._connection),
        )
        rows = copy_out(self._connection, self._ended(query))
        async with aclosing(self._translated(rows)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _arrow(
        self, exclude: frozenset[Key], target: BulkTarget
    ) -> AsyncGenerator[bytes, None]:
        """Stream the rows as Arrow columns, where Arrow is installed."""
        try:
            from proxy.stores.arrow import ArrowPlan
            from proxy.stores.postgres.arrow import arrow_chunks, arrow_query
        except ImportError as error:
            raise self._unknown(target) from error
        if not isinstance(target.plan, ArrowPlan):
            raise self._unknown(target)
        if not self.keys:
            return
        query = arrow_query(
            self._table,
            target.plan,
            self._span,
            order=self._order,
            exclude=exclude,
            params=Literals(self._connection),
        )
        rows = arrow_chunks(self._connection, self._table, target.plan, self._ended(query))
        async with aclosing(self._translated(rows)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _ended(self, query: str) -> str:
        return f"{query}{by_key(self._table, self._order)} LIMIT {len(self.keys)}"

    async def _translated(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        except psycopg.Error as error:
            raise translate(
                error, store=self._store, writing=False, what=self._table.name
            ) from error

    def _unknown(self, target: BulkTarget) -> Rejected:
        return Rejected(
            f"The {self._store} store cannot write the bulk format {target.dialect}.",
            reason=Reason.UNIMPLEMENTED,
        )


async def open_page(
    connection: Connection, table: Table, keys: KeyRange, *, limit: int, order: str, store: str
) -> PostgresPage:
    """Begin the page's transaction and read its keys, in one round trip.

    The span that `records` and `bulk` read ends at the last key.
    """
    async with connection.pipeline():
        await begin_walk(connection)
        found = await first_keys(connection, table, keys, order, limit)
    span = KeyRange(after=keys.after, upto=found[-1] if found else keys.after)
    page = PostgresPage(connection, table, span, order=order, store=store)
    page.keys = found
    return page
