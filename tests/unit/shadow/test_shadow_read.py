"""The observer: it never blocks or raises, its queue is bounded, and it ends in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from proxy.config.settings import ShadowSettings
from proxy.dataplane import Reading, ReadObserver
from proxy.errors import Unavailable
from proxy.ledger.types import Phase, Routing
from proxy.query import ListQuery
from shadow.shadow_read import QUEUED_RECORDS_MAX, ShadowParts, ShadowReader
from shadow.stats import merge_json
from tests.unit.shadow.support import ROUTING, Bench, StillClock, key, nearest

SETTINGS = ShadowSettings(noise_sample=0.0, deadline_s=5.0)


class Rig:
    """A reader over a bench, with a clock and a routing that the test moves."""

    def __init__(self, bench: Bench, settings: ShadowSettings) -> None:
        self.bench = bench
        self.clock = StillClock()
        self.routing = ROUTING
        self.broken = False
        self.reader = ShadowReader(
            ShadowParts(
                stores=bench.stores,
                ledger=bench.ledger,
                routing=self._routing,
                replica_id="replica-1",
                clock=self.clock,
            ),
            settings,
        )

    def _routing(self) -> Routing:
        if self.broken:
            raise RuntimeError("broken wiring")
        return self.routing

    async def idle(self) -> None:
        async with asyncio.timeout(5):
            await self.reader.idle()


@asynccontextmanager
async def running(settings: ShadowSettings = SETTINGS) -> AsyncIterator[Rig]:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    rig = Rig(bench, settings)
    await rig.reader.start()
    try:
        yield rig
    finally:
        await rig.reader.close(deadline_s=0.2)


async def reading(rig: Rig, request_id: str = "request-1") -> Reading:
    return replace(await rig.bench.served(nearest()), request_id=request_id)


async def test_an_observed_read_is_compared_and_counted_by_collection_and_kind() -> None:
    async with running() as rig:
        observer: ReadObserver = rig.reader
        observer.observe(await reading(rig))
        observer.observe(await rig.bench.served(ListQuery(collection="documents", limit=2)))
        await rig.idle()
        stats = rig.reader.stats()
    assert stats.observed == stats.sampled == 2
    assert {(group.collection, group.kind) for group in stats.groups} == {
        ("documents", "vector search"),
        ("documents", "list"),
    }
    assert all(group.queries == group.identical == 1 for group in stats.groups.values())
    assert all(group.control_ms.count == 1 for group in stats.groups.values())


async def test_observe_returns_at_once_while_the_candidate_hangs() -> None:
    async with running() as rig:
        rig.bench.new.hang = asyncio.Event()
        one = await reading(rig)
        started = time.perf_counter()
        for _ in range(100):
            rig.reader.observe(one)
        assert time.perf_counter() - started < 0.5


async def test_the_queue_is_bounded_and_what_is_dropped_is_counted() -> None:
    async with running(SETTINGS.model_copy(update={"queue_max": 3, "workers": 1})) as rig:
        rig.bench.new.hang = asyncio.Event()
        one = await reading(rig)
        rig.reader.observe(one)
        await rig.bench.new.asked.wait()  # one runs, the queue is empty
        for _ in range(5):
            rig.reader.observe(one)
        assert rig.reader.gauges()["queued"] == 3
        assert rig.reader.stats().dropped == {"queue_full": 2}
        rig.bench.new.hang.set()
        await rig.idle()
        assert sum(group.queries for group in rig.reader.stats().groups.values()) == 4


async def test_the_records_that_wait_are_bounded_too() -> None:
    async with running() as rig:
        rig.bench.new.hang = asyncio.Event()
        page = await rig.bench.served(ListQuery(collection="documents", limit=4))
        large = replace(page, records=tuple(page.records) * (QUEUED_RECORDS_MAX // 8))
        for _ in range(4):
            rig.reader.observe(large)
        assert rig.reader.gauges()["queued"] == 2
        assert rig.reader.stats().dropped == {"queue_full": 2}


async def test_sampling_is_stable_by_request_and_near_its_share() -> None:
    settings = SETTINGS.model_copy(update={"sample": 0.3, "queue_max": 5000})
    chosen: list[int] = []
    for _ in range(2):
        async with running(settings) as rig:
            one = await rig.bench.served(nearest())
            for number in range(1000):
                rig.reader.observe(replace(one, request_id=f"request-{number}"))
            chosen.append(rig.reader.stats().sampled)
    assert chosen[0] == chosen[1]
    assert 250 < chosen[0] < 350


@pytest.mark.parametrize("phase", [Phase.OLD_ONLY, Phase.DUAL_WRITE, Phase.NEW_ONLY])
async def test_outside_the_shadow_phases_nothing_is_observed(phase: Phase) -> None:
    async with running() as rig:
        rig.routing = Routing(epoch=1, phase=phase, primary="old")
        rig.reader.observe(await reading(rig))
        assert rig.reader.stats().observed == 0


async def test_observe_never_raises() -> None:
    async with running() as rig:
        one = await reading(rig)
        rig.broken = True
        rig.reader.observe(one)
        assert rig.reader.gauges()["internal"] == 1
        rig.broken = False


async def test_before_start_and_after_close_readings_are_dropped_and_counted() -> None:
    bench = await Bench().fill(a=0.9)
    rig = Rig(bench, SETTINGS)
    one = await reading(rig)
    rig.reader.observe(one)
    await rig.reader.start()
    await rig.reader.close()
    rig.reader.observe(one)
    assert rig.reader.stats().dropped == {"closed": 2}


async def test_a_slow_candidate_is_an_error_by_its_deadline() -> None:
    async with running(SETTINGS.model_copy(update={"deadline_s": 0.01})) as rig:
        rig.bench.new.hang = asyncio.Event()
        rig.reader.observe(await reading(rig))
        await rig.idle()
        (group,) = rig.reader.stats().groups.values()
    assert group.errors == {"deadline": 1}
    assert group.queries == 0
    assert group.failures[0]["message"] == "no answer within 0.01 s"


async def test_a_ledger_that_is_down_makes_queries_inconclusive() -> None:
    async with running() as rig:
        rig.bench.ledger.error = Unavailable("The ledger is down.", where="ledger")
        rig.reader.observe(await reading(rig))
        await rig.idle()
        (group,) = rig.reader.stats().groups.values()
        rig.bench.ledger.error = None
    assert group.inconclusive == {"Unavailable": 1}


async def test_one_query_that_breaks_does_not_end_the_workers() -> None:
    async with running(SETTINGS.model_copy(update={"workers": 1})) as rig:
        broken = await reading(rig)
        rig.reader.observe(replace(broken, candidate_store="elsewhere"))
        rig.reader.observe(broken)
        await rig.idle()
        groups = rig.reader.stats().groups
    assert sorted(group.inconclusive.get("internal", 0) for group in groups.values()) == [0, 1]
    assert sum(group.queries for group in groups.values()) == 1


async def test_the_noise_floor_is_measured_by_reading_the_control_twice() -> None:
    async with running(SETTINGS.model_copy(update={"noise_sample": 1.0})) as rig:
        one = await reading(rig)
        rig.bench.old.unseen = {key("a")}
        rig.reader.observe(one)
        await rig.idle()
        (group,) = rig.reader.stats().groups.values()
    assert group.noise.count == 1
    assert group.noise.mean == pytest.approx(2 / 3, abs=1e-6)


async def test_close_with_a_full_queue_ends_in_time_and_counts_what_it_dropped() -> None:
    async with running(SETTINGS.model_copy(update={"queue_max": 10, "workers": 2})) as rig:
        rig.bench.new.hang = asyncio.Event()
        one = await reading(rig)
        rig.reader.observe(one)
        await rig.bench.new.asked.wait()
        for _ in range(30):
            rig.reader.observe(one)
        started = time.perf_counter()
        await rig.reader.close(deadline_s=0.05)
        assert time.perf_counter() - started < 2
        stats = merge_json(rig.bench.ledger.stored.values())
    assert stats.observed == 31
    assert sum(stats.dropped.values()) == 31
    assert stats.dropped["closed"] >= 11


async def test_close_lets_a_running_query_end_and_stores_it() -> None:
    async with running() as rig:
        rig.bench.new.hang = asyncio.Event()
        rig.reader.observe(await reading(rig))
        await rig.bench.new.asked.wait()
        closing = asyncio.create_task(rig.reader.close(deadline_s=5))
        await asyncio.sleep(0)
        rig.bench.new.hang.set()
        await closing
        stats = merge_json(rig.bench.ledger.stored.values())
    assert sum(group.queries for group in stats.groups.values()) == 1
    assert stats.dropped == {}


async def test_a_reading_that_waits_for_a_swap_to_end_is_dropped_and_counted_at_close() -> None:
    async with running() as rig:
        one = await reading(rig)
        rig.reader.observe(one)
        rig.routing = replace(ROUTING, hold=True)
        while rig.reader.gauges()["queued"]:
            await asyncio.sleep(0)
        await rig.reader.close(deadline_s=0.05)
        assert rig.reader.gauges()["dropped"] == 1
        stats = merge_json(rig.bench.ledger.stored.values())
    assert stats.dropped == {"closed": 1}


async def test_close_is_safe_twice_and_without_start() -> None:
    rig = Rig(Bench(), SETTINGS)
    before = asyncio.all_tasks()
    await rig.reader.close()
    await rig.reader.start()
    assert {task.get_name() for task in asyncio.all_tasks() - before} == {"shadow-reads"}
    await rig.reader.close()
    await rig.reader.close()
    assert asyncio.all_tasks() == before, "nothing is left running"


async def test_statistics_reach_the_ledger_by_window_and_only_when_they_changed() -> None:
    async with running() as rig:
        rig.reader.observe(await reading(rig))
        await rig.idle()
        await rig.reader.flush()
        assert list(rig.bench.ledger.stored) == [("replica-1", "epoch-3:20260131T14Z")]
        rig.bench.ledger.stored.clear()
        await rig.reader.flush()
        assert rig.bench.ledger.stored == {}
        rig.routing = replace(ROUTING, epoch=4)
        rig.reader.observe(await reading(rig))
        await rig.idle()
        rig.bench.ledger.put.clear()
        rig.clock.tick.set()  # the periodic flush
        async with asyncio.timeout(5):
            await rig.bench.ledger.put.wait()
        assert list(rig.bench.ledger.stored) == [("replica-1", "epoch-4:20260131T14Z")]


async def test_statistics_that_the_ledger_refused_are_offered_again() -> None:
    async with running() as rig:
        rig.reader.observe(await reading(rig))
        await rig.idle()
        rig.bench.ledger.error = Unavailable("The ledger is down.", where="ledger")
        await rig.reader.flush()
        assert rig.bench.ledger.stored == {}
        rig.bench.ledger.error = None
        await rig.reader.flush()
        (stored,) = rig.bench.ledger.stored.values()
    assert merge_json([stored]).observed == 1


async def test_a_query_that_ends_late_is_counted_into_the_window_it_was_observed_in() -> None:
    async with running() as rig:
        rig.bench.new.hang = asyncio.Event()
        rig.reader.observe(await reading(rig))
        await rig.bench.new.asked.wait()
        rig.routing = replace(ROUTING, epoch=4)
        for _ in range(3):
            await rig.reader.flush()
        rig.bench.new.hang.set()
        await rig.idle()
        await rig.reader.flush()
        rows = rig.bench.ledger.stored.values()
    assert sum(group.queries for group in merge_json(rows).groups.values()) == 1
    assert merge_json(rows, since_epoch=4).groups == {}


async def test_the_statistics_of_two_replicas_merge() -> None:
    rows = []
    for number in range(2):
        async with running() as rig:
            rig.reader.observe(await reading(rig, f"request-{number}"))
            await rig.idle()
            rows.append(rig.reader.stats().to_json())
    merged = merge_json(rows)
    assert merged.observed == 2
    assert sum(group.queries for group in merged.groups.values()) == 2


async def test_hostile_text_is_made_printable_before_it_is_stored() -> None:
    async with running() as rig:
        await rig.bench.new.put("a", 0.9, "nul \x00 and escape \x1b[31m and \u202e reversed")
        rig.reader.observe(await reading(rig))
        await rig.idle()
        (group,) = rig.reader.stats().groups.values()
    assert group.causes == {"stale": 1}
    assert all(letter.isprintable() for letter in str(group.worst[0]))
