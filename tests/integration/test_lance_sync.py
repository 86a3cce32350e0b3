"""What is acknowledged is on the disk: no answer before the sync, none that hides its failure."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.config.settings import LanceSettings
from proxy.errors import Ambiguous, Unavailable
from proxy.model import Applied
from proxy.stores.lancedb import LanceStore
from proxy.stores.lancedb.disk import Disk
from tests.lance import item, lance


class Platter:
    """Stands in for the disk: counts syncs, and can hold or fail them."""

    def __init__(self) -> None:
        self.syncs = 0
        self.asked = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self.broken = False

    async def sync(self) -> None:
        self.asked.set()
        await self.free.wait()
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1


@pytest.fixture
async def platter(monkeypatch: pytest.MonkeyPatch) -> Platter:
    made = Platter()
    monkeypatch.setattr(Disk, "sync", made.sync)
    return made


@pytest.fixture
async def store(tmp_path: Path, platter: Platter) -> AsyncIterator[LanceStore]:
    made = lance(tmp_path)
    await made.open()
    yield made
    await made.close()


async def put(store: LanceStore, *keys: str, deadline_s: float = 20) -> set[Applied]:
    writes = [item(key) for key in keys]
    results = await store.apply(writes, atomic=False, deadline_s=deadline_s)
    return {result.applied for result in results}


async def test_no_write_is_answered_before_it_is_on_the_disk(
    store: LanceStore, platter: Platter
) -> None:
    platter.free.clear()
    writing = asyncio.create_task(put(store, "a", "b"))
    await asyncio.wait_for(platter.asked.wait(), 20)
    assert await store.row_estimate("items") == 2
    assert not writing.done()
    platter.free.set()
    assert await writing == {Applied.DONE}
    assert platter.syncs == 1  # one for the group


async def test_a_disk_that_fails_is_never_taken_for_success(
    store: LanceStore, platter: Platter
) -> None:
    platter.broken = True
    with pytest.raises(Ambiguous, match="Input/output error"):
        await put(store, "a")
    with pytest.raises(Ambiguous, match="Input/output error"):
        await store.build_index("items")
    platter.broken = False
    assert await put(store, "a") == {Applied.DONE}


async def test_a_sync_that_hangs_is_a_write_that_may_have_been_applied(
    store: LanceStore, platter: Platter
) -> None:
    platter.free.clear()
    with pytest.raises(Ambiguous):
        await put(store, "a", deadline_s=0.5)
    with pytest.raises(Unavailable, match="was given up"):
        await store.landed("items", deadline_s=0.1)
    platter.free.set()
    await store.landed("items", deadline_s=20)


async def test_it_can_be_left_to_the_kernel(tmp_path: Path, platter: Platter) -> None:
    store = lance(tmp_path, settings=LanceSettings(flush_ms=0, sync=False))
    await store.open()
    assert await put(store, "a") == {Applied.DONE}
    assert not platter.syncs
    await store.close()


async def test_a_folder_is_synced_and_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    await Disk(tmp_path).sync()
    with pytest.raises(FileNotFoundError):
        await Disk(tmp_path / "none").sync()
