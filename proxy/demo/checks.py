"""The independent check: both databases read straight from PostgreSQL, row by row.

Nothing of Crossfade is used here: no store, no layout, no digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import psycopg

from proxy.demo.oracle import Expectation, Image, agrees
from proxy.demo.tables import TABLES, Table
from proxy.model import JsonValue, Key, encode_key

Rows: TypeAlias = Mapping[Key, Mapping[str, JsonValue]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDifference:
    """One row that the two databases do not hold alike.

    Attributes:
        kind: "mismatched", "missing" (not on the secondary) or "extra" (only there).
        fields: what differs, empty unless mismatched.
    """

    collection: str
    key: Key
    kind: str
    fields: tuple[str, ...] = ()

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "collection": self.collection,
            "key": encode_key(self.key),
            "kind": self.kind,
            "fields": list(self.fields),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LostWrite:
    """An acknowledged write that a store does not hold."""

    collection: str
    key: Key
    store: str
    found: Image
    expected: tuple[Image, ...]

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "collection": self.collection,
            "key": encode_key(self.key),
            "store": self.store,
            "found": self.found,
            "expected": list(self.expected),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All rows of both databases, by collection and key; texts and vectors by their md5."""

    old: Mapping[str, Rows]
    new: Mapping[str, Rows]

    def rows(self, side: str) -> int:
        """Count the rows of "old" or "new"."""
        return sum(len(rows) for rows in (self.old if side == "old" else self.new).values())


def read_contents(old_dsn: str, new_dsn: str) -> Contents:
    """Read both databases, each in one transaction."""
    return Contents(
        old=_read(old_dsn, [(table, table.old) for table in TABLES]),
        new=_read(new_dsn, [(table, table.new) for table in TABLES]),
    )


def compare(contents: Contents, *, primary: str) -> tuple[int, list[RowDifference]]:
    """Compare row by row. Return how many are equal, and every one that is not, in key order."""
    matched = 0
    differences: list[RowDifference] = []
    for table in TABLES:
        sides = (contents.old[table.collection], contents.new[table.collection])
        ours, theirs = sides if primary == "old" else sides[::-1]
        for key in sorted(ours.keys() | theirs.keys()):
            difference = _difference(table, key, ours.get(key), theirs.get(key))
            if difference is None:
                matched += 1
            else:
                differences.append(difference)
    return matched, differences


def lost_writes(contents: Contents, expected: Iterable[Expectation]) -> list[LostWrite]:
    """Return every key whose value on a store is none of those its writers allow."""
    lost = []
    for expectation in expected:
        for store, rows in (("old", contents.old), ("new", contents.new)):
            found = rows[expectation.collection].get(expectation.key)
            if not any(agrees(image, found) for image in expectation.images):
                lost.append(
                    LostWrite(
                        collection=expectation.collection,
                        key=expectation.key,
                        store=store,
                        found=found,
                        expected=expectation.images,
                    )
                )
    return lost


def _read(dsn: str, statements: Sequence[tuple[Table, str]]) -> dict[str, Rows]:
    contents: dict[str, Rows] = {}
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table, statement in statements:
            cursor = connection.execute(statement.encode())
            parts = table.key_parts
            contents[table.collection] = {
                tuple(row[:parts]): dict(zip(table.fields, row[parts:], strict=True))
                for row in cursor
            }
    return contents


def _difference(
    table: Table,
    key: Key,
    primary: Mapping[str, JsonValue] | None,
    secondary: Mapping[str, JsonValue] | None,
) -> RowDifference | None:
    if primary == secondary:
        return None
    if primary is None or secondary is None:
        kind = "missing" if secondary is None else "extra"
        return RowDifference(collection=table.collection, key=key, kind=kind)
    fields = tuple(name for name in table.fields if primary[name] != secondary[name])
    return RowDifference(collection=table.collection, key=key, kind="mismatched", fields=fields)
