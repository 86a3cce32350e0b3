"""Rows that match a filter, in batches: what LanceDB can decide it does, the rest is decided here.

Memory is bounded by one batch, whatever the table's size.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from proxy.filters import matches
from proxy.model import Record
from proxy.query import Filter, Projection, fields_of
from proxy.stores.lancedb.conditions import split
from proxy.stores.lancedb.rows import Selection, select
from proxy.stores.lancedb.sql import all_of
from proxy.stores.lancedb.table import Table

BATCH_ROWS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A filter made ready.

    Attributes:
        sql: what LanceDB decides, None: everything.
        rest: what is decided here, None: nothing.
    """

    table: Table
    sql: str | None
    rest: Filter | None


def prepare(table: Table, filter: Filter | None, condition: str | None = None) -> Scan:
    """Return how to find the rows that match a filter and, if given, a SQL condition."""
    sql, rest = split(table, filter)
    parts = [part for part in (condition, sql) if part is not None]
    return Scan(table=table, sql=all_of(parts) if parts else None, rest=rest)


def needed(scan: Scan, projection: Projection) -> Selection:
    """Return how to read a projection and, besides, what the rest of the filter looks at."""
    fields = projection.fields
    if fields is not None and scan.rest is not None:
        fields = tuple({*fields, *fields_of(scan.rest)})
    return select(scan.table, Projection(fields=fields, vector=projection.vector))


async def batches(
    handle: Any, scan: Scan, selection: Selection, *, rows_max: int = BATCH_ROWS
) -> AsyncIterator[Any]:
    """Yield matching rows as pyarrow.Tables of `selection.names`."""
    query = handle.query()
    if scan.sql is not None:
        query = query.where(scan.sql)
    reader = await query.select(selection.names).to_batches(max_batch_length=rows_max)
    async for batch in reader:
        rows = pa.Table.from_batches([batch])
        if scan.rest is not None:
            rows = rows.filter(pa.array(decide(scan, selection, rows), pa.bool_()))
        if rows.num_rows:
            yield rows


def decide(scan: Scan, selection: Selection, rows: Any) -> list[bool]:
    """Say of each row whether the rest of the filter is true of it."""
    assert scan.rest is not None  # noqa: S101  # the caller looked
    looked = select(scan.table, Projection(fields=tuple(fields_of(scan.rest))))
    return [matches(scan.rest, scan.table.spec, record) for record in looked.records(rows)]


async def records(
    handle: Any, scan: Scan, selection: Selection
) -> AsyncIterator[tuple[Any, list[Record]]]:
    """Yield matching rows with their records."""
    async for rows in batches(handle, scan, selection):
        yield rows, selection.records(rows)
