"""Damage done on purpose, behind the proxy's back: the demo must find it and name the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from proxy.demo.options import DAMAGE_KINDS
from proxy.errors import Rejected, Violation
from proxy.model import JsonValue, Key, encode_key

# The last verify runs with the new store as primary, so the old one is the secondary.
_OUTCOME = {"changed": "mismatched", "removed": "missing", "added": "extra"}
_CHANGE = (
    "UPDATE doc_embeddings SET content = content || ' (damaged)'"
    " WHERE crate_name = %s AND doc_path = %s"
)
_REMOVE = "DELETE FROM doc_embeddings WHERE crate_name = %s AND doc_path = %s"
# The serial number is far from those that the new store gives out: both would use them at once.
_ADD = (
    "INSERT INTO doc_embeddings (id, crate_id, crate_name, doc_path, content)"
    " SELECT (SELECT max(id) FROM doc_embeddings) + 1000000, id, name, %s,"
    " 'nobody wrote this through the proxy' FROM crates WHERE name = %s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One spoiled row of the old database. `outcome` is what verify must call it."""

    kind: str
    key: Key
    outcome: str

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "kind": self.kind,
            "store": "old",
            "collection": "documents",
            "key": encode_key(self.key),
            "expected": self.outcome,
        }


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise Rejected if a kind is unknown."""
    unknown = [kind for kind in kinds if kind not in DAMAGE_KINDS]
    if unknown:
        expected = " or ".join(DAMAGE_KINDS)
        raise Rejected(
            f"--damage {unknown[0]} is not a kind of damage; expected {expected}.",
            violations=tuple(
                Violation(where="--damage", expected=expected, got=kind) for kind in unknown
            ),
        )


def inflict(old_dsn: str, kinds: Sequence[str], quiet: Sequence[Key]) -> list[Damage]:
    """Spoil one row of the old database for each kind.

    Args:
        quiet: keys of documents that live traffic leaves alone, at least one a kind.
    """
    done: list[Damage] = []
    with psycopg.connect(old_dsn) as connection:
        for number, (kind, key) in enumerate(zip(kinds, quiet, strict=False)):
            doc_type, crate, path = key
            if kind == "added":
                path = f"damage/added-{number}.html"
                connection.execute(_ADD, (path, crate))
            else:
                connection.execute(_CHANGE if kind == "changed" else _REMOVE, (crate, path))
            spoiled = (doc_type, crate, path)
            done.append(Damage(kind=kind, key=spoiled, outcome=_OUTCOME[kind]))
    return done
