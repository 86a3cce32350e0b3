"""A TCP relay in front of a server: it can cut, refuse, hold back, delay, throttle and half-close.

Bytes that are held back behave as on a network that is cut for a while: a client that closes its
connection does not take them back (they arrive later, and are executed), one that resets it does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_CHUNK = 65_536
_THROTTLED_S = 0.05
"""What a throttled relay takes at once is about this much time's worth."""


class Target(Protocol):
    """Where a relay connects to; another store's server joins by another one of these."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the real server."""


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A server that listens on a unix socket."""

    path: str

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Target`."""
        return await asyncio.open_unix_connection(self.path)


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A server that listens on a port."""

    host: str
    port: int

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Target`."""
        return await asyncio.open_connection(self.host, self.port)


def postgres_target(dsn: str) -> Target:
    """Return where a PostgreSQL connection string leads."""
    parts = conninfo_to_dict(dsn)
    host, port = str(parts.get("host") or "localhost"), int(parts.get("port") or 5432)
    if host.startswith("/"):
        return UnixTarget(str(Path(host) / f".s.PGSQL.{port}"))
    return TcpTarget(host, port)


@dataclass(eq=False, slots=True)
class _Link:
    """One connection through the relay."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def abort(self) -> None:
        """Reset both sides."""
        for writer in (self.client, self.server):
            if writer is not None:
                writer.transport.abort()


class Relay:
    """Relays 127.0.0.1:port to a server. The port stays the same while it refuses."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.port = 0
        self.delay_s = 0.0
        """How long each piece of data waits on its way to the server."""
        self.bytes_per_s_max = 0.0
        """How much passes each way of each connection; 0 for as much as there is."""
        self.accepted = 0
        self.held_bytes = 0
        """Bytes of clients that came while the way up was shut."""

    async def __aenter__(self) -> Relay:
        self.release()
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    def dsn(self, direct: str) -> str:
        """Return a connection string that goes through the relay."""
        options: Mapping[str, str] = {
            "host": "127.0.0.1",
            "port": str(self.port),
            "sslmode": "disable",
            "gssencmode": "disable",
        }
        return make_conninfo(direct, **options)

    async def accept(self) -> None:
        """Take connections (again, on the same port)."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse connections, and reset those there are."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.cut()
        self.release()
        await asyncio.gather(*(pump for link in self._links for pump in link.pumps))

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        for link in list(self._links):
            link.abort()

    def hold(self, *, up: bool = True, down: bool = True) -> None:
        """Keep back what clients send (up) and what the server answers (down), until `release`."""
        for name, shut in (("up", up), ("down", down)):
            if shut:
                self._open[name].clear()

    def release(self) -> None:
        """Pass on what was held back."""
        for gate in self._open.values():
            gate.set()

    def heal(self) -> None:
        """Pass everything on at once again."""
        self.delay_s = self.bytes_per_s_max = 0.0
        self.release()

    def half_close(self) -> None:
        """End the stream towards each client; its way to the server stays open."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.client.write_eof()

    @property
    def connections(self) -> int:
        """Connections there are now."""
        return len(self._links)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(client=writer)
        self._links.add(link)
        self.accepted += 1
        try:
            answers, link.server = await self._target.connect()
            link.pumps = [
                asyncio.create_task(self._pump(reader, link.server, link, "up")),
                asyncio.create_task(self._pump(answers, writer, link, "down")),
            ]
            await asyncio.gather(*link.pumps)
        except OSError:
            pass  # the server is down: the client finds its connection reset
        finally:
            link.abort()
            self._links.discard(link)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: _Link,
        way: str,
    ) -> None:
        try:
            while data := await reader.read(self._portion()):
                gate = self._open[way]
                if not gate.is_set():
                    self.held_bytes += len(data) if way == "up" else 0
                    await gate.wait()
                if way == "up" and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.bytes_per_s_max:
                    await asyncio.sleep(len(data) / self.bytes_per_s_max)
                if reader.exception() is not None:
                    break  # the sender has reset the connection: what was held back is lost
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):
            link.abort()

    def _portion(self) -> int:
        """How many bytes to take at once."""
        if not self.bytes_per_s_max:
            return _CHUNK
        return max(1, min(_CHUNK, int(self.bytes_per_s_max * _THROTTLED_S)))


@contextlib.asynccontextmanager
async def relay_to(dsn: str) -> AsyncIterator[Relay]:
    """Run a relay to a PostgreSQL server for the length of a block."""
    async with Relay(postgres_target(dsn)) as relay:
        yield relay
