"""Hears of changes of the routing on one connection of its own, for any number of waiters."""

from __future__ import annotations

import asyncio
import logging

import psycopg

from proxy.ledger.postgres.database import Connection, LedgerDatabase

_log = logging.getLogger(__name__)


class Changes:
    """One LISTEN, shared: whoever waits hears each notification."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._db = database
        self._starting = asyncio.Lock()
        self._heard = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def next(self) -> asyncio.Event:
        """Return what is set at the next change; anything from now on is heard.

        Raises:
            psycopg.Error: the database does not answer.
        """
        async with self._starting:
            if self._task is None or self._task.done():
                connection = await self._db.dedicated()
                try:
                    await connection.execute("LISTEN crossfade")
                except BaseException:
                    await connection.close()
                    raise
                self._heard = asyncio.Event()
                self._task = asyncio.create_task(self._listen(connection), name="ledger-listen")
            return self._heard

    async def _listen(self, connection: Connection) -> None:
        try:
            async for _ in connection.notifies():
                self._tell()
        except psycopg.Error as error:
            _log.debug("the ledger is listened to no more: %s", error)
        finally:
            try:
                await connection.close()
            finally:
                # Last of all: who comes meanwhile is told too, and looks for himself.
                self._tell()

    def _tell(self) -> None:
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    async def close(self) -> None:
        """End the connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
