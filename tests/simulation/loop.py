"""An event loop on virtual time: a seed decides which of the tasks that could run does so next."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import heapq
import random
from collections import deque
from collections.abc import Coroutine, Generator
from typing import Any

START_S = 1000.0
_EPOCH = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
_DISPOSALS_MAX = 20
_TURNS_MAX = 400_000
"""A run that needs more turns of the loop than this has lost its way."""

process: contextvars.ContextVar[str] = contextvars.ContextVar("process", default="")
"""The simulated process that a task, a timer or a callback belongs to; "" is the world itself."""
_serial: contextvars.ContextVar[int] = contextvars.ContextVar("serial", default=0)


class Stuck(AssertionError):
    """Nothing will ever happen again, or things never stop happening."""


def _context_of(handle: asyncio.Handle) -> contextvars.Context:
    context: contextvars.Context = handle._context  # type: ignore[attr-defined]  # asyncio's own
    return context


class _NoSelector:
    """Stands where a loop expects something to wait on; nothing outside is ever waited for."""

    def close(self) -> None:
        """Nothing to close."""


class SimLoop(asyncio.BaseEventLoop):
    """Runs ready callbacks in an order drawn from a seed; time goes on when none is left.

    The callbacks of one task keep their order, all others are shuffled, and a random part of them
    has to wait for the next turn: every interleaving of tasks is possible. Ready callbacks are put
    into the order of their tasks' birth first, so that no address in memory has a say.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._now_s = START_S
        self._born = 0
        self._turns = 0
        self._selector = _NoSelector()
        self._dead: dict[str, list[asyncio.Handle]] = {}
        self._paused: dict[str, list[asyncio.Handle]] = {}
        self._tasks_kept: list[asyncio.Task[Any]] = []
        self.digest = 0
        self.complaints: list[str] = []
        self.set_exception_handler(self._complain)

    # What asyncio asks of a loop.

    def time(self) -> float:
        """Return the virtual time, seconds."""
        return self._now_s

    def create_task(
        self,
        coro: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        """Give each task a number of its own; it inherits the process it was born in."""
        own = (context or contextvars.copy_context()).copy()
        self._born += 1
        own.run(_serial.set, self._born)
        task: asyncio.Task[Any] = asyncio.Task(
            coro,
            loop=self,
            name=str(name) if name is not None else f"task-{self._born}",
            context=own,
        )
        self._tasks_kept.append(task)  # what a dead process holds must not be finalised midway
        return task

    def _process_events(self, event_list: object) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """No thread wakes this loop."""

    def _run_once(self) -> None:
        self._turns += 1
        if self._turns > _TURNS_MAX:
            raise Stuck(f"no end after {_TURNS_MAX} turns, at {self._now_s:.3f} s")
        self._take_due()
        while not self._ready:
            self._pass_time()
            self._take_due()
        chosen = self._choose()
        for handle in chosen:
            owner = _context_of(handle).get(process, "")
            if owner in self._dead:  # it died within this turn
                self._dead[owner].append(handle)
            elif owner in self._paused:
                self._paused[owner].append(handle)
            elif not handle._cancelled:
                handle._run()

    def _take_due(self) -> None:
        while self._scheduled and self._scheduled[0].when() <= self._now_s:
            handle = heapq.heappop(self._scheduled)
            if not handle._cancelled:
                self._ready.append(handle)

    def _pass_time(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)
        if not self._scheduled:
            raise Stuck(f"nothing is scheduled any more, at {self._now_s:.3f} s")
        self._now_s = max(self._now_s, self._scheduled[0].when())

    def _choose(self) -> list[asyncio.Handle]:
        """Take some of the ready callbacks, in an order that the seed decides."""
        ready = list(self._ready)
        self._ready.clear()
        if len(ready) == 1:
            return ready
        rng = self._rng
        births = [_context_of(handle).get(_serial, 0) for handle in ready]
        turns = {birth: rng.random() for birth in sorted(set(births))}
        order = sorted(range(len(ready)), key=lambda at: (turns[births[at]], births[at]))
        ready = [ready[at] for at in order]
        part = rng.randint(1, len(ready))
        self._ready.extend(ready[part:])
        return ready[:part]

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context.get('message')}: {error!r}")

    # Processes.

    def spawn(
        self, name: str, work: Coroutine[Any, Any, Any], label: str = ""
    ) -> asyncio.Task[Any]:
        """Start a task that belongs to a process."""
        context = contextvars.Context()
        context.run(process.set, name)
        return self.create_task(work, name=label or name, context=context)

    def kill(self, name: str) -> None:
        """Run nothing of a process any more, not even the clean-up of what it was doing."""
        self._dead[name] = self._paused.pop(name, [])

    def pause(self, name: str) -> None:
        """Stop a process; time goes on without it (SIGSTOP)."""
        if name not in self._dead:
            self._paused.setdefault(name, [])

    def resume(self, name: str) -> None:
        """Let a paused process run on, with everything that has become due at once (SIGCONT)."""
        self._ready.extend(self._paused.pop(name, []))

    def alive(self, name: str) -> bool:
        """True unless the process was killed."""
        return name not in self._dead

    def paused(self, name: str) -> bool:
        """True while the process is stopped."""
        return name in self._paused

    def anybody_paused(self) -> bool:
        """True while some process is stopped: what it was doing is still to come."""
        return bool(self._paused)

    def dispose(self) -> None:
        """End every task, those of dead processes too, once nothing they do matters any more."""
        for waiting in (*self._dead.values(), *self._paused.values()):
            self._ready.extend(waiting)
        self._dead.clear()
        self._paused.clear()
        self._turns = 0
        left = [task for task in self._tasks_kept if not task.done()]
        self._tasks_kept.clear()
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(self._ended(left))  # some need to be told more than once
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()

    @staticmethod
    async def _ended(tasks: list[asyncio.Task[Any]]) -> None:
        pending = set(tasks)
        for _ in range(_DISPOSALS_MAX):
            _, pending = await asyncio.wait(pending, timeout=2.0)
            if not pending:
                break
            for task in tasks:
                if task in pending:
                    task.cancel()
        for task in tasks:
            if task in pending:
                raise Stuck(f"{task} does not end")
            if not task.cancelled():
                task.exception()

    def close(self) -> None:
        """Forget everything that was still to happen."""
        if not self.is_closed():
            super().close()


class SimClock:
    """`proxy.clock.Clock` on the loop's time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return self._loop.time()

    def now(self) -> dt.datetime:
        """See `Clock.now`."""
        return _EPOCH + dt.timedelta(seconds=self._loop.time())

    async def sleep(self, delay_s: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(delay_s)
