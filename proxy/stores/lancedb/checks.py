"""Does a layout suit LanceDB, and does the table there suit the layout? Every problem, by name."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from proxy.errors import StoreProblem
from proxy.layouts import Column, ColumnKind, IndexSpec, Layout
from proxy.model import CollectionSpec, encode_key
from proxy.stores.lancedb.ranges import repeated
from proxy.stores.lancedb.sql import identifier
from proxy.stores.lancedb.table import OpenTable, Table
from proxy.stores.lancedb.types import allowed_names, column_type

INDEX_METHODS: Final = ("ivf_flat", "ivf_pq")
_UNQUOTABLE: Final = frozenset("`.\0")
_GIVE_KEYS: Final = "delete these rows, or give them keys, in LanceDB itself"
_KEEP_ONE: Final = "leave one row of each, in LanceDB itself: a record is one row"


def layout_problems(store: str, spec: CollectionSpec, layout: Layout) -> list[StoreProblem]:
    """Return what in a layout LanceDB cannot do."""
    found = [_column_problem(spec, column) for column in layout.columns]
    found += [_key_problem(layout, name) for name in spec.key]
    if layout.index is not None:
        found.append(_index_problem(layout.index))
    return [
        StoreProblem(store=store, what=f"the layout of {spec.name}: {what}")
        for what in found
        if what
    ]


def _column_problem(spec: CollectionSpec, column: Column) -> str:
    if not column.name or not _UNQUOTABLE.isdisjoint(column.name):
        return f"{column.name!r} is no column name LanceDB can quote"
    if column.kind is ColumnKind.PARENT_ID:
        return f"column {column.name} looks its parent up; LanceDB has no such ids (use the key)"
    if column.kind is ColumnKind.VECTOR and spec.vector is None:
        return f"column {column.name} holds a vector, and the collection has none"
    if column.kind is ColumnKind.FIELD:
        kind = spec.by_name[column.field].type
        if column_type(column, kind) is None:
            expected = allowed_names(kind)
            return f"column {column.name}: expected a type of {expected}, got {column.type}"
    return ""


def _key_problem(layout: Layout, name: str) -> str:
    if name in layout.constants:
        return ""
    if any(c.kind is ColumnKind.FIELD and c.field == name for c in layout.columns):
        return ""
    return f"the key field {name} has no column of its own"


def _index_problem(index: IndexSpec) -> str:
    if index.method in INDEX_METHODS:
        return ""
    return (
        f"index {index.name}: expected a method of {', '.join(INDEX_METHODS)}, got {index.method}"
    )


def table_problems(store: str, table: Table, actual: Any) -> list[StoreProblem]:
    """Compare a table's Arrow schema with what its layout asks for."""
    found = []
    for expected in table.schema:
        at = actual.get_field_index(expected.name)
        if at < 0:
            found.append(f"table {table.name} has no column {expected.name}")
        elif not _same(expected.type, actual.field(at).type):
            found.append(
                f"column {expected.name} of table {table.name}: expected {expected.type},"
                f" got {actual.field(at).type}"
            )
    known = set(table.schema.names)
    found += [
        f"column {field.name} of table {table.name}: expected one that may be null (the layout"
        " does not fill it), got one that may not"
        for field in actual
        if field.name not in known and not field.nullable
    ]
    return [StoreProblem(store=store, what=what) for what in found]


async def key_problems(store: str, opened: OpenTable) -> list[StoreProblem]:
    """Look for rows without a key, and for keys of several rows: an older table may have both.

    LanceDB has no unique constraint, so this reads all keys: some tenths of a second a million.
    """
    schema, found = await opened.handle.schema(), []
    for column in opened.table.key_columns:
        if not schema.field(column.name).nullable:
            continue
        rows = await opened.handle.count_rows(f"{identifier(column.name)} IS NULL")
        if rows:
            what = (
                f"column {column.name} of table {opened.table.name} is part of the key of"
                f" {opened.table.spec.name}, and null in {rows} row(s)"
            )
            found.append(StoreProblem(store=store, what=what, hint=_GIVE_KEYS))
    again = await repeated(opened.handle, opened.table)
    if again.count:
        named = ", ".join(encode_key(key) for key in again.first)
        more = ", ..." if again.count > len(again.first) else ""
        what = f"table {opened.table.name} has {again.count} key(s) more than once: {named}{more}"
        found.append(StoreProblem(store=store, what=what, hint=_KEEP_ONE))
    return found


def _same(expected: Any, actual: Any) -> bool:
    """True for one type, whatever a list calls its items."""
    if pa.types.is_fixed_size_list(expected) and pa.types.is_fixed_size_list(actual):
        return bool(
            expected.list_size == actual.list_size and expected.value_type == actual.value_type
        )
    if pa.types.is_list(expected) and pa.types.is_list(actual):
        return bool(expected.value_type == actual.value_type)
    return bool(expected == actual)
