"""What the database really has: tables, columns, unique keys, sequences, collations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from psycopg import sql

from proxy.stores.postgres.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnInfo:
    """One column.

    Attributes:
        type: the type's own name without modifiers ("varchar", "int4", "vector").
        shown: the type as a person writes it ("character varying(255)").
        modifier: the type's modifier, -1 for none: n + 4 of varchar(n), the dimension of vector(n).
        collation: "C" if its texts are ordered by their bytes, "" for no collation, else a name
            with version: two columns with the same name order alike.
    """

    name: str
    type: str
    shown: str
    modifier: int
    not_null: bool
    has_default: bool
    computed: bool
    collation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInfo:
    """One table; `unique` has the column sets of its valid, total unique indexes."""

    oid: int
    columns: Mapping[str, ColumnInfo]
    unique: frozenset[frozenset[str]]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The tables of the layouts that exist, by the layout's name for them.

    `vector` is the version of the extension, () if it is not installed.
    """

    tables: Mapping[str, TableInfo] = field(default_factory=dict)
    encoding: str = ""
    vector: tuple[int, ...] = ()


_TABLES = """
SELECT wanted.name, c.oid::int8, c.reltuples::int8
FROM unnest($1::text[], $2::text[]) AS wanted(name, quoted)
JOIN pg_class c ON c.oid = to_regclass(wanted.quoted)
WHERE c.relkind IN ('r', 'p', 'v', 'f', 'm')
"""
_COLUMNS = """
SELECT a.attrelid::int8, a.attname::text, t.typname::text, format_type(a.atttypid, a.atttypmod),
       a.atttypmod::int8, a.attnotnull, a.atthasdef OR a.attidentity <> '',
       a.attgenerated <> '' OR a.attidentity = 'a',
       CASE
         WHEN a.attcollation = 0 THEN ''
         WHEN l.oid = 100 THEN coalesce(d.about->>'datlocprovider', 'c') || '|' ||
              coalesce(d.about->>'datlocale', d.about->>'daticulocale', d.about->>'datcollate')
              || '|' || coalesce(d.about->>'datcollversion', '')
         ELSE l.collprovider::text || '|' ||
              coalesce(l.collcollate, to_jsonb(l)->>'colllocale', to_jsonb(l)->>'colliculocale', '')
              || '|' || coalesce(l.collversion, '')
       END
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
CROSS JOIN (SELECT to_jsonb(x) AS about FROM pg_database x WHERE datname = current_database()) d
WHERE a.attrelid::int8 = ANY($1::int8[]) AND a.attnum > 0 AND NOT a.attisdropped
"""
_UNIQUE = """
SELECT i.indrelid::int8, array_agg(a.attname::text)
FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1])
WHERE i.indrelid::int8 = ANY($1::int8[]) AND i.indisunique AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, i.indrelid
"""
_DATABASE = """
SELECT current_setting('server_encoding'),
       coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), '')
"""

_BYTE_ORDERED = frozenset({"C", "POSIX", "C.UTF-8", "C.UTF8", "C.utf8", "ucs_basic", "PG_C_UTF8"})


def quoted(table: str) -> str:
    """Return a table's or sequence's name, qualified or not, quoted for SQL."""
    return sql.Identifier(*table.split(".")).as_string(None)


async def read_catalog(connection: Connection, tables: Iterable[str]) -> Catalog:
    """Read what is known of these tables; those that do not exist are left out."""
    names = sorted(set(tables))
    cursor = await connection.execute(_TABLES, [names, [quoted(name) for name in names]])
    found = {name: (oid, rows) for name, oid, rows in await cursor.fetchall()}
    oids = [oid for oid, _ in found.values()]
    cursor = await connection.execute(_DATABASE)
    row = await cursor.fetchone()
    encoding, version = row if row else ("", "")
    columns: dict[int, dict[str, ColumnInfo]] = {oid: {} for oid in oids}
    cursor = await connection.execute(_COLUMNS, [oids])
    for (
        oid,
        name,
        kind,
        shown,
        modifier,
        not_null,
        has_default,
        computed,
        order,
    ) in await cursor.fetchall():
        columns[oid][name] = ColumnInfo(
            name=name,
            type=kind,
            shown=shown,
            modifier=modifier,
            not_null=not_null,
            has_default=has_default,
            computed=computed,
            collation=collation_token(order, encoding),
        )
    unique: dict[int, set[frozenset[str]]] = {oid: set() for oid in oids}
    cursor = await connection.execute(_UNIQUE, [oids])
    for oid, names_of_index in await cursor.fetchall():
        unique[oid].add(frozenset(names_of_index))
    return Catalog(
        tables={
            name: TableInfo(
                oid=oid, columns=columns[oid], unique=frozenset(unique[oid]), rows=max(0, rows)
            )
            for name, (oid, rows) in found.items()
        },
        encoding=encoding,
        vector=tuple(int(part) for part in version.split(".") if part.isdigit()),
    )


def collation_token(order: str, encoding: str) -> str:
    """Name an order of texts: "C" for that of their UTF-8 bytes, "" for none."""
    if not order:
        return ""
    provider, locale, _ = order.split("|", 2)
    if encoding == "UTF8" and locale in _BYTE_ORDERED and provider in ("b", "c", "d"):
        return "C"
    return f"{order}|{encoding}"
