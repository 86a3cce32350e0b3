"""A layout compiled to SQL: the expression of every logical field, and the key's columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from psycopg import sql

from proxy.errors import Corrupt
from proxy.layouts import Column, ColumnKind, Layout, Packed
from proxy.model import CollectionSpec, FieldType, Key, Value
from proxy.stores.postgres import types
from proxy.stores.postgres.catalog import ColumnInfo, TableInfo, quoted

_T = TypeVar("_T")
_CACHED_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSql:
    """A logical field in SQL.

    Attributes:
        value: expression of its logical value; a typed NULL if this store does not hold it.
        ordered: the same, ordered by bytes if it is a text.
        cast: the logical type, for parameters that it is compared with.
        column: the physical column of a field with a column of its own, else "".
        constant: the store implies the value.
    """

    value: str
    ordered: str
    cast: str
    type: FieldType
    column: str = ""
    constant: bool = False


@dataclass(slots=True)
class Table:
    """One collection in one PostgreSQL store.

    `columns` are the columns that hold one field each, by field. `cache` keeps compiled
    statements by shape; its bound is small because shapes are few.
    """

    spec: CollectionSpec
    layout: Layout
    info: TableInfo
    relation: str
    fields: Mapping[str, FieldSql]
    vector: str
    columns: Mapping[str, Column]
    cache: dict[object, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.spec.name

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The logical key fields that have a column here (the others are constants)."""
        return tuple(name for name in self.spec.key if not self.fields[name].constant)

    def cached(self, shape: object, make: Callable[[], _T]) -> _T:
        """Return what `make` made for this shape, once."""
        found = self.cache.get(shape)
        if found is None:
            while len(self.cache) >= _CACHED_MAX:
                self.cache.pop(next(iter(self.cache)))
            found = self.cache[shape] = make()
        return found

    def key_params(self, key: Key) -> list[Any]:
        """Return the key parts that have a column, in the key's order."""
        return [
            part
            for name, part in zip(self.spec.key, key, strict=True)
            if not self.fields[name].constant
        ]

    def key_equals(self, first: int, alias: str = "") -> str:
        """Return `k1 = $first AND k2 = ...` over the key's columns."""
        parts = []
        for number, name in enumerate(self.key_columns, start=first):
            item = self.fields[name]
            parts.append(f"{alias}{item.column} = {self.written(name, f'${number}')}")
        return " AND ".join(parts) or "true"

    def written(self, name: str, value: str) -> str:
        """Return what the field's own column is set to, or compared with, from a parameter."""
        column = self.columns[name]
        kind = self.info.columns[column.name].type
        return types.writing(self.fields[name].type, kind, value, naive_utc=column.naive_utc)

    def order_token(self) -> str:
        """Name the order of this table's keys."""
        infos = [self.info.columns[self.columns[name].name] for name in self.key_columns]
        tokens = {info.collation for info in infos if info.collation}
        return "C" if tokens <= {"C"} else "+".join(sorted(tokens))


def literal(value: object) -> str:
    """Return a value of the configuration as a SQL literal."""
    return sql.Literal(value).as_string(None)


def identifier(name: str) -> str:
    """Return a quoted column name."""
    return sql.Identifier(name).as_string(None)


def compile_table(spec: CollectionSpec, layout: Layout, info: TableInfo) -> Table:
    """Compile a layout whose table exists.

    Raises:
        Corrupt: a column of the layout is not there.
    """
    missing = [column.name for column in layout.columns if column.name not in info.columns]
    if missing:
        raise Corrupt(
            f"The table {layout.table} lacks the column {', '.join(missing)} of {spec.name}.",
            hint="`crossfade plan` lists everything that is missing.",
        )
    fields = {item.name: _absent(item.type) for item in spec.fields}
    for column in layout.columns:
        for packed in column.packed:
            fields[packed.field] = _packed(spec, info, column, packed)
        if column.rest:
            fields[column.rest] = _rest(column)
    for column in layout.columns:
        if column.kind is ColumnKind.FIELD:
            kind = spec.by_name[column.field].type
            fields[column.field] = _plain(kind, column, info.columns[column.name])
    for name, value in layout.constants.items():
        fields[name] = _constant(spec.by_name[name].type, value)
    vectors = [c.name for c in layout.columns if c.kind is ColumnKind.VECTOR]
    return Table(
        spec=spec,
        layout=layout,
        info=info,
        relation=quoted(layout.table),
        fields=fields,
        vector=identifier(vectors[0]) if vectors else "",
        columns={c.field: c for c in layout.columns if c.kind is ColumnKind.FIELD},
    )


def _absent(kind: FieldType) -> FieldSql:
    cast = types.LOGICAL[kind]
    return FieldSql(value=f"NULL::{cast}", ordered=f"NULL::{cast}", cast=cast, type=kind)


def _constant(kind: FieldType, value: Value) -> FieldSql:
    cast = types.LOGICAL[kind]
    shown = f"{literal(value)}::{cast}"
    return FieldSql(value=shown, ordered=shown, cast=cast, type=kind, constant=True)


def _plain(kind: FieldType, column: Column, info: ColumnInfo) -> FieldSql:
    name = identifier(column.name)
    value = types.reading(kind, info.type, name, naive_utc=column.naive_utc)
    ordered = value
    if kind is FieldType.TEXT and info.collation != "C":
        ordered = f'({value}) COLLATE "C"'
    return FieldSql(value=value, ordered=ordered, cast=types.LOGICAL[kind], type=kind, column=name)


def _packed(spec: CollectionSpec, info: TableInfo, column: Column, packed: Packed) -> FieldSql:
    kind = spec.by_name[packed.field].type
    value = types.unpacking(kind, identifier(column.name), literal(packed.name))
    ordered = f'({value}) COLLATE "C"' if kind is FieldType.TEXT else value
    return FieldSql(value=value, ordered=ordered, cast=types.LOGICAL[kind], type=kind)


def _rest(column: Column) -> FieldSql:
    value = identifier(column.name)
    if column.packed:
        names = ", ".join(literal(packed.name) for packed in column.packed)
        value = f"({value} - ARRAY[{names}]::text[])"
    return FieldSql(value=value, ordered=value, cast="jsonb", type=FieldType.JSON)
