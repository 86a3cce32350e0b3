"""The stores of a fault test as they are without Crossfade: settings, tables, rows as they lie.

A later engine joins by one line in `GROUNDS`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import psycopg

from tests.faults.harness.databases import DIM, Row, Rows

COLLECTIONS = ("documents", "pages")
"""Two of a kind, so that one table can be at work while the other is."""
_KEY = ("doc_type", "source_name", "doc_path")
_VALUES = ("content", "token_count", "created_at", "embedding")
_TABLE = f"""
CREATE TABLE {{name}} (doc_type text NOT NULL, source_name text NOT NULL, doc_path text NOT NULL,
    content text NOT NULL, token_count int, created_at timestamptz, embedding vector({DIM}),
    PRIMARY KEY (doc_type, source_name, doc_path));
"""
_SOURCES = """
CREATE TABLE sources (doc_type text NOT NULL, source_name text NOT NULL, version text,
    PRIMARY KEY (doc_type, source_name));
"""


class Ground(Protocol):
    """One store of a migration."""

    @property
    def section(self) -> Mapping[str, Any]:
        """Its section of the configuration."""

    def create(self) -> None:
        """Make what Crossfade does not make itself."""

    async def rows(self, collection: str) -> Rows:
        """Return every row of a collection by key: content, token count, time, vector."""


Make: TypeAlias = Callable[[str, Path, Callable[[], str]], Ground]
"""Its name ("old" or "new"), a folder for it, and who makes databases."""


@dataclass(frozen=True)
class PostgresGround:
    """A database of its own."""

    dsn: str

    @property
    def section(self) -> Mapping[str, Any]:
        """See Ground."""
        return {
            "engine": "postgresql",
            "dsn": self.dsn,
            "pool_size_min": 1,
            "pool_size_max": 4,
        }

    def create(self) -> None:
        """See Ground."""
        tables = "".join(_TABLE.format(name=name) for name in COLLECTIONS)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute((tables + _SOURCES).encode())

    async def rows(self, collection: str) -> Rows:
        """See Ground."""
        columns = ", ".join((*_KEY, *_VALUES[:-1]))
        query = f"SELECT {columns}, embedding::text FROM {collection}"
        with psycopg.connect(self.dsn) as connection:
            found = connection.execute(query.encode()).fetchall()
        return _by_key([(*row[:-1], _from_text(row[-1])) for row in found])


@dataclass(frozen=True)
class LanceGround:
    """A folder of its own; Crossfade makes the tables."""

    folder: Path
    lance: Mapping[str, Any]

    @property
    def section(self) -> Mapping[str, Any]:
        """See Ground."""
        return {"engine": "lancedb", "uri": str(self.folder), "lance": dict(self.lance)}

    def create(self) -> None:
        """See Ground."""

    async def rows(self, collection: str) -> Rows:
        """See Ground."""
        import lancedb

        database = await lancedb.connect_async(str(self.folder))
        table = await database.open_table(collection)
        found = (await table.query().to_arrow()).to_pylist()
        names = (*_KEY, *_VALUES)
        return _by_key([tuple(_plain(row[name]) for name in names) for row in found])


LANCE = {"optimize_commits": 2, "keep_versions_s": 60.0}
"""A table is optimised after every second commit: nearly always."""

GROUNDS: Mapping[str, Make] = {
    "postgresql": lambda _name, _folder, make_database: PostgresGround(make_database()),
    "lancedb": lambda name, folder, _make: LanceGround(folder / f"{name}.lancedb", LANCE),
}


def _by_key(rows: list[Row]) -> Rows:
    found = {tuple(row[: len(_KEY)]): row[len(_KEY) :] for row in rows}
    assert len(found) == len(rows), "a key is there twice"
    return found


def _from_text(text: str | None) -> bytes | None:
    if text is None:
        return None
    return np.array(text.strip("[]").split(","), dtype=np.float32).tobytes()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return np.array(value, dtype=np.float32).tobytes()
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=value.tzinfo or dt.UTC).astimezone(dt.UTC)
    return value


def collections() -> dict[str, Any]:
    """Return the `collections:` section: the same logical and physical names on both sides."""
    text = {"type": "text", "required": True}
    fields = {
        **dict.fromkeys(_KEY, text),
        "content": text,
        "token_count": {"type": "int"},
        "created_at": {"type": "timestamp", "default": "now", "keep": True},
    }
    columns = {name: name for name in fields} | {"embedding": {"vector": True}}
    found: dict[str, Any] = {
        name: {
            "key": list(_KEY),
            "fields": fields,
            "vector": {"dim": DIM},
            "old": {"table": name, "columns": columns},
            "new": {"table": name, "columns": columns},
        }
        for name in COLLECTIONS
    }
    names = {"doc_type": text, "source_name": text, "version": {"type": "text"}}
    side = {"table": "sources", "columns": {name: name for name in names}}
    found["sources"] = {"key": list(_KEY[:2]), "fields": names, "old": side, "new": side}
    return found


@dataclass(frozen=True)
class Pair:
    """The two stores of a migration."""

    old: Ground
    new: Ground

    @staticmethod
    def make(old: str, new: str, folder: Path, make_database: Callable[[], str]) -> Pair:
        """Make the stores of two engines, with empty tables."""
        made = {
            side: GROUNDS[engine](side, folder, make_database)
            for side, engine in (("old", old), ("new", new))
        }
        for ground in made.values():
            ground.create()
        return Pair(**made)

    async def differences(self) -> list[str]:
        """Return, for people, every row that is not the same on both sides."""
        found = []
        for name in COLLECTIONS:
            old, new = await asyncio.gather(self.old.rows(name), self.new.rows(name))
            found += [
                f"{name} {key}: old {old.get(key)}, new {new.get(key)}"
                for key in sorted(old.keys() | new.keys())
                if old.get(key) != new.get(key)
            ]
        return found

    async def assert_equal(self) -> None:
        """Fail, naming rows, unless both stores hold the same."""
        found = await self.differences()
        assert not found, f"{len(found)} rows differ:\n" + "\n".join(found[:20])
