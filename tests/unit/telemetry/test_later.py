"""Measurements that wait: recorded soon, all of them, in order, and never without a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from proxy.telemetry.later import AT_ONCE_MAX, WAITING_MAX, Later

Recorded = list[tuple[float, Mapping[str, str]]]


def into(found: Recorded, value: float, labels: Mapping[str, str]) -> None:
    found.append((value, labels))


async def until(found: Recorded, count: int) -> None:
    async with asyncio.timeout(10):
        while len(found) < count:
            await asyncio.sleep(0.001)


def test_without_a_running_loop_a_measurement_is_recorded_at_once() -> None:
    found: Recorded = []
    Later().put(lambda value, labels: into(found, value, labels), 1.5, {"a": "b"})
    assert found == [(1.5, {"a": "b"})]


async def test_in_a_loop_measurements_are_recorded_soon_and_in_their_order() -> None:
    found: Recorded = []
    later = Later()
    count = 3 * AT_ONCE_MAX
    for number in range(count):
        later.put(lambda value, labels: into(found, value, labels), number, {})
    assert found == []
    await until(found, count)
    assert [value for value, _ in found] == list(range(count))


async def test_after_a_pause_measurements_are_recorded_again() -> None:
    found: Recorded = []
    later = Later()
    for count in (1, 2):
        later.put(lambda value, labels: into(found, value, labels), count, {})
        await until(found, count)
    assert len(later) == 0


async def test_a_flush_from_another_thread_leaves_nothing_waiting() -> None:
    found: Recorded = []
    later = Later()
    for number in range(100):
        later.put(lambda value, labels: into(found, value, labels), number, {})
    await asyncio.to_thread(later.flush)
    assert len(later) == 0
    assert len(found) == 100


async def test_no_more_than_a_bounded_number_of_measurements_waits() -> None:
    found: Recorded = []
    later = Later()
    for number in range(WAITING_MAX + 10):
        later.put(lambda value, labels: into(found, value, labels), number, {})
    assert len(later) <= WAITING_MAX


def test_a_loop_that_ended_before_its_turn_does_not_stop_the_next_one() -> None:
    found: Recorded = []
    later = Later()

    async def put(count: int) -> None:
        later.put(lambda value, labels: into(found, value, labels), count, {})

    asyncio.run(put(1))
    later.flush()

    async def again() -> None:
        await put(2)
        await until(found, 2)

    asyncio.run(again())
    assert [value for value, _ in found] == [1, 2]
    assert len(later) == 0
