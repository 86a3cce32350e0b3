"""Lists and counts: by LanceDB where it orders as Crossfade does, else over a bounded stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from lancedb.query import ColumnOrdering

from proxy.filters import field_value, orderable, sort_value, summable
from proxy.model import Key, Record, Value
from proxy.query import CountQuery, Group, ListQuery, Order, Projection
from proxy.stores.lancedb.rows import KEYS, Selection, select
from proxy.stores.lancedb.scan import Scan, batches, needed, prepare, records
from proxy.stores.lancedb.sql import behind, is_orderable
from proxy.stores.lancedb.table import Table
from proxy.stores.memory_rows import project
from proxy.stores.ordering import compare_rows, order_terms, row_values


async def list_records(handle: Any, table: Table, query: ListQuery) -> list[Record]:
    """Return the page of records that the query asks for."""
    selection, rows = await _page(handle, table, query, query.projection)
    return [project(record, query.projection) for record in selection.records(rows)]


async def list_keys(handle: Any, table: Table, query: ListQuery) -> list[Key]:
    """Return the keys of the page."""
    selection, rows = await _page(handle, table, query, KEYS)
    return selection.keys(rows)


async def _page(
    handle: Any, table: Table, query: ListQuery, projection: Projection
) -> tuple[Selection, Any]:
    terms = order_terms(query, table.spec)
    native = all(_is_native(table, term) for term in terms)
    after = None
    if native and query.after is not None:
        after = behind(table, terms, query.after)
    scan = prepare(table, query.filter, after)
    if native and scan.rest is None:
        return await _native_page(handle, scan, query, terms, projection)
    return await _scanned_page(handle, scan, query, terms, projection)


def _is_native(table: Table, term: Order) -> bool:
    column = table.columns.get(term.field)
    if column is None:
        return term.field in table.layout.constants
    return is_orderable(column)


async def _native_page(
    handle: Any,
    scan: Scan,
    query: ListQuery,
    terms: Sequence[Order],
    projection: Projection,
) -> tuple[Selection, Any]:
    """Let LanceDB sort; constants order nothing."""
    table = scan.table
    selection = select(table, projection)
    order = ordering(table, terms)
    asked = handle.query()
    if scan.sql is not None:
        asked = asked.where(scan.sql)
    columns = _with(selection.names, [item.column_name for item in order])
    asked = asked.select(columns).order_by(order).offset(query.offset).limit(query.limit)
    return selection, await asked.to_arrow()


def _with(names: Sequence[str], more: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*names, *more)))


def ordering(table: Table, terms: Sequence[Order]) -> list[ColumnOrdering]:
    """Return the order as LanceDB wants it: nulls last ascending, first descending."""
    found: dict[str, ColumnOrdering] = {}
    for term in terms:
        column = table.columns.get(term.field)
        if column is not None and column.name not in found:
            found[column.name] = ColumnOrdering(
                column_name=column.name,
                ascending=not term.descending,
                nulls_first=term.descending,
            )
    return list(found.values())


async def _scanned_page(
    handle: Any,
    scan: Scan,
    query: ListQuery,
    terms: Sequence[Order],
    projection: Projection,
) -> tuple[Selection, Any]:
    """Keep the first `offset + limit` rows of a stream; what is in memory may be asked."""
    table, room = scan.table, query.offset + query.limit
    fields = projection.fields
    if fields is not None:
        fields = (*fields, *(term.field for term in terms))
    selection = needed(scan, Projection(fields=fields, vector=projection.vector))
    looked = select(table, Projection(fields=tuple({term.field for term in terms})))
    kept: Any = None
    values: list[tuple[Value, ...]] = []
    async for rows in batches(handle, scan, selection):
        found = [row_values(record, table.spec, terms) for record in looked.records(rows)]
        both = rows if kept is None else pa.concat_tables([kept, rows])
        kept, values = _best(both, values + found, query, terms, room)
    if kept is None:
        return selection, no_rows(selection)
    return selection, kept.slice(query.offset, query.limit)


def _best(
    rows: Any,
    values: Sequence[tuple[Value, ...]],
    query: ListQuery,
    terms: Sequence[Order],
    room: int,
) -> tuple[Any, list[tuple[Value, ...]]]:
    """Return the first `room` of these rows in order, with their order values."""
    after = query.after
    places = [
        at
        for at, value in enumerate(values)
        if after is None or compare_rows(value, after, terms) > 0
    ]
    for number, term in reversed(tuple(enumerate(terms))):  # each sort keeps the order of the last
        column = [_sorts_by(value[number]) for value in values]
        places.sort(key=column.__getitem__, reverse=term.descending)
    del places[room:]
    return rows.take(pa.array(places, pa.int64())), [values[at] for at in places]


def _sorts_by(value: Value) -> tuple[bool, tuple[int, object]]:
    return (value is None, (0, 0) if value is None else sort_value(value))


def no_rows(selection: Selection) -> Any:
    """Return a pyarrow.Table of the selection's columns without a row."""
    table = selection.table
    return pa.schema([table.schema.field(name) for name in selection.names]).empty_table()


async def count(handle: Any, table: Table, query: CountQuery) -> list[Group]:
    """Count and sum, by group if asked, ascending with the null group last."""
    if query.group_by is not None:
        orderable(table.spec, query.group_by, "group_by")
    if query.sum_field is not None:
        summable(table.spec, query.sum_field)
    scan = prepare(table, query.filter)
    if query.group_by is None and query.sum_field is None and scan.rest is None:
        return [Group(value=None, count=await handle.count_rows(scan.sql))]
    counts: dict[Any, int] = {} if query.group_by is not None else {None: 0}
    sums: dict[Any, float] = {}
    fields = tuple(name for name in (query.group_by, query.sum_field) if name is not None)
    selection = needed(scan, Projection(fields=fields))
    async for _, found in records(handle, scan, selection):
        for record in found:
            _add(table, query, record, counts, sums)
    values = sorted(
        counts, key=lambda value: (value is None, sort_value(0 if value is None else value))
    )
    return [Group(value=v, count=counts[v], sum=sums.get(v, 0.0)) for v in values]


def _add(
    table: Table,
    query: CountQuery,
    record: Record,
    counts: dict[Any, int],
    sums: dict[Any, float],
) -> None:
    group: Any = None
    if query.group_by is not None:
        group = field_value(table.spec, record, query.group_by)
    counts[group] = counts.get(group, 0) + 1
    if query.sum_field is not None:
        value = field_value(table.spec, record, query.sum_field)
        if isinstance(value, int | float):
            sums[group] = sums.get(group, 0.0) + value
