"""Who is cancelled just when a pool has a connection for them ends, and the connection is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from proxy.ledger.postgres.database import LedgerDatabase
from proxy.stores.postgres.cancelling import Cancellations
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.pool import Pool

TURNS = 12
"""Of the loop, after which a waiting task has its connection: each is a moment to cancel it at."""
Ask = Callable[[], Awaitable[object]]


async def cancelled_at(turns: int, held: asyncio.Event, ask: Ask) -> None:
    """Cancel a call so many turns after the one connection has become free; it must end by that."""
    waiting = asyncio.ensure_future(ask())
    await asyncio.sleep(0.01)  # in the queue of the pool
    held.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_no_moment_loses_the_cancellation_of_a_call_of_the_ledger(
    new_database: Callable[[], str],
) -> None:
    ledger = LedgerDatabase(new_database(), pool_size_max=1)
    await ledger.open("m")

    async def hold(free: asyncio.Event) -> None:
        async with ledger.connection():
            await free.wait()

    try:
        for turns in range(TURNS):
            free = asyncio.Event()
            holding = asyncio.create_task(hold(free))
            await asyncio.sleep(0)
            await cancelled_at(turns, free, lambda: ledger.fetch("SELECT pg_sleep(0.05)"))
            await holding
        assert await ledger.fetch("SELECT 1") == [(1,)]
    finally:
        await ledger.close()


async def test_no_moment_loses_the_cancellation_of_a_call_of_a_store(
    new_database: Callable[[], str],
) -> None:
    pool = Pool("old", new_database(), size_min=1, size_max=1)
    await pool.open()

    async def sleep(connection: Connection) -> str:
        await connection.execute("SELECT pg_sleep(0.05)")
        return "slept"

    async def hold(free: asyncio.Event) -> None:
        async with pool.hold(deadline_s=5):
            await free.wait()

    try:
        for turns in range(TURNS):
            free = asyncio.Event()
            holding = asyncio.create_task(hold(free))
            await asyncio.sleep(0)
            await cancelled_at(turns, free, lambda: pool.run(sleep, deadline_s=5))
            await holding
        assert await pool.run(sleep, deadline_s=5) == "slept"
    finally:
        await pool.close()


async def test_only_a_cancellation_that_came_since_is_raised() -> None:
    async def clean_up() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Cancellations().heed()  # it has been told of this one
            return "cleaned up"
        raise AssertionError

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cleaned up"


async def test_a_deadline_that_was_swallowed_is_one_all_the_same() -> None:
    async def late() -> None:
        cancellations = Cancellations()
        async with asyncio.timeout(0.01):
            with contextlib.suppress(asyncio.CancelledError):  # as `wait_for` may
                await asyncio.sleep(1)
            cancellations.heed()

    with pytest.raises(TimeoutError):
        await late()
