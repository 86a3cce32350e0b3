"""Key ranges: cutting a table into them, their keys, and their digests where the data lies."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.errors import Rejected
from proxy.model import Key
from proxy.query import KeyRange
from proxy.stores.base import KeyDigest, RangeDigest
from proxy.stores.postgres import types
from proxy.stores.postgres.conditions import Params, key_terms, range_sql, where
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.reads import fetch, key_selection
from proxy.stores.postgres.table import Table

_HALF = 2**64


def check_order(table: Table, order: str, store: str) -> None:
    """Raise Rejected if this store cannot order the table's keys so."""
    if order not in ("C", table.order_token()):
        raise Rejected(
            f"The {store} store cannot order the keys of {table.name} as {order!r}.",
            hint=f'Its own order is {table.order_token()!r}; every store knows "C".',
        )


async def range_keys(
    connection: Connection, table: Table, keys: KeyRange, order: str, limit: int | None = None
) -> list[Key]:
    """Return the keys of a range, ascending, at most `limit`."""
    selection = key_selection(table)
    params = Params()
    condition = where(table, None, params, range_sql(table, keys, order, params))
    statement = f"SELECT {selection.sql} FROM {table.relation}{condition}{by_key(table, order)}"
    if limit is not None:
        statement += f" LIMIT {params.add(limit)}::int8"
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


def row_digest(table: Table, fields: Sequence[str]) -> str:
    """Return the expression of a row's digest in hexadecimal (see proxy.canonical)."""
    texts = [
        types.canonical(table.fields[name].type, table.fields[name].value)
        for name in (*table.spec.key, *fields)
    ]
    framed = [f"coalesce(octet_length({text}) || ':' || {text}, '-')" for text in texts]
    if table.spec.vector is not None:
        # An md5 is 32 characters; asking for its length would compute it twice a row.
        vector = f"'32:' || md5(vector_send({table.vector}))" if table.vector else "NULL::text"
        framed.append(f"coalesce({vector}, '-')")
    return f"md5({' || '.join(framed)})"


def _rows_of_range(
    table: Table, keys: KeyRange, fields: Sequence[str], order: str, params: Params
) -> str:
    condition = where(table, None, params, range_sql(table, keys, order, params))
    return f"FROM {table.relation}{condition}"


async def digest(
    connection: Connection, table: Table, keys: KeyRange, fields: Sequence[str], order: str
) -> RangeDigest:
    """Sum the digests of a range's rows.

    The halves are summed as signed numbers; each negative low half stands for 2**64 more, that
    is, one more in the high half.
    """
    params = Params()
    source = _rows_of_range(table, keys, fields, order, params)
    statement = (
        "SELECT count(*), coalesce(sum(high_), 0)::text, coalesce(sum(low_), 0)::text,"
        " count(*) FILTER (WHERE low_ < 0) FROM (SELECT"
        " ('x' || left(digest_, 16))::bit(64)::int8 AS high_,"
        " ('x' || right(digest_, 16))::bit(64)::int8 AS low_"
        f" FROM (SELECT {row_digest(table, fields)} AS digest_ {source} OFFSET 0) AS rows_"
        " OFFSET 0) AS halves_"
    )
    cursor = await connection.execute(statement, params, prepare=True, binary=True)
    rows, high, low, borrowed = await cursor.fetchone() or (0, "0", "0", 0)
    total = int(high) * _HALF + int(low) + borrowed * _HALF
    return RangeDigest(rows=rows, sum=total % 2**128)


async def key_digests(
    connection: Connection, table: Table, keys: KeyRange, fields: Sequence[str], order: str
) -> list[KeyDigest]:
    """Digest each row of a range, ascending by key."""
    selection = key_selection(table)
    params = Params()
    source = _rows_of_range(table, keys, fields, order, params)
    statement = (
        f"SELECT {selection.sql}, {row_digest(table, fields)} {source}{by_key(table, order)}"
    )
    cursor = await connection.execute(statement, params, prepare=True, binary=True)
    return [
        KeyDigest(key=selection.decode(row).key, digest=int(row[-1], 16))
        for row in await cursor.fetchall()
    ]
