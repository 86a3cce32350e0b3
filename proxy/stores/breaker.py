"""A circuit breaker: stop calling a store that keeps failing, try one call now and then."""

from __future__ import annotations

from proxy.clock import Clock


class Breaker:
    """Closed: calls go through. Open: they do not. Half open: one trial call goes through.

    Args:
        failures_max: consecutive failures that open it.
        open_s: how long it stays open before a trial.
    """

    def __init__(self, clock: Clock, *, failures_max: int, open_s: float) -> None:
        self._clock = clock
        self._failures_max = failures_max
        self._open_s = open_s
        self._failures = 0
        self._open_until_s: float | None = None
        self._trial = False

    @property
    def state(self) -> str:
        """ "closed", "open" or "half_open"."""
        if self._open_until_s is None:
            return "closed"
        return "open" if self._clock.monotonic_s() < self._open_until_s else "half_open"

    def allow(self) -> bool:
        """True if a call may be made now; in the half-open state for one caller at a time."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._trial:
            return False
        self._trial = True
        return True

    def succeeded(self) -> None:
        """A call was answered (a refusal by the store is an answer, too)."""
        self._failures = 0
        self._open_until_s = None
        self._trial = False

    def failed(self) -> None:
        """A call failed or timed out."""
        self._failures += 1
        self._trial = False
        if self._failures >= self._failures_max:
            self._open_until_s = self._clock.monotonic_s() + self._open_s

    def abandoned(self) -> None:
        """A call ended without telling anything (it was cancelled)."""
        self._trial = False
