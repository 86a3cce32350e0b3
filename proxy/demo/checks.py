"""The independent check: both stores, read whole and directly, are compared row by row.

Nothing of Crossfade is used here: no store, no layout, no digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from proxy.demo.oracle import Expectation, Image, agrees
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
    """All rows of both stores, by collection and key; texts and vectors may be md5 sums.

    Attributes:
        vectors: of the new store, packed float32, where the scenario inspects them further.
    """

    old: Mapping[str, Rows]
    new: Mapping[str, Rows]
    vectors: Mapping[Key, bytes | None] = field(default_factory=dict)

    def rows(self, side: str) -> int:
        """Count the rows of "old" or "new"."""
        return sum(len(rows) for rows in (self.old if side == "old" else self.new).values())


def compare(contents: Contents, *, primary: str) -> tuple[int, list[RowDifference]]:
    """Compare row by row. Return how many are equal, and every one that is not, in key order."""
    matched = 0
    differences: list[RowDifference] = []
    for collection, old in contents.old.items():
        sides = (old, contents.new[collection])
        ours, theirs = sides if primary == "old" else sides[::-1]
        for key in sorted(ours.keys() | theirs.keys()):
            difference = _difference(collection, key, ours.get(key), theirs.get(key))
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


def _difference(
    collection: str,
    key: Key,
    primary: Mapping[str, JsonValue] | None,
    secondary: Mapping[str, JsonValue] | None,
) -> RowDifference | None:
    if primary == secondary:
        return None
    if primary is None or secondary is None:
        kind = "missing" if secondary is None else "extra"
        return RowDifference(collection=collection, key=key, kind=kind)
    fields = tuple(name for name, value in primary.items() if value != secondary[name])
    return RowDifference(collection=collection, key=key, kind="mismatched", fields=fields)
