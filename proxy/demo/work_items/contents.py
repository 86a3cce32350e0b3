"""Both stores of the work items, read directly: SQL on one side, Arrow on the other.

Nothing of Crossfade is used here: no store, no layout, no digest. What each column holds was
written down by hand, so that a mistake in a layout shows.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import psycopg

from proxy.demo.checks import Contents, Rows
from proxy.demo.oracle import vector_name
from proxy.demo.work_items.items import COLLECTION, FIELDS, plain_value
from proxy.model import JsonValue, Key

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "WorkItem"
_TIMES = frozenset({"created_at", "updated_at"})


def read_contents(dsn: str, folder: str) -> Contents:
    """Read the PostgreSQL table and the LanceDB one; vectors by their md5, the rest as it is."""
    table = read_lancedb(folder)
    vectors = vectors_of(table)
    return Contents(
        old={COLLECTION: read_postgresql(dsn)},
        new={COLLECTION: rows_of(table, vectors)},
        vectors=vectors,
    )


def read_postgresql(dsn: str) -> Rows:
    """Read the old table in one statement."""
    fields = ", ".join(
        f"(extract(epoch FROM {name}) * 1000000)::bigint" if name in _TIMES else name
        for name in FIELDS
    )
    statement = f"SELECT id, md5(vector_send(embedding)), {fields} FROM work_items"  # noqa: S608  # names of our own
    with psycopg.connect(dsn) as connection:
        return {
            (key,): {"vector": vector, **dict(zip(FIELDS, values, strict=True))}
            for key, vector, *values in connection.execute(statement.encode())
        }


def read_lancedb(folder: str) -> pa.Table:
    """Read the new table with a handle of its own, as any program beside Crossfade would."""

    async def read() -> pa.Table:
        import lancedb

        connection = await lancedb.connect_async(folder)
        table = await connection.open_table(TABLE)
        return await table.query().to_arrow()

    return asyncio.run(read())


def rows_of(table: pa.Table, vectors: Mapping[Key, bytes | None]) -> Rows:
    """Return the rows of the new table by key, in the same form as those of the old one."""
    return {
        (row["id"],): {"vector": vector_name(vectors[row["id"],]), **_fields(row)}
        for row in table.select(["id", *FIELDS]).to_pylist()
    }


def vectors_of(table: pa.Table) -> Mapping[Key, bytes | None]:
    """Return the vectors of the new table, packed float32."""
    import numpy as np

    return {
        (key,): None if vector is None else np.asarray(vector, dtype="<f4").tobytes()
        for key, vector in zip(
            table.column("id").to_pylist(), table.column("vector").to_pylist(), strict=True
        )
    }


def _fields(row: Mapping[str, object]) -> dict[str, JsonValue]:
    fields: dict[str, JsonValue] = {}
    for name in FIELDS:
        value = row[name]
        if name in _TIMES and isinstance(value, dt.datetime):
            value = value.replace(tzinfo=dt.UTC)  # the column has no zone; its values are UTC
        elif name == "metadata" and isinstance(value, str):
            value = json.loads(value)
        fields[name] = plain_value(value)
    return fields
