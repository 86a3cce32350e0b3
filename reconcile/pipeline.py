"""Several ranges at once, with a bound: the stream of finished batches that a job consumes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from aiostream import stream

S = TypeVar("S")
T = TypeVar("T")


@asynccontextmanager
async def merged(
    sources: Sequence[S], batches: Callable[[S], AsyncIterator[T]], *, workers: int
) -> AsyncIterator[AsyncIterator[T]]:
    """Walk at most `workers` sources at once and give their items as they come.

    While one source writes its batch another reads the next one. A source is never more than one
    item ahead of the consumer, so memory is bounded by the workers. Leaving the context, by
    whatever way, stops every source and waits for it.
    """

    def walk(source: S, /, *_others: S) -> AsyncIterator[T]:
        return batches(source)

    together = stream.flatmap(stream.iterate(sources), walk, task_limit=workers)
    async with together.stream() as streamer:
        yield streamer
