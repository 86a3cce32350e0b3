"""Bounded retries of one unit of work, with full jitter."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from proxy.clock import Clock
from proxy.errors import Ambiguous, LeaseLost, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long: the defaults ride out a restart of a store (about 25 s)."""

    attempts_max: int = 12
    base_s: float = 0.05
    cap_s: float = 5.0


class Retry:
    """Repeats what may be repeated: every unit of the reconciler is safe to do twice."""

    def __init__(self, policy: RetryPolicy, clock: Clock, rng: random.Random) -> None:
        self._policy = policy
        self._clock = clock
        self._rng = rng

    async def __call__(self, call: Callable[[], Awaitable[T]], check: Callable[[], None]) -> T:
        """Return the result of `call`, tried again on Unavailable and Ambiguous.

        Args:
            check: called before each pause; raises to stop the job.

        Raises:
            Unavailable, Ambiguous: the last of `attempts_max` attempts failed.
            LeaseLost: at once; the job is somebody else's.
        """

        async def pause(delay_s: float) -> None:
            check()
            await self._clock.sleep(delay_s)
            check()

        async def once() -> T:
            return await call()

        retrying = AsyncRetrying(
            sleep=pause,
            stop=stop_after_attempt(self._policy.attempts_max),
            wait=self._delay_s,
            retry=retry_if_exception(_passes),
            reraise=True,
        )
        return await retrying(once)

    def _delay_s(self, state: RetryCallState) -> float:
        ceiling_s = min(self._policy.cap_s, self._policy.base_s * 2**state.attempt_number)
        return self._rng.uniform(ceiling_s / 2, ceiling_s)


def _passes(error: BaseException) -> bool:
    return isinstance(error, Unavailable | Ambiguous) and not isinstance(error, LeaseLost)
