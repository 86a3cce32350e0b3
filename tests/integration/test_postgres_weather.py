"""PostgreSQL in bad weather: slow, hung, cut off, restarted, down; each with the right error."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest

from proxy.errors import Ambiguous, Unavailable
from proxy.model import Applied
from proxy.query import KeyRange, ListQuery
from proxy.stores.postgres import PostgresStore
from tests.doc_server import document, patch, schemas, source
from tests.faults.harness.relay import Relay


def direct(relay: Relay) -> str:
    """Return the connection string that does not lead through the relay."""
    dsn: str = relay.direct  # type: ignore[attr-defined]  # the fixture set it
    return dsn


@pytest.fixture
async def store(relay: Relay) -> AsyncIterator[PostgresStore]:
    made = PostgresStore("new", relay.dsn(direct(relay)), schemas()["new"], pool_min=1, pool_max=2)
    await made.open()
    (result,) = await made.apply([source()], atomic=False, deadline_s=5)
    assert result.applied is Applied.DONE
    yield made
    await made.close()


async def works(store: PostgresStore, number: int) -> None:
    """Write and read one document."""
    write = document(f"p{number}", number=number)
    (result,) = await store.apply([write], atomic=False, deadline_s=5)
    assert result.applied is Applied.DONE
    assert write.key in await store.get("documents", [write.key], vectors=True, deadline_s=5)


async def answers(store: PostgresStore) -> None:
    """Wait until a store answers: the cut may have hit a connection that was being made, too."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                return await store.ping(deadline_s=5)
            await asyncio.sleep(0.05)


