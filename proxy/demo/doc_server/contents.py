"""Both databases of the doc server, read straight from PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from proxy.demo.checks import Contents, Rows
from proxy.demo.doc_server.tables import TABLES, Table


def read_contents(old_dsn: str, new_dsn: str) -> Contents:
    """Read both databases, each in one transaction; texts and vectors by their md5."""
    return Contents(
        old=_read(old_dsn, [(table, table.old) for table in TABLES]),
        new=_read(new_dsn, [(table, table.new) for table in TABLES]),
    )


def _read(dsn: str, statements: Sequence[tuple[Table, str]]) -> dict[str, Rows]:
    contents: dict[str, Rows] = {}
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table, statement in statements:
            cursor = connection.execute(statement.encode())
            parts = table.key_parts
            contents[table.collection] = {
                tuple(row[:parts]): dict(zip(table.fields, row[parts:], strict=True))
                for row in cursor
            }
    return contents
