"""Measurements that wait a moment, so that no request pays for counting itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

Labels = Mapping[str, str]
Record = Callable[[float, Labels], object]

DELAY_S = 0.05
AT_ONCE_MAX = 64
"""Measurements recorded in one go: the loop is not held up for longer than about 0.3 ms."""

WAITING_MAX = 10_000
"""Past this a measurement is recorded at once, and those before it with it."""


class Later:
    """Records measurements behind the answers, in batches.

    The SDK takes some microseconds for each, in the middle of a request that waits for it. Here
    it is one append. Without a running event loop (another thread, a test) it is recorded at
    once. Whoever collects calls `flush` first, so that nothing is missing from what is exported.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Record, float, Labels]] = deque()
        self._due = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, record: Record, value: float, labels: Labels) -> None:
        """Have `record(value, labels)` called soon."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            record(value, labels)
            return
        self._waiting.append((record, value, labels))
        if not self._due:
            self._due = True
            loop.call_later(DELAY_S, self._next, loop)
        elif len(self._waiting) > WAITING_MAX:
            self.flush()

    def flush(self) -> None:
        """Record everything that waits; safe to call from any thread."""
        self._due = False  # the loop that was to do it may have ended
        self._take(len(self._waiting))

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._take(AT_ONCE_MAX)
        self._due = bool(self._waiting)
        if self._due:
            loop.call_soon(self._next, loop)

    def _take(self, most: int) -> None:
        for _ in range(most):
            try:
                record, value, labels = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            record(value, labels)
