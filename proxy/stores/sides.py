"""Both stores of a migration by name, each with its circuit breaker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.stores.base import Store
from proxy.stores.breaker import Breaker


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One store with its breaker."""

    store: Store
    breaker: Breaker


class Sides:
    """The two stores by name ("old", "new")."""

    def __init__(self, sides: Mapping[str, Side]) -> None:
        self._sides = dict(sides)

    def __getitem__(self, name: str) -> Side:
        return self._sides[name]

    def store(self, name: str) -> Store:
        """Return a store by name."""
        return self._sides[name].store
