"""The loop on virtual time: it is what everything else here stands on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulation.loop import START_S, SimLoop, Stuck


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop(random.Random(1))
    yield made
    made.dispose()


def order_of(seed: int) -> list[int]:
    """Return in which order eight tasks take their three steps."""
    loop, taken = SimLoop(random.Random(seed)), list[int]()

    async def work(number: int) -> None:
        for _ in range(3):
            taken.append(number)
            await asyncio.sleep(0)

    async def everybody() -> None:
        await asyncio.gather(*(work(number) for number in range(8)))

    loop.run_until_complete(everybody())
    loop.dispose()
    return taken


def test_time_passes_only_when_everybody_waits(loop: SimLoop) -> None:
    async def wait() -> float:
        await asyncio.sleep(3600)
        async with asyncio.timeout(5):
            await asyncio.sleep(4)
        return loop.time()

    assert loop.run_until_complete(wait()) == START_S + 3604


def test_a_deadline_is_kept_in_virtual_time(loop: SimLoop) -> None:
    async def wait() -> None:
        async with asyncio.timeout(5):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        loop.run_until_complete(wait())
    assert loop.time() == START_S + 5


def test_a_seed_gives_one_order_and_seeds_give_many() -> None:
    assert order_of(5) == order_of(5)
    assert len({tuple(order_of(seed)) for seed in range(20)}) > 15


def test_a_run_in_which_nothing_can_happen_any_more_says_so(loop: SimLoop) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck, match="nothing is scheduled"):
        loop.run_until_complete(forever())


def test_a_killed_process_does_nothing_more_not_even_its_clean_up(loop: SimLoop) -> None:
    done: list[str] = []

    async def victim() -> None:
        try:
            while True:
                done.append("lives")
                await asyncio.sleep(1)
        finally:
            done.append("cleans up")

    async def world() -> list[str]:
        loop.spawn("victim", victim())
        await asyncio.sleep(2.5)
        loop.kill("victim")
        await asyncio.sleep(10)
        return list(done)

    assert loop.run_until_complete(world()) == ["lives"] * 3


def test_a_stopped_process_comes_back_late_with_all_that_was_due(loop: SimLoop) -> None:
    seen: list[float] = []

    async def sleeper() -> None:
        await asyncio.sleep(1)
        seen.append(loop.time() - START_S)

    async def world() -> Any:
        loop.spawn("sleeper", sleeper())
        loop.spawn("other", sleeper())
        await asyncio.sleep(0.5)
        loop.pause("sleeper")
        assert loop.anybody_paused(), "whoever judges a run waits for it"
        await asyncio.sleep(8.5)
        loop.resume("sleeper")
        assert not loop.anybody_paused()
        await asyncio.sleep(1)

    loop.run_until_complete(world())
    assert seen == [1.0, 9.0]
