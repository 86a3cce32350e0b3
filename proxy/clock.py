"""Time and randomness as values that are handed in, so that a test can own them."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """What Crossfade knows of time."""

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never goes back."""

    def now(self) -> dt.datetime:
        """Return the wall time, aware, UTC, microseconds."""

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds of this clock."""


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
