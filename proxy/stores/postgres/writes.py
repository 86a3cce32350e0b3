"""One write as one SQL statement, compiled once for each shape of write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from proxy.layouts import Column, ColumnKind
from proxy.model import FieldType, JsonValue, ParentSpec, Value, Write, WriteOp
from proxy.stores.postgres.adapt import PackedVector, json_param
from proxy.stores.postgres.catalog import quoted
from proxy.stores.postgres.table import Table, identifier, literal

Tables: TypeAlias = Mapping[str, Table]
Getter: TypeAlias = Callable[[Write], Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """A compiled statement; `params` makes its parameters from a write of the same shape."""

    sql: str
    getters: tuple[Getter, ...]

    def params(self, write: Write) -> list[Any]:
        """Return the statement's parameters."""
        return [getter(write) for getter in self.getters]


class Getters(list[Getter]):
    """The parameters of a statement that is being compiled."""

    def add(self, getter: Getter) -> str:
        """Append a parameter and return its placeholder."""
        self.append(getter)
        return f"${len(self)}"


def given_fields(table: Table, write: Write) -> tuple[str, ...]:
    """Return the names of the write's fields that this store can set."""
    settable = table.cached("settable", lambda: _settable(table))
    return tuple(name for name in write.fields if name in settable)


def _settable(table: Table) -> frozenset[str]:
    stored = table.layout.stored_fields() - table.layout.constants.keys()
    return frozenset(
        item.name for item in table.spec.value_fields if item.name in stored and not item.generated
    )


def upsert(table: Table, write: Write, tables: Tables) -> Statement:
    """Return the statement of an UPSERT or INSERT of this shape.

    It returns one row of two numbers for an INSERT whose parent is looked up (parents found,
    rows inserted). Every other one returns a row if it was applied; none is "parent missing" for
    an UPSERT, "exists" for an INSERT.
    """
    given = given_fields(table, write)
    orphan = _orphan(table, write)
    shape = (write.op, given, write.set_vector, write.keep, orphan)
    return table.cached(shape, lambda: _Upsert(table, write, given, orphan, tables).compile())


def counts_parents(table: Table, write: Write) -> bool:
    """True if the statement of this INSERT returns its two numbers."""
    return write.op is WriteOp.INSERT and looks_up_parent(table) and not _orphan(table, write)


def looks_up_parent(table: Table) -> bool:
    """True if a child is written only where its parent is found."""
    return table.spec.parent is not None and (
        table.layout.check_parent or _parent_column(table) is not None
    )


def _parent_column(table: Table) -> Column | None:
    columns = table.layout.columns
    return next((c for c in columns if c.kind is ColumnKind.PARENT_ID), None)


def _orphan(table: Table, write: Write) -> bool:
    """True if the write names no parent (a part of it is null or not given)."""
    parent = table.spec.parent
    if parent is None:
        return False
    return any(
        name not in table.spec.key and write.fields.get(name) is None for name in parent.fields
    )


class _Upsert:
    """Builds one INSERT ... ON CONFLICT."""

    def __init__(
        self, table: Table, write: Write, given: tuple[str, ...], orphan: bool, tables: Tables
    ) -> None:
        self.table = table
        self.write = write
        self.given = given
        self.keep = write.keep
        self.parent = looks_up_parent(table) and not orphan
        self.tables = tables
        self.getters = Getters()
        self.columns: list[str] = []
        self.values: list[str] = []
        self.changes: list[str] = []

    def compile(self) -> Statement:
        """Return the statement."""
        lookup = parent_lookup(self.table, self.tables, self.getters) if self.parent else ""
        for column in self.table.layout.columns:
            self._column(column)
        relation, columns = self.table.relation, ", ".join(self.columns)
        source = (
            f"SELECT {', '.join(self.values)} FROM parent_"
            if self.parent
            else f"VALUES ({', '.join(self.values)})"
        )
        insert = (
            f"INSERT INTO {relation} AS stored_ ({columns}) {source} {self._conflict()} RETURNING 1"
        )
        if not self.parent:
            return Statement(insert, tuple(self.getters))
        if self.write.op is WriteOp.INSERT:
            statement = (
                f"WITH parent_ AS ({lookup}), made_ AS ({insert})"
                " SELECT (SELECT count(*) FROM parent_), (SELECT count(*) FROM made_)"
            )
        else:
            statement = f"WITH parent_ AS ({lookup}) {insert}"
        return Statement(statement, tuple(self.getters))

    def _column(self, column: Column) -> None:
        name = identifier(column.name)
        if column.kind is ColumnKind.PARENT_ID:
            if self.parent:
                self._set(name, "parent_.id_", changes=f"{name} = EXCLUDED.{name}")
        elif column.kind is ColumnKind.VECTOR:
            if self.write.set_vector:
                placeholder = self.getters.add(vector_of)
                self._set(name, f"{placeholder}::vector", changes=f"{name} = EXCLUDED.{name}")
        elif column.kind is ColumnKind.PACKED:
            self._packed(column, name)
        elif column.field in self.table.spec.key or column.field in self.given:
            getter = field_getter(self.table, column.field)
            value = self.table.written(column.field, self.getters.add(getter))
            changed = column.field in self.given and column.field not in self.keep
            self._set(name, value, changes=f"{name} = EXCLUDED.{name}" if changed else "")

    def _packed(self, column: Column, name: str) -> None:
        getter = packed_getter(self.table, column, self.given)
        self._set(name, f"{self.getters.add(getter)}::jsonb", changes="")
        change = packed_change(
            self.table,
            column,
            given=frozenset(self.given),
            keep=self.keep,
            stored=f"stored_.{name}",
            new=f"EXCLUDED.{name}",
        )
        if change:
            self.changes.append(f"{name} = {change}")

    def _set(self, name: str, value: str, *, changes: str) -> None:
        self.columns.append(name)
        self.values.append(value)
        if changes:
            self.changes.append(changes)

    def _conflict(self) -> str:
        columns = [self.table.fields[name].column for name in self.table.key_columns]
        target = f"ON CONFLICT ({', '.join(columns)})"
        if self.write.op is WriteOp.INSERT:
            return f"{target} DO NOTHING"
        changes = self.changes or [f"{columns[0]} = EXCLUDED.{columns[0]}"]
        return f"{target} DO UPDATE SET {', '.join(changes)}"


