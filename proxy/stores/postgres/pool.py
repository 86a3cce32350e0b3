"""The pool: one way to run work on a connection, with a deadline and one error family."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from proxy.errors import Unavailable
from proxy.stores.postgres.adapt import Adapters
from proxy.stores.postgres.cancelling import Cancellations
from proxy.stores.postgres.connection import (
    Connection,
    configure,
    connect_parameters,
    still_alive,
)
from proxy.stores.postgres.errors import STALE_PLAN, first_line, translate

_T = TypeVar("_T")
_OPEN_DEADLINE_S = 10.0
_RECONNECT_S = 2.0
_PATIENCE_S = 0.1
_VECTOR_OID = "SELECT to_regtype('vector')::oid::int8"
_FOREIGN = (
    psycopg.Error,
    OSError,  # TimeoutError is one
    UnicodeError,
    OverflowError,
    PoolTimeout,
    TooManyRequests,
    PoolClosed,
)


class Pool:
    """Connections to one database. Open it before use; safe to close twice."""

    def __init__(self, store: str, dsn: str, *, size_min: int, size_max: int) -> None:
        self.store = store
        self._dsn = dsn
        self._size_min = size_min
        self._size_max = size_max
        self._adapters = Adapters(None)
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._busy = 0
        self._down = ""
        self._went_down: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Connect once to learn the vector type, then start the pool.

        Raises:
            Unavailable: the server does not answer; the message says why.
        """
        if self._pool is not None:
            return
        try:
            async with asyncio.timeout(_OPEN_DEADLINE_S):
                await self._learn_types()
                self._pool = await self._started()
        except _FOREIGN as error:
            raise Unavailable(
                f"The {self.store} store cannot be reached: {first_line(error) or 'no answer'}.",
                where=self.store,
                hint="Check its DSN and that the server runs.",
            ) from error

    async def _learn_types(self) -> None:
        async with await Connection.connect(
            **connect_parameters(self._dsn, self._adapters)
        ) as connection:
            cursor = await connection.execute(_VECTOR_OID)
            row = await cursor.fetchone()
        self._adapters = Adapters(row[0] if row else None)

    async def _started(self) -> AsyncConnectionPool[Connection]:
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            connection_class=Connection,
            kwargs={**connect_parameters(self._dsn, self._adapters), "noted": self._noted},
            min_size=self._size_min,
            max_size=max(self._size_min, self._size_max),
            open=False,
            configure=configure,
            name=f"crossfade-{self.store}",
            reconnect_timeout=_RECONNECT_S,
        )
        await pool.open(wait=True, timeout=_OPEN_DEADLINE_S)
        return pool

    async def close(self) -> None:
        """Close every connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    def stats(self) -> Mapping[str, float]:
        """Return gauges of the pool."""
        found = self._pool.get_stats() if self._pool is not None else {}
        return {
            "pool_size": float(found.get("pool_size", 0)),
            "pool_busy": float(self._busy),
            "pool_waiting": float(found.get("requests_waiting", 0)),
        }

    async def run(
        self,
        work: Callable[[Connection], Awaitable[_T]],
        *,
        deadline_s: float,
        writing: bool = False,
        what: str = "",
    ) -> _T:
        """Run `work` on a connection of the pool and give the connection back.

        Raises:
            Unavailable, Ambiguous, Corrupt: see `translate`.
        """
        sent = False
        cancellations = Cancellations()
        ends_s = time.monotonic() + deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                connection = await self._checkout(deadline_s)
                try:
                    cancellations.heed()
                    connection.ends_s = ends_s
                    sent = writing
                    result = await work(connection)
                except BaseException as error:
                    if getattr(error, "sqlstate", None) in STALE_PLAN:
                        await connection.close()
                    await self._give_back_in_any_case(connection)
                    raise
                # Nothing suspends here unless the pool's lock is contended, so a cancelled
                # caller does not lose the connection.
                await self._give_back(connection)
                return result
        except _FOREIGN as error:
            raise translate(error, store=self.store, writing=sent, what=what) from error

    @asynccontextmanager
    async def hold(self, *, deadline_s: float, what: str = "") -> AsyncIterator[Connection]:
        """Lend a connection to a reader for several calls; the deadline covers all of them."""
        cancellations = Cancellations()
        try:
            async with asyncio.timeout(deadline_s):
                connection = await self._checkout(deadline_s)
                try:
                    cancellations.heed()
                    yield connection
                finally:
                    await self._give_back_in_any_case(connection)
        except _FOREIGN as error:
            raise translate(error, store=self.store, writing=False, what=what) from error

    @asynccontextmanager
    async def dedicated(self, *, writing: bool = False) -> AsyncIterator[Connection]:
        """Open a connection of its own, for work that takes minutes, and close it after."""
        try:
            connection = await Connection.connect(
                **connect_parameters(self._dsn, self._adapters), noted=self._noted
            )
        except _FOREIGN as error:
            raise translate(error, store=self.store, writing=False) from error
        try:
            await configure(connection)
            yield connection
        except _FOREIGN as error:
            raise translate(error, store=self.store, writing=writing) from error
        finally:
            await connection.close()

    async def _checkout(self, deadline_s: float) -> Connection:
        pool = self._pool
        if pool is None:
            raise Unavailable(f"The {self.store} store is not open.", where=self.store)
        while True:
            if pool.get_stats().get("pool_available", 0) > 0:
                connection = await pool.getconn(timeout=deadline_s)
            else:
                connection = await self._checkout_patiently(pool, deadline_s)
            if still_alive(connection):
                self._busy += 1
                return connection
            await connection.close()
            await pool.putconn(connection)

    async def _checkout_patiently(
        self, pool: AsyncConnectionPool[Connection], deadline_s: float
    ) -> Connection:
        """Wait for a connection, but not for a server that refuses connections meanwhile.

        One that was down a moment ago gets little time: the attempt to connect that this call
        makes the pool start serves a later one.
        """
        patience_s = _PATIENCE_S if self._down and self._busy == 0 else deadline_s
        waiting = asyncio.ensure_future(pool.getconn(timeout=deadline_s))
        try:
            while True:
                self._went_down = self._went_down or asyncio.get_running_loop().create_future()
                either: set[asyncio.Future[Any]] = {waiting, self._went_down}
                await asyncio.wait(either, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    return waiting.result()
                if self._went_down is not None and self._went_down.done():
                    self._went_down = None
                if self._busy == 0 and self._down:
                    raise Unavailable(
                        f"The {self.store} store cannot be reached: {self._down}.",
                        where=self.store,
                    )
        except BaseException:
            self._abandon(pool, waiting)
            raise

    def _abandon(
        self, pool: AsyncConnectionPool[Connection], waiting: asyncio.Future[Connection]
    ) -> None:
        """Make sure that a connection that comes after all goes back to the pool."""

        def put_back(done: asyncio.Future[Connection]) -> None:
            if not done.cancelled() and done.exception() is None:
                returning = asyncio.ensure_future(pool.putconn(done.result()))
                returning.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

        waiting.add_done_callback(put_back)
        waiting.cancel()

    async def _give_back(self, connection: Connection) -> None:
        self._busy -= 1
        connection.ends_s = None
        if self._pool is None:
            await connection.close()
        else:
            await self._pool.putconn(connection)

    async def _give_back_in_any_case(self, connection: Connection) -> None:
        """Give a connection back even if the caller is cancelled once more meanwhile."""
        await asyncio.shield(asyncio.ensure_future(self._give_back(connection)))

    def _noted(self, trouble: str) -> None:
        """Take note of how an attempt to connect went."""
        self._down = first_line(trouble)
        if trouble and self._went_down is not None and not self._went_down.done():
            self._went_down.set_result(None)
