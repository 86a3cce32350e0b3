"""Comparing two sides of a range: counts, candidates and differences, as pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.canonical import differing_fields, value_text
from proxy.ledger.types import Difference
from proxy.model import JsonValue, Key, Record
from proxy.stores.base import KeyDigest
from reconcile.ranges import Scope

OUTCOMES = ("matched", "mismatched", "missing", "extra", "in_flight")
"""What verify counts, per record."""

SHOWN_CHARACTERS_MAX = 80
"""A value in a difference is for a person; the record itself is in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two lists of digests, joined by key: how many agree and which keys need a second look."""

    matched: int
    candidates: tuple[Key, ...]


def compare(scope: Scope, primary: Sequence[KeyDigest], secondary: Sequence[KeyDigest]) -> Compared:
    """Join two sides of a range by key; records that one store cannot hold are left aside."""
    here = {item.key: item.digest for item in primary if scope.holds(item.key)}
    there = {item.key: item.digest for item in secondary if scope.holds(item.key)}
    same = sum(1 for key, digest in here.items() if there.get(key) == digest)
    differ = [key for key, digest in here.items() if there.get(key) != digest]
    differ += [key for key in there if key not in here]
    return Compared(matched=same, candidates=tuple(differ))


def equal_keys(primary: Sequence[KeyDigest], secondary: Sequence[KeyDigest]) -> frozenset[Key]:
    """Return the keys whose records have the same digest on both sides."""
    there = {item.key: item.digest for item in secondary}
    return frozenset(item.key for item in primary if there.get(item.key) == item.digest)


def difference(
    scope: Scope, key: Key, here: Record | None, there: Record | None
) -> Difference | None:
    """Say how the two sides of one key differ; None if they do not."""
    name = scope.spec.name
    if here is None and there is None:
        return None
    if there is None:
        return Difference(collection=name, key=key, kind="missing")
    if here is None:
        return Difference(collection=name, key=key, kind="extra")
    names = differing_fields(scope.spec, here, there, scope.fields)
    if not scope.vector:
        names = tuple(field for field in names if field != "vector")
    if not names:
        return None
    detail = {field: _pair(scope, field, here, there) for field in names}
    return Difference(collection=name, key=key, kind="mismatched", fields=names, detail=detail)


def _pair(scope: Scope, field: str, here: Record, there: Record) -> JsonValue:
    return [_shown(scope, field, here), _shown(scope, field, there)]


def _shown(scope: Scope, field: str, record: Record) -> str | None:
    """Return a value as a person reads it, short."""
    if field == "vector":
        if record.vector is None:
            return None
        name = hashlib.md5(record.vector, usedforsecurity=False).hexdigest()
        return f"float32[{len(record.vector) // 4}] md5 {name[:12]}"
    value = record.fields.get(field)
    if value is None:
        return None
    text = (
        value.isoformat()
        if hasattr(value, "isoformat")
        else value_text(scope.spec.by_name[field].type, value)
    )
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[: SHOWN_CHARACTERS_MAX - 1] + "…"


def sample(found: Difference) -> JsonValue:
    """Return a difference as it is shown in a job's summary."""
    return {
        "collection": found.collection,
        "key": list(found.key),
        "kind": found.kind,
        "fields": list(found.fields),
        "detail": dict(found.detail),
    }


def counts(tally: Mapping[str, int]) -> dict[str, int]:
    """Return verify's five counts, zeros included."""
    return {name: tally.get(name, 0) for name in OUTCOMES}


def clean(tally: Mapping[str, int]) -> bool:
    """True if no record was declared different."""
    return not (tally.get("mismatched", 0) or tally.get("missing", 0) or tally.get("extra", 0))
