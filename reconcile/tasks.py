"""Habits with tasks: finish a clean-up in any case, do two things at once, sleep and watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from proxy.clock import Clock

A = TypeVar("A")
B = TypeVar("B")

SLEEP_S_MAX = 0.5
"""A long pause is slept in pieces, so that a request to stop is seen soon."""


async def to_the_end(work: Coroutine[None, None, None], *, deadline_s: float) -> None:
    """Run `work` to its end although this task is cancelled, once or more often.

    A cancellation that arrives meanwhile is raised again afterwards. Work that does not end by
    the deadline is cancelled; what it raises is the caller's to expect.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + deadline_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and loop.time() < ends_s:
        try:
            await asyncio.wait({task}, timeout=ends_s - loop.time())
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
    failure = task.exception() if task.done() and not task.cancelled() else None
    if cancelled is not None:
        raise cancelled
    if failure is not None:
        raise failure


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error inside a group, however deep."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


async def both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Run two coroutines at once; if one fails the other is stopped and the error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(first)
            other = group.create_task(second)
    except BaseExceptionGroup as errors:
        raise first_of(errors) from errors
    return one.result(), other.result()


async def sleep_watched(clock: Clock, delay_s: float, check: Callable[[], None]) -> None:
    """Sleep, but not long past a request to stop.

    Args:
        check: called between pieces, and at the end; raises to stop.
    """
    while delay_s > 0:
        check()
        piece_s = min(delay_s, SLEEP_S_MAX)
        await clock.sleep(piece_s)
        delay_s -= piece_s
    check()
