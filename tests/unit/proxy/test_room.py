"""Writes beyond the limit: refused at once, but for those that a swap has held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.config.settings import WriteSettings
from proxy.errors import Reason, Rejected, Unavailable
from proxy.ledger.types import EventDraft, Phase, Routing
from proxy.model import Key
from tests.rig import Rig, context, replica, upsert, with_source

MOST = 3
LINE = 10 * MOST


@pytest.fixture
async def small() -> AsyncIterator[Rig]:
    """Return a replica that works on very few writes at once."""
    async with replica(writes=WriteSettings(in_flight_max=MOST)) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        yield rig


def key(number: int) -> Key:
    return ("rust", "serde", f"{number}.html")


def begin(rig: Rig, *numbers: int) -> list[asyncio.Task[object]]:
    return [
        asyncio.create_task(rig.plane.write(upsert(key(number)), context(deadline_s=20)))
        for number in numbers
    ]


async def until_in_flight(rig: Rig, count: int) -> None:
    async with asyncio.timeout(10):
        while rig.writer.in_flight < count:
            await asyncio.sleep(0)


async def hold(rig: Rig) -> Routing:
    """Hold the writes, as a swap does, and wait until the replica does so."""
    now = await rig.ledger.routing()
    held = await rig.ledger.change_routing(
        now.epoch,
        Routing(epoch=0, phase=now.phase, primary=now.primary, hold=True),
        EventDraft(kind="hold", actor="test"),
    )
    await rig.acknowledged(held.epoch)
    return held


async def release(rig: Rig, held: Routing) -> None:
    """Give the swap up."""
    await rig.ledger.change_routing(
        held.epoch,
        Routing(epoch=0, phase=held.phase, primary=held.primary),
        EventDraft(kind="release", actor="test"),
    )


async def test_no_write_is_refused_for_those_that_wait_for_a_swap(small: Rig) -> None:
    held = await hold(small)
    writing = begin(small, *range(5 * MOST))
    await until_in_flight(small, 5 * MOST)
    small.stores["old"].applied.clear()
    gate = small.stores["old"].gate = asyncio.Event()
    small.stores["old"].entered.clear()
    await release(small, held)
    await asyncio.wait_for(small.stores["old"].entered.wait(), 10)
    late = begin(small, 100)  # there is a line still, and this one stands in it
    await until_in_flight(small, 5 * MOST + 1)
    gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*writing, *late)
    written = [write.key for write in small.stores["old"].applied]
    assert len(written) == 5 * MOST + 1
    assert written[-1] == key(100)
    assert await small.dirty() == set()


async def test_after_a_swap_no_more_writes_begin_at_once_than_ever(
    small: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A primary that takes its time is not asked for all that has waited."""
    held = await hold(small)
    writing = begin(small, *range(LINE))
    await until_in_flight(small, LINE)
    old, running, most = small.stores["old"], set(), []
    real = old.apply

    async def apply(writes: object, **how: object) -> object:
        one = object()
        running.add(one)
        most.append(len(running))
        await asyncio.sleep(0)
        try:
            return await real(writes, **how)  # type: ignore[arg-type]  # passed on as it came
        finally:
            running.discard(one)

    monkeypatch.setattr(old, "apply", apply)
    await release(small, held)
    async with asyncio.timeout(10):
        await asyncio.gather(*writing)
    assert len(most) == LINE
    assert max(most) <= MOST


async def test_the_line_is_bounded_too_and_a_write_leaves_it_with_its_client(small: Rig) -> None:
    held = await hold(small)
    writing = begin(small, *range(MOST + LINE))
    await until_in_flight(small, MOST + LINE)
    with pytest.raises(Rejected, match="wait for a swap") as caught:
        await small.plane.write(upsert(key(999)), context())
    assert caught.value.reason is Reason.RESOURCE_EXHAUSTED
    writing.pop().cancel()
    await release(small, held)
    async with asyncio.timeout(10):
        done = await asyncio.gather(*writing, return_exceptions=True)
    assert not [error for error in done if isinstance(error, BaseException)]
    await small.writer.drain(timeout_s=5)
    assert await small.stored("old", key(MOST + LINE - 1)) is None
    # Nobody has kept a place.
    async with asyncio.timeout(10):
        await asyncio.gather(*begin(small, *range(MOST)))


async def test_without_a_swap_a_write_beyond_the_limit_is_refused_at_once(small: Rig) -> None:
    gate = small.stores["old"].gate = asyncio.Event()
    writing = begin(small, *range(MOST))
    await until_in_flight(small, MOST)
    with pytest.raises(Rejected, match="in flight already"):
        await small.plane.write(upsert(key(999)), context())
    gate.set()
    await asyncio.gather(*writing)


async def test_a_hold_that_is_forgotten_ends_for_those_in_line_too() -> None:
    settings = WriteSettings(in_flight_max=MOST, hold_max_s=0.05)
    async with replica(writes=settings) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        await hold(rig)
        async with asyncio.timeout(10):
            ended = await asyncio.gather(*begin(rig, *range(LINE)), return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in ended)
