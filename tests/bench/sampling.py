"""Timing several ways of doing the same thing in turns, so that they share the machine's noise."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from tests.bench.figures import Series

Way = Callable[[int], Awaitable[object]]
"""One call; its argument counts from 0, so that the n-th call of each way does the same work."""

_WARM_UP = 5


async def in_turns(ways: Mapping[str, Way], *, calls: int) -> dict[str, Series]:
    """Time each way `calls` times, one call after the other; the order turns round each time.

    The first few numbers warm up and are not counted.
    """
    series = {name: Series() for name in ways}
    for number in range(_WARM_UP):
        for way in ways.values():
            await way(number)
    names = list(ways)
    with quiet():
        for number in range(_WARM_UP, _WARM_UP + calls):
            for name in rotated(names, number):
                began_s = time.perf_counter()
                await ways[name](number)
                series[name].seconds.append(time.perf_counter() - began_s)
    return series


async def by_many(ways: Mapping[str, Way], *, clients: int, each: int) -> dict[str, Series]:
    """Time concurrent clients: blocks of `clients` tasks, one way at a time, in turns.

    Each client makes `each` calls of each way in all, in blocks of about five.
    """
    series = {name: Series() for name in ways}
    names = list(ways)
    blocks = max(1, each // 5)
    numbers = dict.fromkeys(names, 0)
    for way in ways.values():
        await asyncio.gather(*(way(number) for number in range(clients)))
    with quiet():
        for block in range(blocks):
            part = each // blocks + (block < each % blocks)
            for name in rotated(names, block):
                first = numbers[name]
                numbers[name] += clients * part
                await _block(ways[name], series[name], first, clients, part)
    return series


async def _block(way: Way, series: Series, first: int, clients: int, calls: int) -> None:
    async def client(number: int) -> None:
        for call in range(calls):
            began_s = time.perf_counter()
            await way(first + number * calls + call)
            series.seconds.append(time.perf_counter() - began_s)

    began_s = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    series.wall_s += time.perf_counter() - began_s


def rotated(names: list[str], turn: int) -> list[str]:
    """Return the names begun at another place each turn, every second turn backwards."""
    start = (turn // 2) % len(names)
    order = names[start:] + names[:start]
    return order[::-1] if turn % 2 else order


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the garbage collector of this process out of what is timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
