"""Reading records: by key, in lists, and counting them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from proxy.errors import Corrupt, Rejected
from proxy.filters import orderable, summable
from proxy.model import FieldType, Key, Record
from proxy.query import CountQuery, Group, KeyRange, ListQuery, Projection
from proxy.stores.fitting import key_misfit
from proxy.stores.ordering import order_terms
from proxy.stores.postgres.conditions import Params, after_sql, order_sql, range_sql, where
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.rows import PLAIN, WHOLE, Selection, select
from proxy.stores.postgres.table import Table

_Cursor = psycopg.AsyncCursor[TupleRow]
_COUNTED_MAX = 10_000


async def fetch(
    connection: Connection, table: Table, selection: Selection, statement: str, params: list[Any]
) -> list[Record]:
    """Run a SELECT of a selection and return its records.

    Raises:
        Corrupt: a row cannot be decoded; the message names its key.
    """
    cursor = await connection.execute(statement, params, prepare=True, binary=True)
    return await decoded(cursor, table, selection)


async def fetch_rows(
    connection: Connection, table: Table, statement: str, params: list[Any]
) -> list[Any]:
    """Run a SELECT and return its rows as they are.

    Raises:
        Corrupt: a row cannot be decoded; the message names its key.
    """
    cursor = await connection.execute(statement, params, prepare=True, binary=True)
    return await _rows(cursor, table)


async def decoded(cursor: _Cursor, table: Table, selection: Selection) -> list[Record]:
    """Return the records of an executed cursor."""
    decode = selection.decode
    return [decode(row) for row in await _rows(cursor, table)]


async def _rows(cursor: _Cursor, table: Table) -> list[TupleRow]:
    try:
        return await cursor.fetchall()
    except (psycopg.DataError, ValueError, ArithmeticError) as error:
        if cursor.pgresult is None:
            raise
        raise await _which_row(cursor, table, error) from error


async def _which_row(cursor: _Cursor, table: Table, error: Exception) -> Corrupt:
    """Name the first row that the driver cannot decode."""
    result = cursor.pgresult
    rows = result.ntuples if result is not None else 0
    number = 0
    try:
        while number < rows:
            await cursor.fetchone()
            number += 1
    except (psycopg.DataError, ValueError, ArithmeticError) as found:
        error = found
    shown = "?"
    if result is not None and number < rows:
        names = table.key_columns
        parts = [result.get_value(number, at) or b"" for at in range(len(names))]
        shown = ", ".join(
            str(int.from_bytes(part, "big", signed=True))
            if table.fields[name].type is FieldType.INT
            else repr(part.decode("utf-8", "replace"))
            for name, part in zip(names, parts, strict=True)
        )
    return Corrupt(
        f"The record ({shown}) of {table.name} cannot be read: {error}.",
        hint="Correct the row in the store.",
    )


async def get_records(
    connection: Connection, table: Table, keys: Sequence[Key], *, vectors: bool, store: str
) -> dict[Key, Record]:
    """Return those of the records that exist."""
    held = [key for key in keys if not key_misfit(table.spec, table.layout, key, store)]
    if not held:
        return {}
    selection = select(table, WHOLE if vectors else PLAIN)
    if len(held) == 1:
        statement = table.cached(("get", vectors), lambda: _get_one(table, selection))
        records = await fetch(connection, table, selection, statement, table.key_params(held[0]))
    else:
        statement = table.cached(("get many", vectors), lambda: _get_many(table, selection))
        columns = zip(*(table.key_params(key) for key in held), strict=True)
        records = await fetch(
            connection, table, selection, statement, [list(column) for column in columns]
        )
    return {record.key: record for record in records}


def _get_one(table: Table, selection: Selection) -> str:
    return f"SELECT {selection.sql} FROM {table.relation} WHERE {table.key_equals(1)}"


def _get_many(table: Table, selection: Selection) -> str:
    """Join with the wanted keys, so that each is one probe of the unique index."""
    names = table.key_columns
    arrays = ", ".join(
        f"${number}::{table.fields[name].cast}[]" for number, name in enumerate(names, start=1)
    )
    aliases = ", ".join(f"wanted_{number}" for number in range(len(names)))
    matching = " AND ".join(
        f"{table.fields[name].column} = {table.written(name, f'wanted.wanted_{number}')}"
        for number, name in enumerate(names)
    )
    return (
        f"SELECT {selection.sql} FROM {table.relation}"
        f" JOIN (SELECT DISTINCT * FROM unnest({arrays}) AS u({aliases})) AS wanted ON {matching}"
    )


def list_statement(table: Table, query: ListQuery, columns: str) -> tuple[str, Params]:
    """Return the statement of a list and its parameters.

    Texts are ordered by their bytes whatever the database's collation is: a page token must mean
    the same on both stores.
    """
    terms = order_terms(query, table.spec)
    params = Params()
    behind = ""
    if query.after is not None:
        if query.order:
            behind = after_sql(table, terms, query.after, params)
        else:
            bound = KeyRange(after=_key(table, query.after))
            behind = range_sql(table, bound, "C", params)
    condition = where(table, query.filter, params, behind)
    order = order_sql(table, [t for t in terms if not table.fields[t.field].constant])
    statement = f"SELECT {columns} FROM {table.relation}{condition}"
    if order:
        statement += f" ORDER BY {order}"
    # Written out: for a parameter the planner of a prepared statement assumes a tenth of the table.
    statement += f" LIMIT {int(query.limit)}"
    if query.offset:
        statement += f" OFFSET {params.add(query.offset)}::int8"
    return statement, params


def _key(table: Table, values: Sequence[Any]) -> Key:
    if any(not isinstance(part, str | int) for part in values):
        raise Rejected(f"The page token does not belong to a list of {table.name}.")
    return tuple(values)


async def list_records(connection: Connection, table: Table, query: ListQuery) -> list[Record]:
    """Return a page of records."""
    selection = select(table, query.projection)
    statement, params = list_statement(table, query, selection.sql)
    return await fetch(connection, table, selection, statement, params)


async def list_keys(connection: Connection, table: Table, query: ListQuery) -> list[Key]:
    """Return the keys of a page."""
    selection = key_selection(table)
    statement, params = list_statement(table, query, selection.sql)
    records = await fetch(connection, table, selection, statement, params)
    return [record.key for record in records]


def key_selection(table: Table) -> Selection:
    """Return the select list of the key alone."""
    return table.cached("key selection", lambda: select(table, Projection(fields=("",))))


async def count(connection: Connection, table: Table, query: CountQuery) -> list[Group]:
    """Count, by group if asked, ascending with the null group last."""
    params = Params()
    if query.group_by is not None:
        orderable(table.spec, query.group_by, "group_by")
    total = "0::float8"
    if query.sum_field is not None:
        summable(table.spec, query.sum_field)
        total = f"coalesce(sum({table.fields[query.sum_field].value}), 0)::float8"
    condition = where(table, query.filter, params)
    source = f"FROM {table.relation}{condition}"
    if query.group_by is None:
        statement = f"SELECT NULL::text, count(*), {total} {source}"
    else:
        item = table.fields[query.group_by]
        statement = (
            f"SELECT g, n, s FROM (SELECT {item.value} AS g, count(*) AS n, {total} AS s {source}"
            f" GROUP BY 1) AS grouped ORDER BY g{_collate(item.cast)} NULLS LAST"
        )
    cursor = await connection.execute(statement, params, prepare=True, binary=True)
    return [Group(value=value, count=n, sum=s) for value, n, s in await cursor.fetchall()]


def _collate(cast: str) -> str:
    return ' COLLATE "C"' if cast == "text" else ""


async def row_estimate(connection: Connection, table: Table) -> int:
    """Return the planner's idea of the row count; a small or new table is counted."""
    cursor = await connection.execute(
        "SELECT reltuples::int8 FROM pg_class WHERE oid = $1::int8::oid", [table.info.oid]
    )
    row = await cursor.fetchone()
    if row and row[0] > _COUNTED_MAX:
        return int(row[0])
    cursor = await connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {table.relation} LIMIT {_COUNTED_MAX * 10}) AS some_"
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
