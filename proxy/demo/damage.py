"""Damage done on purpose, behind the proxy's back: the demo must find it and name the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.demo.options import DAMAGE_KINDS
from proxy.errors import Rejected, Violation
from proxy.model import JsonValue, Key, encode_key

# The last verify runs with the new store as primary, so the old one is the secondary.
OUTCOME: Mapping[str, str] = {"changed": "mismatched", "removed": "missing", "added": "extra"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One spoiled row of the old database. `outcome` is what verify must call it."""

    kind: str
    collection: str
    key: Key
    outcome: str

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "kind": self.kind,
            "store": "old",
            "collection": self.collection,
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
