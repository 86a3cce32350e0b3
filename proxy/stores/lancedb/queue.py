"""The queue of one writer: what waits, how much of it, and what may still be withdrawn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import Ambiguous, Unavailable
from proxy.model import Write

Work = Callable[[], Awaitable[Any]]


def _new_answer() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One caller's request to a writer: some writes, or work that needs the table to itself.

    Attributes:
        lands: it may change rows.
        begun: the writer has taken it; it runs to its end, whoever still waits.
        given_up: nobody waits any more for the end of what was begun.
    """

    writes: Sequence[Write] = ()
    work: Work | None = None
    answer: asyncio.Future[Any] = field(default_factory=_new_answer)
    lands: bool = True
    begun: bool = False
    given_up: bool = False

    @property
    def rows(self) -> int:
        """How many rows it counts for in the queue."""
        return max(1, len(self.writes))

    def succeed(self, value: Any) -> None:
        """Answer whoever still waits."""
        if not self.answer.done():
            self.answer.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Answer with an error; nobody may be left to hear it."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # marked as seen: its caller may have gone


class Queue:
    """Jobs in order, with a bound on the rows that wait."""

    def __init__(self, store: str, rows_max: int) -> None:
        self._store = store
        self._rows_max = rows_max
        self._jobs: deque[Job] = deque()
        self._rows = 0
        self._changed = asyncio.Condition()
        self.closed = False

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._rows

    @property
    def work_is_next(self) -> bool:
        """True if the next job is work, which is done alone: there is nothing to gather."""
        return bool(self._jobs) and self._jobs[0].work is not None

    async def ask(self, job: Job, *, deadline_s: float) -> Any:
        """Put a job in the queue and wait for its answer.

        Raises:
            Unavailable: it was not begun in time, or the store is closed: nothing was applied.
            Ambiguous: it was begun and did not end in time; it still will.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self._put(job)
                return await asyncio.shield(job.answer)
        except TimeoutError as error:
            if self._withdraw(job):
                raise Unavailable(
                    f"The {self._store} store did not come to the write within {deadline_s:g} s;"
                    f" {self._rows} rows wait.",
                    where=self._store,
                ) from error
            if job.answer.done():
                return job.answer.result()
            job.given_up = True
            raise Ambiguous(
                f"The {self._store} store did not end the write within {deadline_s:g} s.",
                where=self._store,
                timed_out=True,
            ) from error
        except asyncio.CancelledError:
            job.given_up = not self._withdraw(job)
            raise

    async def _put(self, job: Job) -> None:
        async with self._changed:
            # One request larger than the whole queue still goes through, alone.
            await self._changed.wait_for(
                lambda: self.closed or not self._rows or self._rows + job.rows <= self._rows_max
            )
            if self.closed:
                raise Unavailable(f"The {self._store} store is closed.", where=self._store)
            self._jobs.append(job)
            self._rows += job.rows
            self._changed.notify_all()

    def _withdraw(self, job: Job) -> bool:
        """Take back a job that has not begun; say if that is so."""
        if job.begun:
            return False
        job.begun = True  # whoever takes it next must see that it is over
        if job in self._jobs:
            self._jobs.remove(job)
            self._rows -= job.rows
        job.answer.cancel()
        return True

    async def first(self, idle_s: float) -> bool:
        """Wait until a job is there (True) or the queue is closed and empty (False).

        Raises:
            TimeoutError: neither came within `idle_s`.
        """
        async with asyncio.timeout(idle_s), self._changed:
            self._changed.notify_all()  # what was withdrawn has made room
            await self._changed.wait_for(lambda: bool(self._jobs) or self.closed)
            return bool(self._jobs)

    async def fill(self, rows: int, wait_s: float) -> None:
        """Wait until so many rows are there, or the time is over, or the queue is closed."""
        if wait_s <= 0 or self._rows >= rows or self.closed:
            return
        try:
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(lambda: self._rows >= rows or self.closed)
        except TimeoutError:
            return

    async def take(self, rows: int) -> list[Job]:
        """Take the next jobs: writes of about `rows` rows together, or one piece of work."""
        taken: list[Job] = []
        count = 0
        async with self._changed:
            while self._jobs:
                job = self._jobs[0]
                if taken and (job.work is not None or count + job.rows > rows):
                    break
                self._jobs.popleft()
                self._rows -= job.rows
                job.begun = True
                taken.append(job)
                count += job.rows
                if job.work is not None:
                    break
            self._changed.notify_all()
        return taken

    async def close(self) -> None:
        """Take no more jobs; those that wait are still done."""
        async with self._changed:
            self.closed = True
            self._changed.notify_all()

    def refuse(self, error: Exception) -> None:
        """Answer every waiting job with an error (the writer is gone)."""
        while self._jobs:
            job = self._jobs.popleft()
            self._rows -= job.rows
            job.fail(error)
