"""Rows by key, and what else a group of writes must know before it can be resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from proxy.errors import Corrupt
from proxy.model import Key, encode_key
from proxy.query import Projection
from proxy.stores.lancedb.rows import KEYS, PLAIN, WHOLE, Selection, Stored, select
from proxy.stores.lancedb.sql import all_of, identifier, keys_in, literal
from proxy.stores.lancedb.table import OpenTable, Table

_KEYS_A_QUERY: Final = 2000


async def rows_by_key(
    opened: OpenTable, keys: Sequence[Key], selection: Selection, *, single: bool = False
) -> dict[Key, Stored]:
    """Return what is stored under these keys.

    Raises:
        Corrupt: a key has several rows where it must be `single`; a write lays over all.
    """
    found: dict[Key, Stored] = {}
    wanted = [key for key in dict.fromkeys(keys) if holds(opened.table, key)]
    for start in range(0, len(wanted), _KEYS_A_QUERY):
        part = wanted[start : start + _KEYS_A_QUERY]
        rows = await fetch(opened, keys_in(opened.table, part), selection)
        asked = frozenset(part)
        for item in selection.stored(rows):
            key = item.record.key
            if single and key in found:
                raise twice(opened.table, key)
            if key in asked:
                found[key] = item
    return found


def twice(table: Table, key: Key) -> Corrupt:
    """Return the error of a key with several rows; LanceDB itself does not refuse them."""
    return Corrupt(
        f"The table {table.name} has the key {encode_key(key)} of {table.spec.name} twice.",
        hint="Delete the row that is wrong, in LanceDB itself.",
    )


async def existing(opened: OpenTable, keys: Iterable[Key]) -> set[Key]:
    """Return which of these keys are there."""
    found = await rows_by_key(opened, tuple(keys), select(opened.table, KEYS))
    return set(found)


async def fetch(
    opened: OpenTable, condition: str, selection: Selection, limit: int | None = None
) -> Any:
    """Return the rows that match, as a pyarrow.Table."""
    query = opened.handle.query().where(condition).select(selection.names)
    if limit is not None:
        query = query.limit(limit)
    return await query.to_arrow()


def holds(table: Table, key: Key) -> bool:
    """True if a key of this shape can be in the table."""
    spec = table.spec
    if len(key) != len(spec.key) or not table.layout.holds(spec, key):
        return False
    parts = zip(spec.key, key, strict=True)
    columns = ((table.columns.get(name), part) for name, part in parts)
    return all(column is None or literal(column, part) is not None for column, part in columns)


async def children(opened: OpenTable, parent: Key, limit: int) -> list[Key]:
    """Return at most `limit` keys of records whose parent is `parent`."""
    table = opened.table
    assert table.spec.parent is not None  # noqa: S101  # the caller chose a table with parents
    parts = []
    for name, value in zip(table.spec.parent.fields, parent, strict=True):
        column = table.columns.get(name)
        if column is None and table.layout.constants.get(name) == value:
            continue
        made = None if column is None else literal(column, value)
        if column is None or made is None:
            return []
        parts.append(f"{identifier(column.name)} = {made}")
    selection = select(table, KEYS)
    return selection.keys(await fetch(opened, all_of(parts), selection, limit))


def selection_for(table: Table, *, vectors: bool, fields: bool = True) -> Selection:
    """Return how to read whole records, or their keys alone."""
    if not fields:
        return select(table, Projection(fields=(), vector=vectors))
    return select(table, WHOLE if vectors else PLAIN)
