"""The direct equivalents: the proxy's own SQL text, sent by psycopg without the proxy."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg_pool import AsyncConnectionPool

from proxy.layouts import StoreSchema
from proxy.model import Write
from proxy.query import SearchQuery
from proxy.stores.postgres.adapt import Adapters
from proxy.stores.postgres.catalog import read_catalog
from proxy.stores.postgres.connection import Connection, configure, connect_parameters
from proxy.stores.postgres.search import SearchMemory, search
from proxy.stores.postgres.table import Table, compile_table
from proxy.stores.postgres.writes import upsert

_POOL_SIZE_MIN = 2
_POOL_SIZE_MAX = 8
"""As the configuration's default for the proxy's own pool."""


class Direct:
    """One database as an application reaches it: a psycopg pool, binary, prepared statements."""

    def __init__(self, dsn: str, schema: StoreSchema) -> None:
        self._dsn = dsn
        self._schema = schema
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None
        self._tables: dict[str, Table] = {}
        self._settings: tuple[tuple[str, list[Any]], ...] = ()

    async def __aenter__(self) -> Self:
        parameters = connect_parameters(self._dsn, Adapters(await self._vector_oid()))
        async with await Connection.connect(**parameters) as connection:
            layouts = self._schema.layouts
            catalog = await read_catalog(connection, {item.table for item in layouts.values()})
        for name, layout in layouts.items():
            spec = self._schema.collections[name]
            self._tables[name] = compile_table(spec, layout, catalog.tables[layout.table])
        self._pool = AsyncConnectionPool(
            kwargs=parameters,
            min_size=_POOL_SIZE_MIN,
            max_size=_POOL_SIZE_MAX,
            open=False,
            configure=self._configure,
        )
        await self._pool.open(wait=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            await self._pool.close()

    async def _vector_oid(self) -> int | None:
        async with await psycopg.AsyncConnection.connect(self._dsn) as connection:
            cursor = await connection.execute("SELECT to_regtype('vector')::oid::int8")
            row = await cursor.fetchone()
        return int(row[0]) if row and row[0] is not None else None

    async def _configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await configure(connection)
        for statement, parameters in self._settings:
            await connection.execute(statement.encode(), parameters)

    async def run(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Run one statement as an application would and return its rows."""
        if self._pool is None:
            raise RuntimeError("the pool is not open")
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                statement.encode(), parameters, prepare=True, binary=True
            )
            return await cursor.fetchall()

    async def search_statement(self, query: SearchQuery) -> tuple[str, list[Any]]:
        """Return the SQL text and parameters with which the proxy's adapter answers a search.

        What the adapter sets once on each connection is set on this pool's connections too.
        """
        if self._pool is None:
            raise RuntimeError("the pool is not open")
        table = self._tables[query.collection]
        parameters = connect_parameters(self._dsn, Adapters(await self._vector_oid()))
        async with await Connection.connect(**parameters) as connection:
            listening = _Listening(connection)
            await search(listening, table, query, SearchMemory.empty(), "direct")  # type: ignore[arg-type]  # stands in for a connection
        *before, last = listening.heard
        settings = [item for item in before if "set_config" in item[0]]
        if tuple(settings) != self._settings:
            self._settings = tuple(settings)
            await self._pool.drain()
            await self._pool.wait()
        return last

    def key_width(self, collection: str) -> int:
        """Return how many columns of a found row are the key's; they come first."""
        return len(self._tables[collection].key_columns)

    def upsert_statement(self, write: Write) -> tuple[str, list[Any]]:
        """Return the SQL text and parameters with which the proxy's adapter applies an upsert."""
        table = self._tables[write.collection]
        statement = upsert(table, write, self._tables)
        return statement.sql, statement.params(write)


class _Listening:
    """A connection that notes what is sent over it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.heard: list[tuple[str, list[Any]]] = []
        self.searching: tuple[int, str] | None = None

    async def execute(self, statement: str, parameters: Sequence[Any] = (), **how: Any) -> Any:
        """Note it and send it."""
        self.heard.append((statement, list(parameters)))
        return await self._connection.execute(statement.encode(), parameters, **how)
