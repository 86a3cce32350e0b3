"""The decisions without I/O: ranges, batches, throttles, differences."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.types import RangeState
from proxy.model import Key, Record
from proxy.query import KeyRange
from proxy.stores.base import KeyDigest
from reconcile.checkpoint import Progress
from reconcile.digest import compare, difference
from reconcile.ranges import (
    BatchSize,
    added,
    advanced,
    common_order,
    narrower,
    parents_first,
    plan_batch,
    remaining,
    rows_per_range,
    scope_of,
)
from reconcile.roles import period_epoch
from reconcile.tasks import both, to_the_end
from reconcile.throttle import Budget, Limits, Pressure, Throttle
from tests.doc_server import schemas
from tests.unit.reconcile.support import FastClock

OLD, NEW = schemas()["old"], schemas()["new"]
DOCUMENTS = scope_of("documents", OLD, NEW)


def key(number: int, kind: str = "rust") -> Key:
    return (kind, "serde", f"{number}")


def test_parents_come_first_and_only_what_is_wanted() -> None:
    names = parents_first(OLD.collections)
    assert names.index("sources") < names.index("documents")
    assert names.index("crate_configs") < names.index("population_jobs")
    assert set(names) == set(OLD.collections)
    assert parents_first(OLD.collections, ["documents"]) == ["documents"]


def test_only_what_both_stores_hold_is_compared() -> None:
    assert "content" in DOCUMENTS.fields
    assert DOCUMENTS.vector
    assert not {"metadata", "updated_at"} & set(DOCUMENTS.fields)
    assert DOCUMENTS.holds(key(1))
    assert not DOCUMENTS.holds(key(1, "birdeye"))
    assert narrower("documents", OLD, NEW) == "primary"
    assert narrower("documents", NEW, OLD) == "secondary"


def test_stores_that_order_differently_meet_in_byte_order() -> None:
    assert common_order("en_US", "en_US") == "en_US"
    assert common_order("en_US", "de_DE") == "C"


@given(rows=st.integers(0, 10**7), workers=st.integers(1, 32), most=st.integers(1, 10**5))
def test_a_range_is_never_larger_than_asked(rows: int, workers: int, most: int) -> None:
    assert 1 <= rows_per_range(rows, range_rows=most, workers=workers) <= most


def test_a_checkpoint_goes_on_where_it_ended() -> None:
    state = RangeState(job_id=1, collection="documents", number=0, keys=KeyRange(upto=key(9)))
    assert remaining(state) == KeyRange(after=None, upto=key(9))
    state = advanced(state, key(4), {"rows": 5}, done=False)
    assert remaining(state) == KeyRange(after=key(4), upto=key(9))
    state = advanced(state, key(9), {"rows": 2, "bytes": 7}, done=True)
    assert (state.done, state.tally) == (True, {"rows": 7, "bytes": 7})
    assert added({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_every_key_of_a_span_has_exactly_one_fate(
    here: list[int], there: list[int], flying: set[int]
) -> None:
    left = [key(n, "rust" if n % 5 else "zebra") for n in sorted(set(here))]
    right = [key(n, "rust" if n % 5 else "zebra") for n in sorted(set(there))]
    in_flight = frozenset(key(n) for n in flying)
    plan = plan_batch(DOCUMENTS, left, right, in_flight)
    fates = [plan.fresh, plan.present, plan.extra, tuple(plan.in_flight), tuple(plan.foreign)]
    together = [item for fate in fates for item in fate]
    assert sorted(together) == sorted({*left, *right})
    assert not set(plan.fresh) & set(right)
    assert not set(plan.extra) & set(left)
    assert plan.in_flight <= in_flight
    assert set(left) - plan.not_fresh == set(plan.fresh)


def test_batches_grow_carefully_and_shrink_at_once() -> None:
    size = BatchSize(rows_max=2000, bytes_max=1_000_000)
    limits = []
    for _ in range(4):
        limits.append(size.limit())
        size = size.after(size.limit(), size.limit() * 100, 0.0)
    assert limits == [128, 512, 2000, 2000]
    size = size.after(2000, 2000 * 100_000, 0.0)  # rows became large
    assert size.limit() == 10
    assert size.after(10, 10 * 10_000_000, 0.0).limit() == 1
    assert size.after(0, 0, 0.0) == size


def test_batches_are_small_enough_to_end_soon() -> None:
    size = BatchSize(rows_max=2000, bytes_max=10**9, last=2000)
    assert size.after(2000, 2000, 0.5).limit() == 2000
    assert size.after(2000, 2000, 20.0).limit() == 200  # an index on the target: 100 rows/s
    assert size.after(2000, 2000, 10**6).limit() == 1
    size = size.too_slow()
    assert size.limit() == 62 * 4
    assert BatchSize(rows_max=1, bytes_max=1).too_slow().limit() == 1


@given(
    rate=st.floats(1, 1e6),
    amounts=st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
)
def test_a_budget_is_kept_on_average(rate: float, amounts: list[float]) -> None:
    budget, now_s = Budget(rate_per_s=rate), 0.0
    for amount in amounts:
        now_s += budget.wait_s(now_s)
        budget = budget.spend(amount, now_s)
    now_s += budget.wait_s(now_s)
    assert now_s * rate >= sum(amounts) - rate * 0.002 * len(amounts) - 1e-6 * sum(amounts)


def test_no_limit_is_no_wait() -> None:
    assert Budget(rate_per_s=0).spend(10**9, 0.0).wait_s(0.0) == 0.0


def test_back_pressure_doubles_while_slow_and_fades_when_fast() -> None:
    pressure = Pressure(latency_ms_max=10)
    pauses = []
    for latency in (5, 20, 20, 20, 5, 5, 5, 5, 5, 5):
        pressure = pressure.seen(latency)
        pauses.append(pressure.pause_s)
    assert pauses[0] == 0
    assert pauses[1:4] == [0.02, 0.04, 0.08]
    assert pauses[-1] == 0
    for _ in range(100):
        pressure = pressure.seen(1000)
    assert pressure.pause_s == 5.0
    assert Pressure(latency_ms_max=0).seen(10**6).pause_s == 0


async def test_a_throttled_job_takes_the_time_its_rate_asks_for() -> None:
    clock = FastClock()
    throttle = Throttle(Limits(rows_per_s_max=100), clock)

    async def ping() -> None:
        return None

    for _ in range(10):
        await throttle.wait(ping, lambda: None)
        throttle.spend(50, 10**6)
    assert 4.4 <= clock.passed_s <= 4.6
    assert max(clock.slept) <= 0.5


def test_the_join_of_two_sides_names_every_difference() -> None:
    here = [KeyDigest(key=key(n), digest=n) for n in (1, 2, 3)]
    there = [
        KeyDigest(key=key(2), digest=2),
        KeyDigest(key=key(3), digest=9),
        KeyDigest(key=key(4), digest=4),
        KeyDigest(key=key(5, "zebra"), digest=5),
    ]
    joined = compare(DOCUMENTS, here, there)
    assert joined.matched == 1
    assert set(joined.candidates) == {key(1), key(3), key(4)}


def test_a_difference_shows_short_values() -> None:
    left = Record(collection="documents", key=key(1), fields={"content": "x" * 500}, vector=None)
    right = Record(
        collection="documents", key=key(1), fields={"content": None}, vector=b"\0\0\x80?" * 4
    )
    found = difference(DOCUMENTS, key(1), left, right)
    assert found is not None
    assert found.fields == ("content", "vector")
    shown = found.detail["content"]
    assert isinstance(shown, list)
    assert len(str(shown[0])) == 80
    assert shown[1] is None
    assert "float32[4] md5" in str(found.detail["vector"])
    assert difference(DOCUMENTS, key(1), left, left) is None
    assert difference(DOCUMENTS, key(1), None, None) is None


def test_progress_says_rate_and_eta() -> None:
    progress = Progress(began_s=100.0, total={"documents": 1000})
    state = RangeState(
        job_id=1, collection="documents", number=0, keys=KeyRange(), tally={"rows": 200}
    )
    progress.resume([state])
    assert progress.summary(110.0, ())["eta_s"] is None
    progress.add("documents", {"rows": 300})
    shown = progress.summary(110.0, ("matched",))
    assert (shown["rate_rows_per_s"], shown["eta_s"], shown["matched"]) == (30.0, 16.7, 0)


@pytest.mark.parametrize(
    ("flags", "epoch"),
    [
        ({}, 0),
        ({"dual_write": {"epoch": 2}}, 2),
        ({"dual_write": {"epoch": 2}, "swap": {"epoch": 9}}, 9),
        ({"dual_write": "?", "swap": {"epoch": None}}, 0),
    ],
)
def test_a_period_begins_with_dual_writing_or_a_swap(flags: dict[str, Any], epoch: int) -> None:
    assert period_epoch(flags) == epoch


async def test_a_clean_up_ends_although_it_is_cancelled_again_and_again() -> None:
    done = asyncio.Event()
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.set()

    async def caller() -> None:
        await to_the_end(work(), deadline_s=10)

    task = asyncio.ensure_future(caller())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_of_two_things_at_once_the_first_error_is_raised_plainly() -> None:
    stopped = asyncio.Event()

    async def fail() -> int:
        raise ValueError("first")

    async def hang() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return 1

    with pytest.raises(ValueError, match="first"):
        await both(hang(), fail())
    assert stopped.is_set()
