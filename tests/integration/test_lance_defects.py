"""Whatever LanceDB raises, panics of its Rust code too: the writer goes on, callers are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from proxy.errors import Ambiguous, CrossfadeError, Unavailable
from proxy.model import Applied, Write
from proxy.stores.lancedb import LanceStore
from proxy.stores.lancedb.queue import Queue
from tests.lance import item, lance


class RustPanic(Exception):
    """As pyo3_async_runtimes has it: a class that nobody can import."""


class PanicException(BaseException):
    """As pyo3 has it: no Exception at all."""


RustPanic.__module__ = "pyo3_async_runtimes"
PanicException.__module__ = "pyo3_runtime"

ANY = pytest.mark.parametrize(
    "error",
    [
        RustPanic("rust future panicked"),
        PanicException("index out of bounds"),
        KeyError("a"),
        OSError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
PANICS = pytest.mark.parametrize(
    "error",
    [RustPanic("rust future panicked"), PanicException("index out of bounds")],
    ids=lambda error: type(error).__name__,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LanceStore]:
    made = lance(tmp_path)
    await made.open()
    yield made
    await made.close()


def failing(error: BaseException) -> Any:
    async def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    return fail


async def put(store: LanceStore, write: Write) -> Applied:
    [result] = await store.apply([write], atomic=False, deadline_s=20)
    return result.applied


@ANY
async def test_an_optimisation_that_fails_in_any_way_is_counted_and_writes_go_on(
    store: LanceStore, error: BaseException
) -> None:
    upkeep = store.writers["items"].upkeep["items"]
    upkeep.optimize = failing(error)  # type: ignore[method-assign]  # LanceDB fails
    upkeep.commits = 10**6
    assert await put(store, item("a")) is Applied.DONE
    assert await put(store, item("b")) is Applied.DONE
    assert store.stats()["optimize_failures"] == 1


@ANY
async def test_work_that_fails_in_any_way_is_told_and_writes_go_on(
    store: LanceStore, error: BaseException
) -> None:
    with pytest.raises(Ambiguous, match="failed on shelves, items"):
        await store.writers["items"].alone(failing(error), deadline_s=20)
    assert await put(store, item("a")) is Applied.DONE


@ANY
async def test_a_commit_that_fails_in_any_way_is_told_and_writes_go_on(
    store: LanceStore, error: BaseException
) -> None:
    writer = store.writers["items"]
    merge, writer.merge = writer.merge, failing(error)  # type: ignore[method-assign]  # LanceDB fails
    with pytest.raises(Ambiguous, match="failed on shelves, items"):
        await put(store, item("a"))
    writer.merge = merge  # type: ignore[method-assign]  # and does so no more
    assert await put(store, item("a")) is Applied.DONE


@PANICS
async def test_a_group_that_could_not_be_read_was_not_applied(
    store: LanceStore, error: BaseException
) -> None:
    writer = store.writers["items"]
    writer.read = failing(error)  # type: ignore[method-assign]  # LanceDB fails
    with pytest.raises(Unavailable, match="failed on shelves, items"):
        await put(store, item("a"))


@PANICS
async def test_a_read_that_panics_is_unavailable(
    store: LanceStore, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.stores.lancedb.store.rows_by_key", failing(error))
    with pytest.raises(Unavailable, match=r"failed on items: .*(panicked|out of bounds)"):
        await store.get("items", [("a",)], vectors=False, deadline_s=20)


async def test_a_writer_whose_own_turn_fails_says_so_and_takes_the_next(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take = Queue.take
    failed = asyncio.Event()

    async def once(queue: Queue, rows: int) -> Any:
        if not failed.is_set():
            failed.set()
            raise KeyError("a defect")
        return await take(queue, rows)

    monkeypatch.setattr(Queue, "take", once)
    with caplog.at_level(logging.ERROR):
        assert await put(store, item("a")) is Applied.DONE
    assert "the writer of shelves, items failed; it goes on" in caplog.text


async def test_a_writer_that_was_ended_from_outside_refuses_at_once(store: LanceStore) -> None:
    task = store.writers["items"]._task  # whoever cancels every task of a loop
    assert task is not None
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(CrossfadeError, match="is closed"):
        await asyncio.wait_for(put(store, item("a")), 5)
