"""The doc server's two databases with short vectors: made, filled, and compared row by row."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.doc_server import PRESETS

DIM = 8
Row: TypeAlias = tuple[Any, ...]
Rows: TypeAlias = dict[tuple[str, ...], Row]

_SOURCES = {
    "old": "SELECT 'rust', name, version, last_updated, total_docs, total_tokens FROM crates",
    "new": "SELECT doc_type, source_name, config->>'version', last_populated AT TIME ZONE 'UTC',"
    " (config->>'total_docs')::int, (config->>'total_tokens')::int FROM document_sources",
}
_DOCUMENTS = {
    "old": "SELECT 'rust', crate_name, doc_path, content, token_count, created_at, id,"
    " embedding::text FROM doc_embeddings",
    "new": "SELECT doc_type, source_name, doc_path, content, token_count, created_at,"
    " (metadata->>'original_id')::int, embedding::text FROM documents",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Databases:
    """Connection strings that lead straight to the servers."""

    old: str
    new: str
    ledger: str

    def dsn(self, name: str) -> str:
        """Return the connection string of "old", "new" or "ledger"."""
        return {"old": self.old, "new": self.new, "ledger": self.ledger}[name]


def create_tables(dsn: str, side: str) -> None:
    """Create the doc server's tables of one side, with vectors of `DIM`."""
    text = (PRESETS / f"doc_server_{side}.sql").read_text("utf-8")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(text.replace("vector(3072)", f"vector({DIM})").encode())


@contextmanager
def fresh_databases(admin: str) -> Iterator[Callable[[], str]]:
    """Return a function that makes an empty database; all of them are dropped at the end."""
    made: list[str] = []

    def make() -> str:
        name = f"t_{uuid.uuid4().hex[:12]}"
        execute(admin, f'CREATE DATABASE "{name}"')
        made.append(name)
        return make_conninfo(admin, dbname=name)

    try:
        yield make
    finally:
        for name in made:
            execute(admin, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def make_databases(make: Callable[[], str]) -> Databases:
    """Make three databases, two of them with tables."""
    found = Databases(old=make(), new=make(), ledger=make())
    create_tables(found.old, "old")
    create_tables(found.new, "new")
    return found


def vector_of(text: str) -> NDArray[np.float32]:
    """Return the vector that belongs to a text: float32, shape (DIM,)."""
    return np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIM).astype(np.float32)


def vector_text(values: Iterable[float]) -> str:
    """Return a vector as pgvector reads it."""
    return "[" + ",".join(repr(float(value)) for value in values) + "]"


def load_old(dsn: str, documents: Mapping[str, Iterable[str]]) -> None:
    """Put crates with documents (path -> content "loaded CRATE/PATH") into the old database."""
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        for crate, paths in documents.items():
            cursor.execute(
                "INSERT INTO crates (name, version) VALUES (%s, '1.0') RETURNING id", (crate,)
            )
            (number,) = cursor.fetchone() or (0,)
            rows = [(number, crate, path, f"loaded {crate}/{path}", len(path)) for path in paths]
            cursor.executemany(
                "INSERT INTO doc_embeddings (crate_id, crate_name, doc_path, content, token_count,"
                " embedding) VALUES (%s, %s, %s, %s, %s, %s::vector)",
                [(*row, vector_text(vector_of(row[3]))) for row in rows],
            )


def sources(dsn: str, side: str) -> Rows:
    """Return every source of one side in logical form."""
    return _rows(dsn, _SOURCES[side], 2)


def documents(dsn: str, side: str) -> Rows:
    """Return every document of one side in logical form."""
    return _rows(dsn, _DOCUMENTS[side], 3)


def _rows(dsn: str, query: str, key_parts: int) -> Rows:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(query.encode()).fetchall()
    found = {tuple(row[:key_parts]): tuple(row[key_parts:]) for row in rows}
    assert len(found) == len(rows), "a key is there twice"
    return found


def differences(dbs: Databases) -> list[str]:
    """Return, for people, every row that is not the same on both sides."""
    found = []
    for kind, read in (("source", sources), ("document", documents)):
        old, new = read(dbs.old, "old"), read(dbs.new, "new")
        found += [
            f"{kind} {key}: old {old.get(key)}, new {new.get(key)}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
    return found


def assert_equal(dbs: Databases) -> None:
    """Fail, naming rows, unless both stores hold the same."""
    found = differences(dbs)
    assert not found, f"{len(found)} rows differ:\n" + "\n".join(found[:20])


def one(dsn: str, query: str, *params: object) -> Any:
    """Return the one value of a query, None if it has no row."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode(), params).fetchone()
    return None if row is None else row[0]


def execute(dsn: str, statement: str, *params: object) -> None:
    """Run one statement."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode(), params)


def left_over(ledger: str) -> tuple[int, int]:
    """Return how many intents are unsettled and how many keys are dirty."""
    with psycopg.connect(ledger, autocommit=True) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM crossfade.intents WHERE settled_xid IS NULL),"
            " (SELECT count(*) FROM crossfade.dirty)"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


@contextmanager
def locked(dsn: str, table: str) -> Iterator[None]:
    """Lock a table for the length of the context, so that every write of it waits."""
    with psycopg.connect(dsn) as connection:
        statement = sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE")
        connection.execute(statement.format(sql.Identifier(table)))
        yield
        connection.rollback()


def allow_connections(dsn: str, allowed: bool) -> None:
    """Let a database take connections or refuse them all, and end those it has."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as connection:
        statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Literal(allowed)))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
