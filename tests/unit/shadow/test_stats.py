"""Statistics merge exactly, in any order and grouping, and survive JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Corrupt
from proxy.model import JsonValue
from shadow.histogram import Latencies, Shares
from shadow.stats import WORST_MAX, GroupKey, GroupStats, Stats, merge, merge_json, worst_of

LATENCIES = st.lists(st.floats(0.01, 10_000), max_size=5).map(
    lambda values: sum((Latencies.of(value) for value in values), Latencies())
)
SHARES = st.lists(st.floats(0, 1), max_size=5).map(
    lambda values: sum((Shares.of(value) for value in values), Shares())
)
COUNTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 9))


@st.composite
def groups(draw: st.DrawFn) -> GroupStats:
    samples: list[dict[str, JsonValue]] = [
        {
            "charged": draw(st.integers(0, 2)),
            "overlap_excused": draw(st.sampled_from([0.5, 0.9])),
            "overlap": 0.5,
            "rbo": 0.5,
            "request_id": draw(st.uuids().map(str)),
        }
        for _ in range(draw(st.integers(0, WORST_MAX)))
    ]
    return GroupStats(
        queries=draw(st.integers(0, 9)),
        errors=draw(COUNTS),
        causes=draw(COUNTS),
        score_delta_max=draw(st.integers(0, 100)),
        overlap=draw(SHARES),
        control_ms=draw(LATENCIES),
        candidate_ms=draw(LATENCIES),
        worst=worst_of(tuple(samples)),
    )


@st.composite
def stats(draw: st.DrawFn) -> Stats:
    kinds = draw(st.lists(st.sampled_from(["list", "vector search"]), unique=True))
    return Stats(
        observed=draw(st.integers(0, 9)),
        sampled=draw(st.integers(0, 9)),
        dropped=draw(COUNTS),
        since=draw(st.sampled_from(["", "2026-01-01", "2026-01-02"])),
        until=draw(st.sampled_from(["", "2026-01-03", "2026-01-04"])),
        replicas=frozenset(draw(st.lists(st.sampled_from("xyz")))),
        groups={
            GroupKey(collection="d", kind=kind, control="old", candidate="new"): draw(groups())
            for kind in kinds
        },
    )


def same(left: Stats, right: Stats) -> bool:
    return json.dumps(left.to_json()) == json.dumps(right.to_json())


@settings(deadline=None)
@given(stats(), stats(), stats())
def test_merging_is_associative_and_commutative(one: Stats, two: Stats, three: Stats) -> None:
    assert same((one + two) + three, one + (two + three))
    assert same(one + two, two + one)
    assert same(one + Stats(), Stats() + one)
    assert same(merge([one, two, three]), merge([three, one, two]))


@settings(deadline=None)
@given(stats())
def test_statistics_survive_json(one: Stats) -> None:
    again = Stats.from_json(json.loads(json.dumps(one.to_json())))
    assert same(again, one + Stats())


def test_statistics_of_another_version_are_refused_by_name() -> None:
    with pytest.raises(Corrupt, match="version 99, expected 1"):
        Stats.from_json({**Stats().to_json(), "version": 99})
    with pytest.raises(Corrupt, match="'observed' should be a whole number, got 'x'"):
        Stats.from_json({**Stats().to_json(), "observed": "x"})


def test_windows_of_earlier_epochs_are_left_out() -> None:
    rows = [
        Stats(observed=1, windows=frozenset({"epoch-2:20260131T14Z"})).to_json(),
        Stats(observed=10, windows=frozenset({"epoch-3:20260131T14Z"})).to_json(),
    ]
    assert merge_json(rows).observed == 11
    assert merge_json(rows, since_epoch=3).observed == 10


def test_only_the_worst_samples_are_kept_worst_first() -> None:
    samples: tuple[dict[str, JsonValue], ...] = tuple(
        {"charged": n % 3, "overlap_excused": n / 20, "overlap": 1, "rbo": 1, "request_id": str(n)}
        for n in range(20)
    )
    kept = sum((GroupStats(worst=(one,)) for one in samples), GroupStats()).worst
    assert [item["charged"] for item in kept] == [2] * WORST_MAX
    assert [item["request_id"] for item in kept] == ["2", "5", "8", "11", "14", "17"]


@given(st.lists(st.floats(0.01, 100_000), min_size=1, max_size=200), st.sampled_from([50, 95, 99]))
def test_percentiles_are_within_one_percent_after_a_merge(values: list[float], at: int) -> None:
    half = len(values) // 2
    parts = [
        sum((Latencies.of(value) for value in part), Latencies())
        for part in (values[:half], values[half:])
    ]
    exact = sorted(values)[max(1, math.ceil(len(values) * at / 100)) - 1]
    assert (parts[0] + parts[1]).percentile_ms(at) == pytest.approx(exact, rel=0.0101)


@given(st.lists(st.floats(0.01, 100_000), min_size=1, max_size=200))
def test_the_bounds_of_a_percentile_hold_it(values: list[float]) -> None:
    latencies = sum((Latencies.of(value) for value in values), Latencies())
    low, high = latencies.bounds_ms(95) or (0.0, 0.0)
    assert low <= (latencies.percentile_ms(95) or 0) <= high


def test_latencies_out_of_range_stay_in_the_outer_buckets() -> None:
    both = Latencies.of(-1) + Latencies.of(1e12)
    assert both.count == 2
    assert (both.percentile_ms(1) or 1) < 0.0011
    assert (both.percentile_ms(99) or 0) == pytest.approx(600_000, rel=0.03)
    assert Latencies().percentile_ms(50) is None
    assert Latencies().mean_ms is None
    assert Latencies().bounds_ms(95) is None


def test_shares_keep_perfect_answers_apart() -> None:
    shares = Shares.of(1.0) + Shares.of(0.9999) + Shares.of(0.0)
    assert (shares.bins[20], shares.bins[19], shares.bins[0]) == (1, 1, 1)
    assert shares.mean == pytest.approx(2 / 3, abs=1e-4)
    assert Shares.of(-1.0, -1).bins[0] == 1
    assert Shares.of(1.0, -1).bins[20] == 1
    assert Shares().mean is None
