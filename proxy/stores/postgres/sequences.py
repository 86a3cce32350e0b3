"""Number sequences: allocating from them, and moving them past what is stored."""

from __future__ import annotations

from proxy.errors import Reason, Rejected
from proxy.stores.postgres.catalog import quoted
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.table import Table, identifier

_NEXT = "SELECT nextval($1::text::regclass) FROM generate_series(1, $2::int8)"
_OWNER = """
SELECT n.nspname::text || '.' || c.relname, a.attname::text
FROM pg_depend d
JOIN pg_class c ON c.oid = d.refobjid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.objid = $1::text::regclass AND d.deptype IN ('a', 'i')
"""


async def next_ids(
    connection: Connection, table: Table, field: str, count: int, store: str
) -> list[int]:
    """Allocate numbers from a field's sequence."""
    name = table.layout.sequences.get(field)
    if name is None:
        raise Rejected(
            f"The {store} store has no sequence for {table.name}.{field}.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Name it in the layout under `sequences`.",
        )
    cursor = await connection.execute(_NEXT, [quoted(name), count], prepare=True, binary=True)
    return [row[0] for row in await cursor.fetchall()]


async def align(connection: Connection, table: Table) -> None:
    """Move the table's sequences past the largest number stored.

    A sequence that serves a serial column of its own, too, passes that column's largest number as
    well. One that is ahead already is not touched, so a live allocator is never set back.
    """
    for field, name in table.layout.sequences.items():
        sources = [f"SELECT max({table.fields[field].value}) AS n FROM {table.relation}"]
        cursor = await connection.execute(_OWNER, [quoted(name)])
        for owner, column in await cursor.fetchall():
            sources.append(f"SELECT max({identifier(column)}) FROM {quoted(owner)}")
        await connection.execute(
            f"SELECT setval($1::text::regclass, top.n) FROM"
            f" (SELECT max(n)::int8 AS n FROM ({' UNION ALL '.join(sources)}) AS all_) AS top,"
            f" {quoted(name)} AS s WHERE top.n > s.last_value OR"
            " (top.n = s.last_value AND NOT s.is_called)",
            [quoted(name)],
        )


async def raise_to(connection: Connection, table: Table, *, field: str, floor: int) -> None:
    """Move a field's sequence past `floor`; one that is ahead already is not touched."""
    name = table.layout.sequences.get(field)
    if name is None:
        return
    await connection.execute(
        f"SELECT setval($1::text::regclass, $2::int8) FROM {quoted(name)} AS s"
        " WHERE $2::int8 > s.last_value OR ($2::int8 = s.last_value AND NOT s.is_called)",
        [quoted(name), floor],
    )
