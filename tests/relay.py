"""A wire to a PostgreSQL server that a test can cut, stall or take down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Relay:
    """Forwards connections to the server of a connection string; `dsn` leads through it."""

    def __init__(self, dsn: str) -> None:
        self._target = dsn
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._port = 0
        self.connections = 0

    @property
    def dsn(self) -> str:
        """The connection string that leads through the relay."""
        return make_conninfo(
            self._target,
            host="127.0.0.1",
            port=self._port,
            sslmode="disable",
            gssencmode="disable",
        )

    async def up(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse new connections and cut those that are open."""
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Cut every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def stall(self) -> None:
        """Stop forwarding: the server seems to hang."""
        self._flowing.clear()

    def flow(self) -> None:
        """Forward again."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward in a task of its own: one that is cancelled ends quietly."""
        self.connections += 1
        link = asyncio.ensure_future(self._forward(reader, writer))
        self._links.add(link)
        await asyncio.wait({link})
        self._links.discard(link)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there_reader, there_writer = await self._connect()
            self._writers.add(there_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, there_writer))
                    group.create_task(self._pump(there_reader, writer))
            finally:
                there_writer.transport.abort()
                self._writers.discard(there_writer)
        except* (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        given = conninfo_to_dict(self._target)
        host, port = str(given.get("host") or "localhost"), given.get("port") or 5432
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, int(port))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        raise EOFError


@contextlib.asynccontextmanager
async def relay_to(dsn: str) -> AsyncIterator[Relay]:
    """Run a relay for the length of a block."""
    relay = Relay(dsn)
    await relay.up()
    try:
        yield relay
    finally:
        relay.flow()
        await relay.down()
