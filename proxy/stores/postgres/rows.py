"""Rows to records: select lists, and the functions that decode what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.errors import Corrupt
from proxy.layouts import Column, ColumnKind
from proxy.model import FieldType, Key, Record, Value, encode_key
from proxy.query import Projection
from proxy.stores.packed import EXPECTED, unpacked
from proxy.stores.postgres.table import Table, identifier

PLAIN = Projection()
WHOLE = Projection(vector=True)


@dataclass(frozen=True, slots=True)
class _Packed:
    """A packed column as a row is decoded: which of its names are wanted, decided once.

    Attributes:
        inner: (field, name inside the object, type, the Python type it mostly has).
        rest: the field that takes every other name, "" if it is not wanted.
        own: the names that do not belong to the rest.
    """

    position: int
    column: str
    inner: tuple[tuple[str, str, FieldType, type | None], ...]
    rest: str
    own: frozenset[str]


@dataclass(frozen=True, slots=True)
class Selection:
    """A select list, and the function that makes a record of its rows."""

    sql: str
    decode: Callable[[Sequence[Any]], Record]


def select(table: Table, projection: Projection) -> Selection:
    """Return the select list of a projection (key parts first) and its decoder."""
    shape = ("select", projection.fields, projection.vector)
    return table.cached(shape, lambda: _select(table, projection))


def _select(table: Table, projection: Projection) -> Selection:
    wanted = None if projection.fields is None else frozenset(projection.fields)
    spec = table.spec
    expressions: list[str] = []
    for name in table.key_columns:
        expressions.append(table.fields[name].value)
    plain: list[tuple[str, int]] = []
    packed: list[tuple[Column, int]] = []
    for column in table.layout.columns:
        if column.kind is ColumnKind.FIELD and column.field not in spec.key:
            if wanted is None or column.field in wanted:
                plain.append((column.field, len(expressions)))
                expressions.append(table.fields[column.field].value)
        elif column.kind is ColumnKind.PACKED and _unpacks(column, wanted):
            packed.append((column, len(expressions)))
            expressions.append(identifier(column.name))
    constants = {
        name: value
        for name, value in table.layout.constants.items()
        if name not in spec.key and (wanted is None or name in wanted)
    }
    vector_at = -1
    if projection.vector and table.vector:
        vector_at = len(expressions)
        expressions.append(table.vector)
    decode = _decoder(table, plain, _unpackers(table, packed, wanted), constants, vector_at)
    return Selection(", ".join(expressions) or "1", decode)


def _unpacks(column: Column, wanted: frozenset[str] | None) -> bool:
    """True if a packed column holds anything that is asked for."""
    if wanted is None:
        return True
    rest = bool(column.rest) and column.rest in wanted
    return rest or any(item.field in wanted for item in column.packed)


def _unpackers(
    table: Table, columns: Sequence[tuple[Column, int]], wanted: frozenset[str] | None
) -> list[_Packed]:
    found = []
    for column, position in columns:
        kinds = {item.field: table.spec.by_name[item.field].type for item in column.packed}
        inner = tuple(
            (item.field, item.name, kinds[item.field], EXPECTED.get(kinds[item.field]))
            for item in column.packed
            if (wanted is None or item.field in wanted)
            and item.field not in table.spec.key
            and not table.fields[item.field].column
        )
        rest = column.rest if wanted is None or column.rest in wanted else ""
        own = frozenset(packed.name for packed in column.packed)
        found.append(_Packed(position, column.name, inner, rest, own))
    return found


def _decoder(
    table: Table,
    plain: list[tuple[str, int]],
    unpackers: list[_Packed],
    constants: Mapping[str, Value],
    vector_at: int,
) -> Callable[[Sequence[Any]], Record]:
    """Return the function that makes a record of a row of the select list."""
    spec, collection = table.spec, table.spec.name
    width = len(table.key_columns)
    implied = [table.layout.constants.get(name) for name in spec.key]
    has_implied = width != len(spec.key)

    def decode(row: Sequence[Any]) -> Record:
        key: Key = tuple(row[:width])
        if has_implied:
            parts = iter(key)
            key = tuple(
                value if value is not None else next(parts)  # type: ignore[misc]  # key parts
                for value in implied
            )
        fields: dict[str, Value] = {name: row[at] for name, at in plain}
        if constants:
            fields.update(constants)
        for packed in unpackers:
            trouble = _unpack(row[packed.position], packed, fields)
            if trouble:
                raise Corrupt(
                    f"The record {encode_key(key)} of {collection} cannot be read: {trouble}.",
                    hint="Correct the row in the store.",
                )
        vector = row[vector_at] if vector_at >= 0 else None
        return Record(collection=collection, key=key, fields=fields, vector=vector)

    return decode


def _unpack(value: Any, packed: _Packed, fields: dict[str, Value]) -> str:
    """Spread a packed JSON object over the fields it holds; say what is wrong with it, or ""."""
    if value is None:
        fields.update((name, None) for name, _, _, _ in packed.inner)
        if packed.rest:
            fields[packed.rest] = None
        return ""
    if not isinstance(value, dict):
        return f"{packed.column} is {str(value)[:60]!r}, not a JSON object"
    for name, packed_name, kind, expected in packed.inner:
        item: Any = value.get(packed_name)
        if item is not None and type(item) is not expected:
            made = unpacked(kind, item)
            if made is None:
                shown = str(item)[:60]
                return f"{packed.column}.{packed_name} is {shown!r}, not a {kind.value}"
            item = made
        fields[name] = item
    if packed.rest:
        own = packed.own
        fields[packed.rest] = {name: item for name, item in value.items() if name not in own}
    return ""
