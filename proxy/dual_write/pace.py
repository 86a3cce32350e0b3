"""How many writes a replica takes at once: fewer while its primary is slow to answer them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from proxy.clock import Clock
from proxy.errors import Reason, Rejected

_AT_LEAST: Final = 64
"""Writes that are always taken: so few that one slow statement says nothing about the load."""
_WEIGHT: Final = 0.1
"""Of the last write in the usual duration."""
_SLOW_SHARE: Final = 0.5
"""Of the primary's deadline: past it, what is taken now would be given up before its turn."""
_CUT: Final = 0.6


class Pace:
    """A limit that follows the primary.

    A queue longer than what the primary works off within its deadline serves nobody: each write
    would wait nearly that long, most would be given up, and their keys would be dirty. So the
    limit is cut while the primary usually takes longer than half of its deadline, and grows again
    once it takes less than a quarter.

    Args:
        most: writes in flight at most, however fast the primary is.
        deadline_s: the primary's.
    """

    def __init__(self, clock: Clock, *, most: int, deadline_s: float) -> None:
        self._clock = clock
        self._most = most
        self._slow_s = _SLOW_SHARE * deadline_s
        self._usual_s = 0.0
        self._limit = float(most)
        self._cut_at_s = clock.monotonic_s()

    @property
    def limit(self) -> int:
        """Writes that may be in flight now."""
        return int(self._limit)

    def require_room(self, in_flight: int) -> None:
        """Raise Rejected(RESOURCE_EXHAUSTED) if no further write may begin; nothing was done."""
        if in_flight < self.limit:
            return
        slow = f"; the primary takes {self._usual_s:.2g} s for each" if self._below_most else ""
        raise Rejected(
            f"{in_flight} writes are in flight already{slow}.",
            reason=Reason.RESOURCE_EXHAUSTED,
            hint="Slow down and retry.",
        )

    @contextmanager
    def measured(self, in_flight: Callable[[], int]) -> Iterator[None]:
        """Take the time of one call of the primary."""
        began_s = self._clock.monotonic_s()
        try:
            yield
        finally:
            self._note(self._clock.monotonic_s() - began_s, in_flight())

    @property
    def _below_most(self) -> bool:
        return self.limit < self._most

    def _note(self, took_s: float, in_flight: int) -> None:
        self._usual_s += _WEIGHT * (took_s - self._usual_s)
        now_s = self._clock.monotonic_s()
        if self._usual_s > self._slow_s:
            # Once in the time that a cut needs to show.
            if now_s - self._cut_at_s >= self._slow_s:
                least = min(_AT_LEAST, self._most)
                self._limit = max(float(least), _CUT * min(self._limit, in_flight))
                self._cut_at_s = now_s
        elif self._usual_s < self._slow_s / 2:
            self._limit = min(float(self._most), self._limit + 1)
