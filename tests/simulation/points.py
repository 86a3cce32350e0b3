"""Pause points of a simulated process: counted, and now and then it stalls, stops or dies there."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.pausepoints import PausePoint
from reconcile.snapshot import Step

Point = PausePoint | Step

EVERY_POINT: tuple[Point, ...] = (*PausePoint, *Step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dangers:
    """How likely a process stalls, is stopped or dies at a point; `at`: at this one alone."""

    stall: float = 0.0
    stop: float = 0.0
    die: float = 0.0
    stall_s: float = 0.3
    at: Point | None = None


SAFE = Dangers()


@dataclass(slots=True)
class Reached:
    """The points that a run has reached, and those at which somebody died."""

    visits: Counter[Point] = field(default_factory=Counter)
    deaths: Counter[Point] = field(default_factory=Counter)

    def add(self, other: Reached) -> None:
        """Add up with those of another run."""
        self.visits.update(other.visits)
        self.deaths.update(other.deaths)


@dataclass(slots=True)
class Points:
    """The pause points of one process."""

    rng: random.Random
    dangers: Callable[[], Dangers]
    reached: Reached
    die: Callable[[], None]
    stop: Callable[[], None]

    async def reach(self, point: Point) -> None:
        """Count the visit; then the seed decides."""
        self.reached.visits[point] += 1
        dangers = self.dangers()
        if dangers.at not in (None, point):
            return
        drawn = self.rng.random()
        if drawn < dangers.die:
            self.reached.deaths[point] += 1
            self.die()
            await asyncio.sleep(0)  # never comes back
        elif drawn < dangers.die + dangers.stop:
            self.stop()
            await asyncio.sleep(0)
        elif drawn < dangers.die + dangers.stop + dangers.stall:
            await asyncio.sleep(self.rng.random() * dangers.stall_s)