def packed_change(
    table: Table,
    column: Column,
    *,
    given: frozenset[str],
    keep: frozenset[str],
    stored: str,
    new: str,
) -> str:
    """Return what a packed column becomes, "" for no change.

    `stored` and `new` are expressions of the stored object and of the one that holds the given
    fields. Names that belong to nobody, to kept fields or to fields not given stay as stored.
    """
    key = table.spec.key
    changing = [p.name for p in column.packed if p.field in given - keep or p.field in key]
    staying = [p.name for p in column.packed if p.name not in changing]
    if column.rest and column.rest in given - keep:
        if not staying:
            return new
        return f"{_without(new, staying)} || {_only(stored, staying)}"
    if not any(p.field in given - keep for p in column.packed):
        return ""
    # Picking names apart takes longer than the rest of the update; mostly nothing is to be left.
    left_out = column.rest in given or any(p.field in given & keep for p in column.packed)
    return f"coalesce({stored}, '{{}}'::jsonb) || {_only(new, changing) if left_out else new}"


def _without(value: str, names: Sequence[str]) -> str:
    return f"({value} - ARRAY[{', '.join(literal(name) for name in names)}]::text[])"


def _only(value: str, names: Sequence[str]) -> str:
    """Return the part of a JSON object that has these names."""
    listed = ", ".join(literal(name) for name in names)
    return (
        "coalesce((SELECT jsonb_object_agg(e_.key, e_.value) FROM"
        f" jsonb_each({value}) AS e_ WHERE e_.key = ANY(ARRAY[{listed}]::text[])), '{{}}'::jsonb)"
    )


def parent_lookup(table: Table, tables: Tables, getters: list[Getter]) -> str:
    """Return the query that finds and locks the parent, so that it stays until the commit."""
    column = _parent_column(table)
    spec = table.spec.parent
    if column is not None:
        matches = []
        for parent_column, name in column.lookup_match.items():
            getters.append(field_getter(table, name))
            cast = table.fields[name].cast
            matches.append(f"{identifier(parent_column)} = ${len(getters)}::{cast}")
        return (
            f"SELECT {identifier(column.lookup_id)} AS id_ FROM {quoted(column.lookup_table)}"
            f" WHERE {' AND '.join(matches)} FOR KEY SHARE"
        )
    assert spec is not None  # noqa: S101  # looks_up_parent said so
    return f"SELECT 1 AS id_ FROM {_parent_match(table, spec, tables, getters)} FOR KEY SHARE"


def _parent_match(table: Table, spec: ParentSpec, tables: Tables, getters: list[Getter]) -> str:
    parent = tables[spec.collection]
    matches = []
    for own, name in zip(spec.fields, parent.spec.key, strict=True):
        getters.append(field_getter(table, own))
        item = parent.fields[name]
        matches.append(f"{item.value} = ${len(getters)}::{item.cast}")
    return f"{parent.relation} WHERE {' AND '.join(matches)}"


def vector_of(write: Write) -> PackedVector | None:
    """Return a write's vector as a parameter."""
    return None if write.vector is None else PackedVector(write.vector)


def field_getter(table: Table, name: str) -> Getter:
    """Return the function that gets a field of a write as a parameter."""
    if name in table.spec.key:
        at = table.spec.key.index(name)
        return lambda write: write.key[at]
    kind = table.spec.by_name[name].type
    if kind is FieldType.JSON:
        return lambda write: _json_or_null(write.fields.get(name))
    if kind is FieldType.FLOAT:
        return lambda write: _float_or_null(write.fields.get(name))
    if kind is FieldType.TEXT_LIST:
        return lambda write: _list_or_null(write.fields.get(name))
    return lambda write: write.fields.get(name)


def _json_or_null(value: Value) -> Any:
    return None if value is None else json_param(value)


def _float_or_null(value: Value) -> Any:
    return float(value) if isinstance(value, int) else value


def _list_or_null(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def packed_getter(table: Table, column: Column, given: Sequence[str]) -> Getter:
    """Return the function that packs a write's given fields into one JSON object."""
    key = table.spec.key
    items = [
        (packed.name, field_getter(table, packed.field), table.spec.by_name[packed.field].type)
        for packed in column.packed
        if packed.field in given or packed.field in key
    ]
    rest = column.rest if column.rest in given else ""
    own = frozenset(packed.name for packed in column.packed)

    def pack(write: Write) -> Any:
        packed: dict[str, JsonValue] = {}
        extra = write.fields.get(rest) if rest else None
        if isinstance(extra, Mapping):
            packed.update((name, item) for name, item in extra.items() if name not in own)
        for name, getter, kind in items:
            packed[name] = _packable(kind, write, getter)
        return json_param(packed)

    return pack


def _packable(kind: FieldType, write: Write, getter: Getter) -> JsonValue:
    value = getter(write)
    if value is None:
        return None
    if kind is FieldType.TIMESTAMP:
        return value.isoformat()  # type: ignore[no-any-return]  # a datetime
    if kind is FieldType.JSON:
        return value.obj  # type: ignore[no-any-return]  # the value inside json_param
    return value  # type: ignore[no-any-return]  # a JSON scalar or list
