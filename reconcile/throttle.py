"""How fast a job may go: rows and bytes per second, and back-pressure by the primary's latency."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from proxy.clock import Clock
from proxy.config.settings import ReconcileSettings
from reconcile.tasks import sleep_watched

PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 5.0
"""Back-pressure pauses a worker between batches by at least and at most this long."""

SPEED_UP = 0.7
SLOW_DOWN = 2.0
"""Slow down fast, speed up slowly: the primary serves live traffic, the job can wait."""

WAIT_S_MIN = 0.001
"""A debt smaller than this is forgiven: no clock sleeps shorter."""

BURST_S = 1.0
"""A budget that was not used is kept for this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A rate limit that lets a batch go into debt and makes the next one wait.

    Attributes:
        rate_per_s: 0 for no limit.
        level: what may be spent now; negative is debt.
        at_s: monotonic time of `level`.
    """

    rate_per_s: float
    level: float = 0.0
    at_s: float = 0.0

    def spend(self, amount: float, now_s: float) -> Budget:
        """Return the budget after `amount` was used."""
        if self.rate_per_s <= 0:
            return self
        return replace(self, level=self._level(now_s) - amount, at_s=now_s)

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait until the debt is paid."""
        if self.rate_per_s <= 0:
            return 0.0
        wait_s = -self._level(now_s) / self.rate_per_s
        return wait_s if wait_s >= WAIT_S_MIN else 0.0

    def _level(self, now_s: float) -> float:
        earned = max(0.0, now_s - self.at_s) * self.rate_per_s
        return min(self.level + earned, self.rate_per_s * BURST_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Back-pressure: the pause between batches doubles while the primary is slow."""

    latency_ms_max: float
    pause_s: float = 0.0

    def seen(self, latency_ms: float) -> Pressure:
        """Return the pressure after the primary answered in `latency_ms`."""
        if self.latency_ms_max <= 0:
            return self
        if latency_ms > self.latency_ms_max:
            slower = max(PAUSE_S_MIN, self.pause_s * SLOW_DOWN)
            return replace(self, pause_s=min(PAUSE_S_MAX, slower))
        faster = self.pause_s * SPEED_UP
        return replace(self, pause_s=faster if faster >= PAUSE_S_MIN else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The throttles of one job; 0 turns one off."""

    rows_per_s_max: float = 0.0
    bytes_per_s_max: float = 0.0
    primary_latency_ms_max: float = 0.0


def limits_of(settings: ReconcileSettings) -> Limits:
    """Return the throttles a job's settings ask for."""
    return Limits(
        rows_per_s_max=settings.rows_per_s_max,
        bytes_per_s_max=settings.bytes_per_s_max,
        primary_latency_ms_max=settings.primary_latency_ms_max,
    )


class Throttle:
    """The throttles of one job, shared by its workers."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        now_s = clock.monotonic_s()
        self._rows = Budget(rate_per_s=limits.rows_per_s_max, at_s=now_s)
        self._bytes = Budget(rate_per_s=limits.bytes_per_s_max, at_s=now_s)
        self._pressure = Pressure(latency_ms_max=limits.primary_latency_ms_max)

    def spend(self, rows: int, size_bytes: int) -> None:
        """Note what a batch has moved."""
        now_s = self._clock.monotonic_s()
        self._rows = self._rows.spend(rows, now_s)
        self._bytes = self._bytes.spend(size_bytes, now_s)

    async def wait(self, ping: Callable[[], Awaitable[None]], check: Callable[[], None]) -> None:
        """Return when the next batch may begin.

        Args:
            ping: one small call to the primary; it is timed if there is a latency limit.
            check: called between pieces of a long pause; raises to stop the job.
        """
        if self._pressure.latency_ms_max > 0:
            began_s = self._clock.monotonic_s()
            await ping()
            latency_ms = (self._clock.monotonic_s() - began_s) * 1000
            self._pressure = self._pressure.seen(latency_ms)
            await sleep_watched(self._clock, self._pressure.pause_s, check)
        while (wait_s := self._wait_s()) > 0:
            await sleep_watched(self._clock, wait_s, check)

    def _wait_s(self) -> float:
        now_s = self._clock.monotonic_s()
        return max(self._rows.wait_s(now_s), self._bytes.wait_s(now_s))
