"""Key ranges: cutting a table into them, their keys, and their digests where the data lies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.errors import Rejected
from proxy.model import Key
from proxy.query import KeyRange
from proxy.stores.base import KeyDigest, RangeDigest
from proxy.stores.postgres import types
from proxy.stores.postgres.conditions import Params, key_terms, range_sql, where
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.reads import fetch, fetch_rows, key_selection
from proxy.stores.postgres.table import Table

_HALF = 2**64

# The planner thinks little of row comparisons: left alone it may read the whole table for each
# range. In these transactions it walks the unique index of the key.
_WALK = (
    "SELECT set_config('enable_seqscan', 'off', true),"
    " set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)"
    # An index on the first key column alone, finished by an incremental sort, reads every row.
    ", set_config('enable_incremental_sort', 'off', true)"
)


async def begin_walk(connection: Connection) -> None:
    """Begin a consistent, read-only transaction that follows the key's index."""
    await connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    await connection.execute(_WALK, prepare=True)


@asynccontextmanager
async def _walking(connection: Connection, keys: KeyRange) -> AsyncIterator[None]:
    """Read a bounded range along the index; an open one is read as the planner likes."""
    if keys.after is None and keys.upto is None:
        yield
        return
    try:
        async with connection.pipeline():
            await begin_walk(connection)
            yield
    finally:
        if not connection.closed:
            await connection.rollback()


def check_order(table: Table, order: str, store: str) -> None:
    """Raise Rejected if this store cannot order the table's keys so."""
    if order not in ("C", table.order_token()):
        raise Rejected(
            f"The {store} store cannot order the keys of {table.name} as {order!r}.",
            hint=f'Its own order is {table.order_token()!r}; every store knows "C".',
        )


async def range_keys(connection: Connection, table: Table, keys: KeyRange, order: str) -> list[Key]:
    """Return the keys of a range, ascending."""
    async with _walking(connection, keys):
        return await first_keys(connection, table, keys, order, None)


async def first_keys(
    connection: Connection, table: Table, keys: KeyRange, order: str, limit: int | None
) -> list[Key]:
    """Return the first keys of a range, ascending."""
    selection = key_selection(table)
    params = Params()
    condition = where(table, None, params, range_sql(table, keys, order, params))
    statement = f"SELECT {selection.sql} FROM {table.relation}{condition}{by_key(table, order)}"
    if limit is not None:
        statement += f" LIMIT {params.add(limit)}::int8"
    if len(table.key_columns) == len(table.spec.key):
        return await fetch_rows(connection, table, statement, params)
    records = await fetch(connection, table, selection, statement, params)
    return [record.key for record in records]


def by_key(table: Table, order: str) -> str:
    """Return the ORDER BY of the key."""
    terms = key_terms(table, order)
    return f" ORDER BY {', '.join(terms)}" if terms else ""


async def split(
    connection: Connection, table: Table, rows_per_range: int, order: str
) -> list[KeyRange]:
    """Cut the table after every `rows_per_range` rows; the first and the last range are open."""
    selection = key_selection(table)
    numbered = (
        f"SELECT *, row_number() OVER ({by_key(table, order)}) AS number_,"
        f" count(*) OVER () AS total_ FROM {table.relation}"
    )
    statement = (
        f"SELECT {selection.sql} FROM ({numbered}) AS rows_"
        f" WHERE number_ % $1::int8 = 0 AND number_ < total_ ORDER BY number_"
    )
    records = await fetch(connection, table, selection, statement, [rows_per_range])
    cuts: list[Key | None] = [record.key for record in records]
    return [
        KeyRange(after=after, upto=upto)
        for after, upto in zip([None, *cuts], [*cuts, None], strict=True)
    ]


@dataclass(frozen=True, slots=True)
class DigestAsk:
    """What is digested of each row, and the order in which keys are compared."""

    fields: Sequence[str]
    order: str
    vectors: bool = True


def row_digest(table: Table, asked: DigestAsk) -> str:
    """Return the expression of a row's digest in hexadecimal (see proxy.canonical).

    The vector's text is framed without asking for its length: it would be computed twice, and it
    is nearly all of the work.
    """
    framed = [
        types.framed(table.fields[name].type, table.fields[name].value)
        for name in (*table.spec.key, *asked.fields)
    ]
    if table.spec.vector is not None and asked.vectors:
        vector = f"coalesce('32:' || md5(vector_send({table.vector})), '-')"
        framed.append(vector if table.vector else "'-'")
    return f"md5({' || '.join(framed)})"


async def digest(
    connection: Connection, table: Table, keys: KeyRange, asked: DigestAsk
) -> RangeDigest:
    """Sum the digests of a range's rows.

    The halves are summed as signed numbers; each negative low half stands for 2**64 more, that
    is, one more in the high half.
    """
    params = Params()
    condition = where(table, None, params, range_sql(table, keys, asked.order, params))
    walk = by_key(table, asked.order) if condition else ""
    statement = (
        "SELECT count(*), coalesce(sum(high_), 0)::text, coalesce(sum(low_), 0)::text,"
        " count(*) FILTER (WHERE low_ < 0) FROM (SELECT"
        " ('x' || left(digest_, 16))::bit(64)::int8 AS high_,"
        " ('x' || right(digest_, 16))::bit(64)::int8 AS low_"
        f" FROM (SELECT {row_digest(table, asked)} AS digest_ FROM {table.relation}"
        f"{condition}{walk} OFFSET 0) AS rows_ OFFSET 0) AS halves_"
    )
    async with _walking(connection, keys):
        cursor = await connection.execute(statement, params, prepare=True, binary=True)
        rows, high, low, borrowed = await cursor.fetchone() or (0, "0", "0", 0)
    total = int(high) * _HALF + int(low) + borrowed * _HALF
    return RangeDigest(rows=rows, sum=total % 2**128)


async def key_digests(
    connection: Connection, table: Table, keys: KeyRange, asked: DigestAsk
) -> list[KeyDigest]:
    """Digest each row of a range, ascending by key."""
    selection = key_selection(table)
    params = Params()
    condition = where(table, None, params, range_sql(table, keys, asked.order, params))
    statement = (
        f"SELECT {selection.sql}, {row_digest(table, asked)} FROM {table.relation}{condition}"
        f"{by_key(table, asked.order)}"
    )
    async with _walking(connection, keys):
        cursor = await connection.execute(statement, params, prepare=True, binary=True)
        rows = await cursor.fetchall()
    decode = selection.decode
    return [KeyDigest(key=decode(row).key, digest=int(row[-1], 16)) for row in rows]
