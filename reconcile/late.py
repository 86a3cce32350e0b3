"""Keys whose copy was given up without an answer: what was sent may still land for a while."""

from __future__ import annotations

from collections.abc import Collection

from proxy.clock import Clock
from proxy.config.settings import LATE_WRITE_S
from proxy.model import Key


class LateWrites:
    """Remembers such keys for the time being; a copier leaves them out like keys in flight.

    Without this a copy that is repeated at once could be overtaken by its own earlier attempt.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: dict[str, dict[Key, float]] = {}

    def add(self, collection: str, keys: Collection[Key]) -> None:
        """Leave keys out from now on, until nothing can land any more."""
        until_s = self._clock.monotonic_s() + LATE_WRITE_S
        self._until_s.setdefault(collection, {}).update(dict.fromkeys(keys, until_s))

    def keys(self, collection: str) -> frozenset[Key]:
        """Return the keys that must be left out now."""
        held = self._until_s.get(collection)
        if not held:
            return frozenset()
        now_s = self._clock.monotonic_s()
        for key in [key for key, until_s in held.items() if until_s <= now_s]:
            del held[key]
        return frozenset(held)

    def now_s(self) -> float:
        """Return the time that is gone by."""
        return self._clock.monotonic_s()

    def wait_s(self) -> float:
        """Return how long it takes until nothing is left out any more."""
        latest_s = max((max(held.values()) for held in self._until_s.values() if held), default=0.0)
        return max(0.0, latest_s - self._clock.monotonic_s())
