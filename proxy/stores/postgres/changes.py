"""Updates and deletes as SQL: a patch reads under a lock, a parent goes only without children."""

from __future__ import annotations

from proxy.layouts import ColumnKind
from proxy.model import Write
from proxy.stores.postgres.rows import PLAIN, WHOLE, select
from proxy.stores.postgres.table import Table, identifier
from proxy.stores.postgres.writes import (
    Getters,
    Statement,
    Tables,
    field_getter,
    given_fields,
    looks_up_parent,
    packed_change,
    packed_getter,
    parent_lookup,
    vector_of,
)


def delete(table: Table) -> str:
    """Return the statement that deletes one key."""
    return table.cached(
        "delete", lambda: f"DELETE FROM {table.relation} WHERE {table.key_equals(1)} RETURNING 1"
    )


def lock(table: Table) -> str:
    """Return the statement that locks one key's row."""
    return table.cached(
        "lock",
        lambda: f"SELECT 1 FROM {table.relation} WHERE {table.key_equals(1)} FOR UPDATE",
    )


def children_of(table: Table, tables: Tables) -> tuple[Table, ...]:
    """Return the tables whose records have a parent here."""
    return tuple(
        child
        for child in tables.values()
        if child.spec.parent is not None and child.spec.parent.collection == table.name
    )


def delete_childless(table: Table, tables: Tables) -> str:
    """Return the statement that deletes a key unless a child refers to it, in any way.

    It runs after `lock` in the same transaction, so that no child can come in between; rows that
    a foreign key with ON DELETE CASCADE would take along silently count as children too.
    """
    return table.cached("delete childless", lambda: _delete_childless(table, tables))


def _delete_childless(table: Table, tables: Tables) -> str:
    conditions = [table.key_equals(1, "gone_.")]
    for child in children_of(table, tables):
        for reference in _references(table, child):
            conditions.append(
                f"NOT EXISTS (SELECT 1 FROM {child.relation} AS child_ WHERE {reference})"
            )
    return f"DELETE FROM {table.relation} AS gone_ WHERE {' AND '.join(conditions)} RETURNING 1"


def _references(table: Table, child: Table) -> list[str]:
    spec = child.spec.parent
    assert spec is not None  # noqa: S101  # children_of chose it
    numbers = {name: number for number, name in enumerate(table.key_columns, start=1)}
    equal = []
    for own, name in zip(spec.fields, table.spec.key, strict=True):
        item = child.fields[own]
        cast = table.fields[name].cast
        parent = f"${numbers[name]}::{cast}" if name in numbers else table.fields[name].value
        if item.column:
            equal.append(f"child_.{item.column} = {parent}")
        elif item.constant and name in numbers:
            equal.append(f"{item.value} = {parent}")
    references = [" AND ".join(equal) or "true"]
    for column in child.layout.columns:
        if column.kind is ColumnKind.PARENT_ID:
            parent_id = identifier(column.lookup_id)
            references.append(f"child_.{identifier(column.name)} = gone_.{parent_id}")
    return references


def read_for_patch(table: Table) -> str:
    """Return the statement that reads one whole record and locks its row."""
    return table.cached(
        "read for patch",
        lambda: (
            f"SELECT {select(table, WHOLE).sql} FROM {table.relation}"
            f" WHERE {table.key_equals(1)} FOR UPDATE"
        ),
    )


def find_parent(table: Table, write: Write, tables: Tables) -> Statement | None:
    """Return the statement that finds the parent a patch names, None if it names none."""
    spec = table.spec.parent
    if spec is None or not looks_up_parent(table):
        return None
    outside = [name for name in spec.fields if name not in table.spec.key]
    if not outside or any(write.fields.get(name) is None for name in outside):
        return None
    getters = Getters()
    return Statement(parent_lookup(table, tables, getters), tuple(getters))


def update(table: Table, write: Write, tables: Tables) -> Statement:
    """Return the UPDATE of a patch whose fields are merged already; it returns the new row."""
    given = given_fields(table, write)
    shape = ("update", given, write.set_vector)
    return table.cached(shape, lambda: _update(table, write, given, tables))


def _update(table: Table, write: Write, given: tuple[str, ...], tables: Tables) -> Statement:
    getters = Getters()
    for name in table.key_columns:
        getters.append(field_getter(table, name))
    changes: list[str] = []
    for column in table.layout.columns:
        name = identifier(column.name)
        if column.kind is ColumnKind.FIELD and column.field in given:
            value = table.written(column.field, getters.add(field_getter(table, column.field)))
            changes.append(f"{name} = {value}")
        elif column.kind is ColumnKind.VECTOR and write.set_vector:
            changes.append(f"{name} = {getters.add(vector_of)}::vector")
        elif column.kind is ColumnKind.PACKED:
            placeholder = f"${len(getters) + 1}::jsonb"
            change = packed_change(
                table,
                column,
                given=frozenset(given),
                keep=frozenset(),
                stored=name,
                new=placeholder,
            )
            if change:
                getters.add(packed_getter(table, column, given))
                changes.append(f"{name} = {change}")
        elif column.kind is ColumnKind.PARENT_ID and find_parent(table, write, tables):
            changes.append(f"{name} = ({parent_lookup(table, tables, getters)})")
    if not changes:
        first = table.fields[table.key_columns[0]].column
        changes.append(f"{first} = {first}")
    returning = select(table, PLAIN).sql
    return Statement(
        f"UPDATE {table.relation} SET {', '.join(changes)} WHERE {table.key_equals(1)}"
        f" RETURNING {returning}",
        tuple(getters),
    )
