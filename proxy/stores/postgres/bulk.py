"""Bulk copies between two PostgreSQL stores: binary COPY out of one, into the other.

The target says which columns it wants and of which types; the source composes them from its own
logical expressions. So the rows cross Python as bytes, never as objects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.abc import Buffer, PQGen
from psycopg.generators import fetch_many
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn
from psycopg.waiting import Wait

from proxy.layouts import Column, ColumnKind
from proxy.model import FieldType, Key
from proxy.query import KeyRange
from proxy.stores.postgres.conditions import Params, range_sql, where
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.table import Table, identifier, literal

DIALECT = "postgresql-copy-binary"
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyColumn:
    """One column of the target.

    Attributes:
        column: how the target's layout describes it.
        type: the type to send, without modifiers: the target checks lengths itself.
    """

    column: Column
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTarget:
    """What the target of a bulk copy wants: its columns, and the logical fields in them."""

    columns: tuple[CopyColumn, ...]
    fields: frozenset[str]


def copy_target(table: Table, fields: Sequence[str]) -> CopyTarget | None:
    """Return what this table wants to be sent, None if it needs a lookup for each row."""
    wanted = frozenset(fields) | frozenset(table.spec.key)
    columns: list[CopyColumn] = []
    for column in table.layout.columns:
        if column.kind is ColumnKind.PARENT_ID:
            return None
        if column.kind is ColumnKind.FIELD and column.field not in wanted:
            continue
        if column.kind is ColumnKind.VECTOR and table.spec.vector is None:
            continue
        info = table.info.columns[column.name]
        name = f"{info.type[1:]}[]" if info.type.startswith("_") else info.type
        columns.append(CopyColumn(column=column, type=name))
    return CopyTarget(columns=tuple(columns), fields=wanted)


def copy_in_statement(table: Table, target: CopyTarget) -> str:
    """Return the statement that loads the target's columns."""
    names = ", ".join(identifier(item.column.name) for item in target.columns)
    return f"COPY {table.relation} ({names}) FROM STDIN (FORMAT BINARY)"


def source_query(
    source: Table,
    target: CopyTarget,
    span: KeyRange,
    *,
    order: str,
    exclude: Collection[Key],
    params: Params,
) -> str:
    """Return the query whose rows are the target's columns."""
    expressions = [f"{_expression(source, target, item)}::{item.type}" for item in target.columns]
    left_out = without_keys(source, exclude, params)
    condition = where(source, None, params, range_sql(source, span, order, params), left_out)
    return f"SELECT {', '.join(expressions)} FROM {source.relation}{condition}"


def without_keys(source: Table, exclude: Collection[Key], params: Params) -> str:
    """Return the condition that leaves these keys out, "" if there are none."""
    names = source.key_columns
    if not exclude or not names:
        return ""
    columns = zip(*(source.key_params(key) for key in sorted(exclude, key=str)), strict=True)
    arrays = ", ".join(
        f"{params.add(list(column))}::{source.fields[name].cast}[]"
        for name, column in zip(names, columns, strict=True)
    )
    keys = ", ".join(source.fields[name].value for name in names)
    return f"({keys}) NOT IN (SELECT * FROM unnest({arrays}))"


def _expression(source: Table, target: CopyTarget, item: CopyColumn) -> str:
    column = item.column
    if column.kind is ColumnKind.VECTOR:
        return source.vector or "NULL"
    if column.kind is ColumnKind.PACKED:
        return _packed(source, target, column)
    value = source.fields[column.field].value
    if source.fields[column.field].type is FieldType.TIMESTAMP and column.naive_utc:
        return f"({value} AT TIME ZONE 'UTC')"
    return f"({value})"


def _packed(source: Table, target: CopyTarget, column: Column) -> str:
    """Return the packed object of the target, built from the source's logical values."""
    parts = []
    for packed in column.packed:
        if packed.field in target.fields:
            item = source.fields[packed.field]
            parts.append(f"{literal(packed.name)}, {item.value}")
    packed_object = f"jsonb_build_object({', '.join(parts)})" if parts else "'{}'::jsonb"
    if column.rest and column.rest in target.fields:
        rest = source.fields[column.rest].value
        return f"(coalesce({rest}, '{{}}'::jsonb) || {packed_object})"
    return packed_object


class Literals(Params):
    """Values as quoted literals, for COPY, which takes no parameters; the driver quotes them."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def add(self, value: object) -> str:
        """Return the value as a literal."""
        return sql.Literal(value).as_string(self._connection)


async def copy_out(connection: Connection, query: str) -> AsyncGenerator[bytes, None]:
    """Stream a query as binary COPY data, in chunks of at least 64 KiB (the last may be less)."""
    reader = CopyRows(connection.pgconn, chunk_bytes=_CHUNK_BYTES)
    async with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)"):
        while not reader.ended:
            chunk = b"".join(await connection.wait(reader.next_rows()))
            if chunk:
                yield chunk


class CopyRows:
    """Takes the rows of a COPY from the connection.

    The driver hands out one row at a time, and asks the event loop for each. Here the loop is
    asked only when the socket is empty.
    """

    def __init__(self, pgconn: PGconn, *, chunk_bytes: int) -> None:
        self._pgconn = pgconn
        self._chunk_bytes = chunk_bytes
        self.ended = False

    def next_rows(self) -> PQGen[list[Buffer]]:
        """Collect rows until a chunk is full or the copy has ended."""
        rows: list[Buffer] = []
        size = 0
        while size < self._chunk_bytes and not self.ended:
            length, row = self._pgconn.get_copy_data(1)
            if length == 0:
                self._pgconn.consume_input()
                length, row = self._pgconn.get_copy_data(1)
            if length > 0:
                rows.append(row)
                size += length
            elif length == 0:
                yield Wait.R
            else:
                yield from self._end()
        return rows

    def _end(self) -> PQGen[None]:
        """Read how the copy ended; raise what the server says."""
        self.ended = True
        for result in (yield from fetch_many(self._pgconn)):
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)


async def copy_in(
    connection: Connection, table: Table, target: CopyTarget, chunks: AsyncIterator[bytes]
) -> int:
    """Load binary COPY data; return how many rows."""
    cursor = connection.cursor()
    async with cursor.copy(copy_in_statement(table, target)) as copy:
        async for chunk in chunks:
            await copy.write(chunk)
    return cursor.rowcount
