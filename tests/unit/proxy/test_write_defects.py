"""A defect of the proxy itself while it writes: nothing is settled while a store is written."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from proxy.dual_write.follow import Follower
from proxy.dual_write.primary import Primary
from proxy.dual_write.tasks import all_ended
from proxy.model import Key
from tests.rig import Rig, context, upsert

KEY: Key = ("rust", "serde", "a")


async def broken(*_: object, **__: object) -> NoReturn:
    raise KeyError("a defect")


@pytest.mark.parametrize(
    ("where", "name", "other"), [(Follower, "fit", "old"), (Primary, "write", "new")]
)
async def test_a_defect_on_one_side_does_not_settle_while_the_other_is_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, where: type, name: str, other: str
) -> None:
    monkeypatch.setattr(where, name, broken)
    store = rig.stores[other]
    gate = store.gate = asyncio.Event()
    store.entered.clear()
    running = asyncio.create_task(rig.plane.write(upsert(KEY), context()))
    await store.entered.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    await rig.settle.flush()
    assert not running.done()
    assert await rig.ledger.unsettled() == 1, "a repair would come before the write that runs"
    gate.set()
    with pytest.raises(KeyError):
        await running
    assert await rig.dirty() == {KEY}
    assert await rig.stored(other, KEY) is not None, "the write that had begun ran to its end"


async def test_work_side_by_side_ends_before_its_first_error_is_raised() -> None:
    ended: list[str] = []

    async def fail(name: str, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        ended.append(name)
        raise KeyError(name)

    with pytest.raises(KeyError, match="slow"):
        await all_ended(fail("slow", 5), fail("fast", 0))
    assert ended == ["fast", "slow"]


async def test_work_side_by_side_that_is_cancelled_has_ended_too() -> None:
    begun, ended = asyncio.Semaphore(0), []

    async def wait(name: str) -> None:
        try:
            begun.release()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    both = asyncio.create_task(all_ended(wait("a"), wait("b")))
    for _ in range(2):
        await begun.acquire()
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert sorted(ended) == ["a", "b"]


async def test_work_that_cancels_itself_is_not_taken_for_done() -> None:
    async def stop() -> None:
        raise asyncio.CancelledError

    async def go_on() -> None:
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await all_ended(go_on(), stop())
