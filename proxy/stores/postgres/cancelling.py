"""A cancellation that a library has swallowed is raised all the same."""

from __future__ import annotations

import asyncio


class Cancellations:
    """The cancellations of the task that made this, from then on.

    A pool waits for a connection by `asyncio.wait_for`, and that of Python 3.11 keeps a
    cancellation to itself if the connection comes at the same moment. Who was told to end would go
    on for ever, and a deadline would be none.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._count()

    def _count(self) -> int:
        return self._task.cancelling() if self._task is not None else 0

    def heed(self) -> None:
        """Raise CancelledError if the task was cancelled meanwhile and has not been told."""
        if self._count() > self._before:
            raise asyncio.CancelledError
