"""Tasks with an owner, which run to their end: past the request (rule W2), past each other."""

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


async def all_ended(*works: Coroutine[Any, Any, None]) -> None:
    """Run works side by side until each has ended, then raise the error of the first that failed.

    One that fails stops no other. If the caller is cancelled, all are, and have ended too.
    """

    async def outcome(work: Coroutine[Any, Any, None]) -> Exception | None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  # raised once the others have ended
            return error
        return None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(work)) for work in works]
    for error in [task.result() for task in tasks]:
        if error is not None:
            raise error
