"""The synchronous client: the same calls, from plain code and from several threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from crossfade.client import AlreadyExists, Client, F, Read, Upsert

from tests.wire_fakes import FakeDataPlane
from tests.wire_server import serving, target_of


@pytest.fixture
def target() -> Iterator[str]:
    """Serve from another thread, since a test of the synchronous client blocks its own."""
    started: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(FakeDataPlane()) as server:
            started.append(target_of(server))
            ready.set()
            await asyncio.to_thread(stop.wait)

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(asyncio.run, serve())
        assert ready.wait(10) or served.exception()
        yield started[0]
        stop.set()
        served.result()


def test_every_call_works_without_await(target: str) -> None:
    with Client(target, targeting_key="tenant-7") as client:
        client.insert("documents", ("serde", "a"), {"content": "x"}, vector=[1, 0, 0, 0])
        with pytest.raises(AlreadyExists):
            client.insert("documents", ("serde", "a"), {"content": "x"})
        client.upsert("documents", ("serde", "b"), {"content": "y"})
        updated = client.update("documents", ("serde", "a"), {"kind": "api"})
        assert updated.record is not None
        assert updated.record.fields == {"content": "x", "kind": "api"}
        record = client.get("documents", ("serde", "a"), Read(fields=["kind"]))
        assert record is not None
        assert record.fields == {"kind": "api"}
        assert client.batch_get("documents", [("x", "x")]) == [None]
        outcomes = client.batch_write([Upsert("documents", ("serde", "c"), {"content": "z"})])
        assert outcomes[0].ack is not None
        page = client.list("documents", limit=2)
        assert len(page.records) == 2
        assert [one.key[1] for one in client.iterate("documents", page_size=2)] == ["a", "b", "c"]
        assert client.count("documents").total == 3
        assert client.search("documents", [1, 0, 0, 0]).hits[0].similarity == 1.0
        assert client.scoped(timeout_s=3).delete("documents", ("serde", "c")).existed
        assert client.delete_where("documents", F("source_name") == "serde") == 2


def test_several_threads_share_one_client(target: str) -> None:
    with Client(target) as client, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> bool:
            client.upsert("documents", ("serde", str(number)), {"content": "x"})
            return client.get("documents", ("serde", str(number))) is not None

        assert all(pool.map(work, range(100)))


def test_a_closed_client_says_so_and_leaves_no_thread(target: str) -> None:
    client = Client(target)
    assert client.count("documents").total == 0
    names = [thread.name for thread in threading.enumerate()]
    client.close()
    client.close()
    assert "crossfade-client" in names
    assert "crossfade-client" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.count("documents")