def row_lock(relay: Relay) -> psycopg.Connection[tuple[object, ...]]:
    """Lock the source's row in another session."""
    connection = psycopg.connect(direct(relay))
    connection.execute("SELECT 1 FROM document_sources FOR UPDATE")
    return connection


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def waiting_for_locks(relay: Relay) -> int:
    with psycopg.connect(direct(relay), autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_write_past_its_deadline_is_ambiguous_and_the_connection_stays(
    relay: Relay, store: PostgresStore
) -> None:
    before = relay.accepted
    with row_lock(relay) as other:
        started = time.monotonic()
        with pytest.raises(Ambiguous, match="in time") as caught:
            await store.apply([source(version="2")], atomic=False, deadline_s=0.3)
        assert time.monotonic() - started < 1.0
        assert caught.value.timed_out
        assert caught.value.where == "new"
        assert waiting_for_locks(relay) == 0  # cancelled on the server, too
        other.rollback()
    await works(store, 1)
    assert relay.accepted - before <= 2  # the cancel request, and one more of the pool


async def test_a_transaction_past_its_deadline_is_undone(
    relay: Relay, store: PostgresStore
) -> None:
    with row_lock(relay) as other:
        for atomic in (True, False):
            batch = [document("a", number=1), source(version="2"), document("b", number=2)]
            with pytest.raises(Ambiguous):
                await store.apply(batch, atomic=atomic, deadline_s=0.3)
        with pytest.raises(Ambiguous):
            await store.apply(
                [patch("sources", source().key, version="9")], atomic=False, deadline_s=0.3
            )
        other.rollback()
    assert await store.list_keys(ListQuery(collection="documents"), deadline_s=5) == []
    await works(store, 1)


async def test_a_cancelled_caller_leaves_the_pool_whole(relay: Relay, store: PostgresStore) -> None:
    for _ in range(6):
        with row_lock(relay) as other:
            call = asyncio.ensure_future(
                store.apply([source(version="2")], atomic=False, deadline_s=30)
            )
            await until(lambda: waiting_for_locks(relay) == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            other.rollback()
    assert store.stats()["pool_busy"] == 0
    await asyncio.gather(*(works(store, number) for number in range(1, 9)))


async def test_a_hung_server_costs_no_more_than_the_deadline_and_a_grace(
    relay: Relay, store: PostgresStore
) -> None:
    await works(store, 1)
    relay.hold()
    started = time.monotonic()
    with pytest.raises(Ambiguous) as caught:
        await store.apply([source(version="2")], atomic=False, deadline_s=0.3)
    assert caught.value.timed_out
    with pytest.raises(Unavailable):
        await store.get("sources", [source().key], vectors=False, deadline_s=0.3)
    assert time.monotonic() - started < 2.0
    relay.release()
    await works(store, 2)


async def test_a_restarted_server_costs_no_request(relay: Relay, store: PostgresStore) -> None:
    before = relay.accepted
    for number in range(1, 4):
        await works(store, number)
        relay.cut()
        await until(lambda: relay.connections == 0)
    await works(store, 9)
    assert relay.accepted >= before + 3, "each time a request came over a new connection"
    assert len(await store.list_keys(ListQuery(collection="documents"), deadline_s=5)) == 4


async def test_a_server_that_is_down_is_unavailable_at_once_and_comes_back(
    relay: Relay, store: PostgresStore
) -> None:
    await works(store, 1)
    await relay.refuse()
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(Unavailable, match="new store") as caught:
            await store.apply([source(version="2")], atomic=False, deadline_s=30)
        assert not isinstance(caught.value, Ambiguous)
        assert caught.value.where == "new"
        assert time.monotonic() - started < 5.0
    with pytest.raises(Unavailable):
        await store.ping(deadline_s=1)
    await relay.accept()
    async with asyncio.timeout(20):
        while True:
            try:
                await works(store, 2)
                break
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_connection_lost_during_a_write_is_ambiguous(
    relay: Relay, store: PostgresStore
) -> None:
    for atomic, batch in (
        (False, [source(version="2")]),
        (True, [source(version="2"), document()]),
        (False, [document(), source(version="2")]),
        (False, [patch("sources", source().key, version="3")]),
    ):
        with row_lock(relay) as other:
            call = asyncio.ensure_future(store.apply(batch, atomic=atomic, deadline_s=30))
            await until(lambda: waiting_for_locks(relay) == 1)
            relay.cut()
            with pytest.raises(Ambiguous) as caught:
                await call
            assert not caught.value.timed_out
            other.rollback()
        await answers(store)
    await works(store, 1)


async def test_a_session_ended_by_the_administrator_is_ambiguous_for_a_write(
    relay: Relay, store: PostgresStore
) -> None:
    with row_lock(relay) as other:
        call = asyncio.ensure_future(
            store.apply([source(version="2")], atomic=False, deadline_s=30)
        )
        await until(lambda: waiting_for_locks(relay) == 1)
        with psycopg.connect(direct(relay), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        with pytest.raises(Ambiguous):
            await call
        other.rollback()
    await works(store, 1)


async def test_a_busy_pool_is_unavailable_not_ambiguous(relay: Relay, store: PostgresStore) -> None:
    with row_lock(relay) as other:
        calls = [
            asyncio.ensure_future(store.apply([source(version="2")], atomic=False, deadline_s=3))
            for _ in range(2)
        ]
        await until(lambda: waiting_for_locks(relay) == 2)
        with pytest.raises(Unavailable) as caught:
            await store.apply([source(version="3")], atomic=False, deadline_s=0.2)
        assert not isinstance(caught.value, Ambiguous)
        other.rollback()
    for call in calls:
        (result,) = await call
        assert result.applied is Applied.DONE


async def test_a_page_past_its_deadline_is_unavailable_and_the_pool_whole(
    relay: Relay, store: PostgresStore
) -> None:
    await works(store, 1)
    with pytest.raises(Unavailable):
        async with store.page("documents", KeyRange(), limit=5, order="C", deadline_s=0.2):
            await asyncio.sleep(5)
    relay.hold()
    with pytest.raises(Unavailable):
        async with store.page("documents", KeyRange(), limit=5, order="C", deadline_s=0.2):
            pass
    relay.release()
    await works(store, 2)
    assert store.stats()["pool_busy"] == 0


async def test_opening_a_store_that_is_not_there_says_so(relay: Relay) -> None:
    await relay.refuse()
    for dsn, word in (
        (relay.dsn(direct(relay)), "refused"),
        ("host=127.0.0.1 nonsense", "store cannot be reached"),
        (f"{direct(relay)} dbname=nowhere_at_all", "nowhere_at_all"),
    ):
        store = PostgresStore("old", dsn, schemas()["old"])
        with pytest.raises(Unavailable, match=word) as caught:
            await store.open()
        assert caught.value.where == "old"
        await store.close()


async def test_a_closed_store_is_unavailable_and_may_be_closed_twice(
    store: PostgresStore,
) -> None:
    await store.close()
    await store.close()
    with pytest.raises(Unavailable, match="not open"):
        await store.ping(deadline_s=1)
