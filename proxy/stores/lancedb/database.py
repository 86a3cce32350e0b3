"""The open database: its connection, its tables, and the versions that pages read."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import lancedb

from proxy.config.settings import LanceSettings
from proxy.errors import Corrupt, Reason, Rejected, StoreProblem, Unavailable
from proxy.layouts import StoreSchema
from proxy.stores.lancedb.checks import key_problems, layout_problems, table_problems
from proxy.stores.lancedb.errors import reading
from proxy.stores.lancedb.folder import Folder, WriterLock, locate
from proxy.stores.lancedb.indexes import build_word_indexes
from proxy.stores.lancedb.memory import bound_heaps, bounded_session
from proxy.stores.lancedb.table import OpenTable, Table, compile_table

_OPEN_DEADLINE_S: Final = 30.0
_CHECK_DEADLINE_S: Final = 600.0
_IN_MEMORY: Final = "memory://"
_ABSENT: Final = re.compile(r"was not found|not exist|not found", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a database lies and how it is opened.

    Attributes:
        read_only: nothing is written or locked. Without a lock (read only, or an object store)
            every read looks for what others wrote.
        look_ahead: read only; tables that are not there yet count as empty ones: they are made
            when the proxy starts.
    """

    uri: str
    namespace: str
    settings: LanceSettings
    read_only: bool = False
    look_ahead: bool = False


class Database:
    """One LanceDB database: opened, its missing tables made, closed."""

    def __init__(self, store: str, place: Place, schema: StoreSchema) -> None:
        self.store = store
        self.place = place
        self.folder: Folder = locate(store, place.uri, place.namespace)
        self._schema = schema
        self._connection: Any = None
        self._blank: Any = None
        self._lock: WriterLock | None = None
        self._tables: dict[str, OpenTable] = {}

    @property
    def tables(self) -> Mapping[str, OpenTable]:
        """The tables that are there and have what their layouts ask for."""
        return self._tables

    async def open(self) -> None:
        """Take the lock, connect, and make the tables that are missing."""
        if self._connection is not None:
            return
        if self.folder.path is not None and not self.place.read_only:
            self._lock = WriterLock(self.store, self.folder.path)
            self._lock.acquire()
        elif not self.place.look_ahead and not self._is_there():
            raise Unavailable(
                f"The {self.store} store has no folder {self.folder.path}.", where=self.store
            )
        bound_heaps()
        try:
            async with reading(self.store, "the database", _OPEN_DEADLINE_S):
                if self.place.look_ahead:
                    self._blank = await lancedb.connect_async(_IN_MEMORY)
                self._connection = await lancedb.connect_async(
                    self.folder.uri if self._is_there() else _IN_MEMORY,
                    session=bounded_session(),
                    storage_options=dict(self.place.settings.storage_options) or None,
                    read_consistency_interval=None if self._lock is not None else timedelta(0),
                )
            await self._open_tables(create=not self.place.read_only)
        except BaseException:
            self.close()
            raise

    def _is_there(self) -> bool:
        """False if it is a local folder that nobody has made yet."""
        return self.folder.path is None or self.folder.path.is_dir()

    async def _open_tables(self, *, create: bool) -> list[StoreProblem]:
        problems: list[StoreProblem] = []
        for collection, layout in self._schema.layouts.items():
            spec = self._schema.collections[collection]
            wrong = layout_problems(self.store, spec, layout)
            if wrong:
                problems += wrong
                continue
            table = compile_table(spec, layout)
            handle = await self._open_table(table, create=create)
            if handle is None:
                what = f"there is no table {table.name} in {self.folder.uri}"
                problems.append(StoreProblem(store=self.store, what=what))
                continue
            async with reading(self.store, collection, _OPEN_DEADLINE_S):
                schema = await handle.schema()
            wrong = table_problems(self.store, table, schema)
            problems += wrong
            if not wrong and collection not in self._tables:
                self._tables[collection] = OpenTable(table, handle)
            elif wrong:
                self._tables.pop(collection, None)
        return problems

    async def _open_table(self, table: Table, *, create: bool) -> Any:
        """Return a handle of the table, making it if that is asked for; None: it is not there."""
        async with reading(self.store, table.name, _OPEN_DEADLINE_S):
            try:
                handle = await self._connection.open_table(table.name)
            except ValueError as error:
                if not _ABSENT.search(str(error)):
                    raise
                if self._blank is not None:
                    return await self._blank.create_table(
                        table.name, schema=table.schema, exist_ok=True
                    )
                if not create:
                    return None
                handle = await self._connection.create_table(table.name, schema=table.schema)
            # A process that was killed between these steps left an empty table.
            if create and not await handle.count_rows():
                await _finish(table, handle)
            return handle

    async def check(self) -> list[StoreProblem]:
        """Look at layouts, tables and keys anew."""
        self.connected()
        problems = await self._open_tables(create=False)
        why = self.folder.obstacle() if self.place.look_ahead else ""
        if why:
            what = f"the folder {self.folder.path} cannot be written: {why}"
            problems.append(StoreProblem(store=self.store, what=what, hint="correct `uri`"))
        for collection, opened in self._tables.items():
            async with reading(self.store, collection, _CHECK_DEADLINE_S):
                await opened.handle.checkout_latest()  # another program may have written it
                problems += await key_problems(self.store, opened)
        return problems

    def connected(self) -> Any:
        """Return the connection.

        Raises:
            Unavailable: the store is closed.
        """
        if self._connection is None:
            raise Unavailable(f"The {self.store} store is closed.", where=self.store)
        return self._connection

    def table(self, collection: str) -> OpenTable:
        """Return a collection's table.

        Raises:
            Unavailable: the store is closed.
            Rejected(NOT_FOUND): this store has no such collection.
            Corrupt: its table is missing or has other columns.
        """
        self.connected()
        found = self._tables.get(collection)
        if found is not None:
            return found
        if collection not in self._schema.layouts:
            raise Rejected(
                f"The {self.store} store has no collection {collection!r}.",
                reason=Reason.NOT_FOUND,
            )
        raise Corrupt(
            f"The {self.store} store cannot serve {collection}: its table is missing or has other"
            " columns than the layout.",
            hint="`crossfade plan` lists everything that is wrong.",
        )

    @asynccontextmanager
    async def moment(self, collection: str, deadline_s: float) -> AsyncIterator[Any]:
        """Hold the table as it is now: a handle that no later write changes."""
        opened = self.table(collection)
        opened.held += 1
        handle: Any = None
        try:
            async with reading(self.store, collection, deadline_s):
                version = await opened.handle.version()
                handle = await self._handle(opened.table)
                await handle.checkout(version)
            yield handle
        finally:
            opened.held -= 1
            if handle is not None:
                handle.close()

    async def _handle(self, table: Table) -> Any:
        """Return a new handle of a table that was opened before."""
        try:
            return await self._connection.open_table(table.name)
        except ValueError:
            if self._blank is None:
                raise
            return await self._blank.open_table(table.name)

    def close(self) -> None:
        """Close the tables and give the lock up; safe to call twice."""
        self._tables.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._blank is not None:
            self._blank.close()
            self._blank = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


async def _finish(table: Table, handle: Any) -> None:
    """Give a new table its key and its indexes of words."""
    columns = table.key_columns
    schema = await handle.schema()
    if table_problems("", table, schema):
        return
    # LanceDB knows no key of several columns, nor of one that may be null.
    if len(columns) == 1:
        field = schema.field(columns[0].name)
        if not field.metadata and not field.nullable:
            await handle.set_unenforced_primary_key(field.name)
    await build_word_indexes(OpenTable(table, handle))
