"""Tasks with an owner that outlive the request that started them (rule W2)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class OwnedTasks:
    """The running writes, as many as `Pace` lets in. A cancelled request leaves its write here."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run `work` to its end, whoever waits for it."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def wait_all(self, *, timeout_s: float) -> int:
        """Wait until every task has ended or the time is over; return how many still run."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_s)
        return len(self._running)
