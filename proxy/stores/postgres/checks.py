"""Does the database have what the layouts describe? Every problem at once, each with a hint."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.errors import StoreProblem
from proxy.layouts import Column, ColumnKind, Layout, StoreSchema
from proxy.model import CollectionSpec, FieldType
from proxy.stores.postgres.catalog import Catalog, ColumnInfo, TableInfo, quoted
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.types import fitting

_SEQUENCES = """
SELECT name FROM unnest($1::text[], $2::text[]) AS wanted(name, quoted)
WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(quoted) AND relkind = 'S')
"""
_RIGHTS = """
SELECT array_agg(right_) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r(right_)
WHERE NOT has_table_privilege($1::int8::oid, right_)
"""
_LANGUAGES = """
SELECT name FROM unnest($1::text[]) AS wanted(name)
WHERE NOT EXISTS (SELECT FROM pg_ts_config c JOIN pg_namespace n ON n.oid = c.cfgnamespace
                  WHERE name IN (c.cfgname, n.nspname || '.' || c.cfgname))
"""
_VECTOR_MIN = (0, 8)


async def check_schema(
    connection: Connection, schema: StoreSchema, catalog: Catalog, store: str
) -> list[StoreProblem]:
    """Return everything in the layouts that the database does not have."""
    problems: list[StoreProblem] = []

    def complain(what: str, hint: str) -> None:
        problems.append(StoreProblem(store=store, what=what, hint=hint))

    if catalog.encoding and catalog.encoding != "UTF8":
        complain(
            f"the database's encoding is {catalog.encoding}",
            "digests compare UTF-8 texts; only a UTF8 database can be verified",
        )
    vectors = any(schema.collections[name].vector is not None for name in schema.layouts)
    if vectors and not catalog.vector:
        complain("the extension vector is missing", "run CREATE EXTENSION vector")
    elif catalog.vector < _VECTOR_MIN and any(x.index for x in schema.layouts.values()):
        shown = ".".join(map(str, catalog.vector))
        hint = "ALTER EXTENSION vector UPDATE: 0.8 scans an index until a filter is satisfied"
        complain(f"the extension vector is of version {shown}, not 0.8 or later", hint)
    for name, layout in schema.layouts.items():
        info = catalog.tables.get(layout.table)
        if info is None:
            hint = f"create it, or correct `table` of {name} in the configuration"
            complain(f"the table {layout.table} of {name} does not exist", hint)
            continue
        for what, hint in _table_problems(schema.collections[name], layout, info):
            complain(f"{layout.table}{what}", hint)
        for what, hint in _parent_problems(layout, catalog):
            complain(what, hint)
        cursor = await connection.execute(_RIGHTS, [info.oid])
        row = await cursor.fetchone()
        if row and row[0]:
            rights = ", ".join(row[0])
            complain(f"{rights} on {layout.table} is not allowed", f"GRANT {rights} to the role")
    names = sorted({seq for layout in schema.layouts.values() for seq in layout.sequences.values()})
    cursor = await connection.execute(_SEQUENCES, [names, [quoted(name) for name in names]])
    for (name,) in await cursor.fetchall():
        complain(f"the sequence {name} does not exist", "correct `sequences` in the configuration")
    words = [schema.collections[name].keyword for name in schema.layouts]
    languages = sorted({keyword.language for keyword in words if keyword is not None})
    cursor = await connection.execute(_LANGUAGES, [languages])
    for (name,) in await cursor.fetchall():
        hint = "keyword.language is one of `SELECT cfgname FROM pg_ts_config`, such as english"
        complain(f"the text search configuration {name} does not exist", hint)
    return problems


def _table_problems(
    spec: CollectionSpec, layout: Layout, info: TableInfo
) -> Iterator[tuple[str, str]]:
    for column in layout.columns:
        found = info.columns.get(column.name)
        if found is None:
            known = ", ".join(sorted(info.columns))
            yield f" has no column {column.name}", f"it has {known}"
        else:
            yield from _column_problems(spec, column, found)
    described = {column.name for column in layout.columns}
    for found in info.columns.values():
        if found.name not in described and found.not_null and not found.has_default:
            hint = "name it in the layout, or give it a default"
            yield f".{found.name} may not be null, has no default and is not in the layout", hint
    key = [
        column.name
        for part in spec.key
        for column in layout.columns
        if column.kind is ColumnKind.FIELD and column.field == part
    ]
    if info.columns.keys() >= set(key) and frozenset(key) not in info.unique:
        columns = ", ".join(key)  # in the key's order: the index serves walks in it, too
        yield (
            f" has no unique constraint on ({columns}), the key of {spec.name}",
            f"ALTER TABLE {layout.table} ADD UNIQUE ({columns})",
        )


def _column_problems(
    spec: CollectionSpec, column: Column, found: ColumnInfo
) -> Iterator[tuple[str, str]]:
    at = f".{column.name}"
    if column.kind is ColumnKind.VECTOR and spec.vector is not None:
        if found.type != "vector":
            yield f"{at} is {found.shown}, not a vector", "the full vector is the truth; keep it"
        elif found.modifier not in (-1, spec.vector.dim):
            hint = f"{spec.name} has {spec.vector.dim} dimensions"
            yield f"{at} is {found.shown}", hint
    elif column.kind is ColumnKind.PACKED:
        if found.type != "jsonb":
            yield f"{at} is {found.shown}, not jsonb", "several fields are packed in it"
    elif column.kind is ColumnKind.FIELD:
        yield from _field_problems(spec, column, found)


def _field_problems(
    spec: CollectionSpec, column: Column, found: ColumnInfo
) -> Iterator[tuple[str, str]]:
    at, field = f".{column.name}", spec.by_name[column.field]
    if found.type not in fitting(field.type):
        expected = ", ".join(sorted(fitting(field.type)))
        what = f"{at} is {found.shown}, which cannot hold the {field.type.value} {field.name}"
        yield what, f"expected one of {expected}"
    elif field.type is FieldType.TIMESTAMP:
        if found.type == "timestamp" and not column.naive_utc:
            what = f"{at} is a timestamp without time zone"
            yield what, "say naive_utc: true if its values are UTC"
        if found.type == "timestamptz" and column.naive_utc:
            yield f"{at} is a timestamp with time zone", "remove naive_utc: true"
    if field.name in spec.key and not found.not_null:
        hint = f"a null key is no key: ALTER COLUMN {column.name} SET NOT NULL"
        yield f"{at} is part of the key and may be null", hint
    if found.computed and not field.generated:
        yield f"{at} is computed by the database", f"say generated: true for {field.name}"


def _parent_problems(layout: Layout, catalog: Catalog) -> Iterator[tuple[str, str]]:
    for column in layout.columns:
        if column.kind is not ColumnKind.PARENT_ID:
            continue
        parent = catalog.tables.get(column.lookup_table)
        hint = f"correct parent_id of {layout.table}.{column.name} in the configuration"
        if parent is None:
            missing = f"the table {column.lookup_table}"
            yield f"{missing}, where {column.name} is looked up, does not exist", hint
            continue
        for name in (column.lookup_id, *column.lookup_match):
            if name not in parent.columns:
                yield f"{column.lookup_table} has no column {name}", hint
