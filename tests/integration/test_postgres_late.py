"""A process that was stopped past a call's deadline sends nothing more of it when it goes on.

What was ready when it was stopped is done first, before its timers tell it how late it is: a write
that nobody expects any more would undo what others have written meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.abc import PQGen
from psycopg.waiting import READY_R, WAIT_R

from proxy.errors import Ambiguous
from proxy.model import Applied, Write
from proxy.stores.postgres import PostgresStore
from proxy.stores.postgres.connection import Connection, _in_time, _TooLateError
from proxy.stores.postgres.pool import Pool
from tests.doc_server import document, schemas, source
from tests.faults.harness.relay import Relay

DEADLINE_S = 0.3


@pytest.fixture
async def store(relay: Relay) -> AsyncIterator[PostgresStore]:
    """Return a store of one connection, on which no upsert has been prepared."""
    dsn = relay.dsn(relay.direct)  # type: ignore[attr-defined]  # the fixture set it
    made = PostgresStore("new", dsn, schemas()["new"], pool_min=1, pool_max=1)
    await made.open()
    (result,) = await made.apply([source()], atomic=False, deadline_s=5)
    assert result.applied is Applied.DONE
    yield made
    await made.close()


async def stays_unwritten(store: PostgresStore, relay: Relay, write: Write) -> None:
    """The record is not there, neither now nor once the connection has done something else."""
    assert await store.get("documents", [write.key], vectors=False, deadline_s=5) == {}
    other = document("other", number=7)
    (result,) = await store.apply([other], atomic=False, deadline_s=5)
    assert result.applied is Applied.DONE
    dsn: str = relay.direct  # type: ignore[attr-defined]  # the fixture set it
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT doc_path FROM documents").fetchall()
    assert rows == [("other",)]


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_write_whose_connection_came_just_before_the_stop_is_not_sent(
    store: PostgresStore, relay: Relay, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    checkout = Pool._checkout

    async def stopped_after(self: Pool, deadline_s: float) -> Connection:
        connection = await checkout(self, deadline_s)
        time.sleep(2 * DEADLINE_S)  # noqa: ASYNC251  # the process is stopped
        return connection

    write = document("p1", number=1)
    batch = [write, document("p2", number=2)] if atomic else [write]
    with monkeypatch.context() as patched:
        patched.setattr(Pool, "_checkout", stopped_after)
        with pytest.raises(Ambiguous):
            await store.apply(batch, atomic=atomic, deadline_s=DEADLINE_S)
    await stays_unwritten(store, relay, write)


async def test_a_statement_that_is_given_up_while_it_is_prepared_is_not_executed(
    store: PostgresStore, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's answer to the preparation comes when the call has been cancelled already."""

    async def cancelled_in_vain(self: Connection, **_: Any) -> None:
        relay.release()

    relay.hold(up=False)
    write = document("p1", number=1)
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "cancel_safe", cancelled_in_vain)
        with pytest.raises(Ambiguous):
            await store.apply([write], atomic=False, deadline_s=DEADLINE_S)
    await stays_unwritten(store, relay, write)


def test_a_step_that_became_ready_just_before_the_stop_is_not_taken() -> None:
    sent: list[str] = []

    def statement() -> PQGen[None]:
        sent.append("prepare")
        yield WAIT_R
        sent.append("execute")

    steps = _in_time(statement(), time.monotonic() + 0.05)
    next(steps)
    time.sleep(0.1)  # the process is stopped
    with pytest.raises(_TooLateError):
        steps.send(READY_R)
    assert sent == ["prepare"]
