"""The gate judges merged statistics, always by the same conditions."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from proxy.config.settings import ShadowSettings
from proxy.controlplane import Precondition
from shadow.gate import gate
from shadow.histogram import Latencies, Shares
from shadow.stats import GroupKey, GroupStats, Stats

SEARCH = GroupKey(collection="documents", kind="vector search", control="old", candidate="new")
LIST = GroupKey(collection="documents", kind="list", control="old", candidate="new")
BACK = GroupKey(collection="documents", kind="list", control="new", candidate="old")
NAMES = [
    "shadow: enough queries",
    "shadow: no errors",
    "shadow: overlap",
    "shadow: overlap of known differences",
    "shadow: no record missing",
    "shadow: no record too many",
    "shadow: no stale content",
    "shadow: no vector or metric differs",
    "shadow: latency",
    "shadow: dropped",
]


def many(shares: Shares, count: int) -> Shares:
    return sum((shares for _ in range(count)), Shares())


def good(queries: int = 100) -> GroupStats:
    return GroupStats(
        queries=queries,
        overlap_excused=many(Shares.of(1.0), queries),
        control_ms=sum((Latencies.of(50) for _ in range(queries)), Latencies()),
        candidate_ms=sum((Latencies.of(40) for _ in range(queries)), Latencies()),
    )


def judged(**groups: GroupStats) -> dict[str, Precondition]:
    keys = {"search": SEARCH, "list": LIST, "back": BACK}
    stats = Stats(sampled=100, groups={keys[name]: group for name, group in groups.items()})
    return {item.name: item for item in gate(stats, ShadowSettings())}


def failed(**groups: GroupStats) -> list[str]:
    return [name for name, item in judged(**groups).items() if not item.passed]


def test_good_statistics_pass_every_condition() -> None:
    found = judged(search=good())
    assert list(found) == NAMES
    assert all(item.passed for item in found.values())
    assert all(item.remedy for item in found.values())


def test_a_store_that_finds_nothing_is_no_known_difference() -> None:
    words = GroupKey(collection="documents", kind="keyword search", control="old", candidate="new")
    for share, passed in ((0.0, False), (0.05, False), (0.2, True), (1.0, True)):
        group = replace(
            good(), known={"keyword search ranks differently": 9}, overlap=many(Shares.of(share), 9)
        )
        stats = Stats(sampled=100, groups={SEARCH: good(), words: group})
        found = {item.name: item for item in gate(stats, ShadowSettings())}
        assert found["shadow: overlap of known differences"].passed is passed, share
        assert found["shadow: overlap"].passed


def test_nothing_observed_fails_what_needs_evidence() -> None:
    assert failed() == ["shadow: enough queries", "shadow: overlap", "shadow: latency"]
    remedies = {item.remedy for item in gate(Stats(), ShadowSettings()) if not item.passed}
    assert remedies == {"Let live traffic run longer, or raise shadow.sample."}


def test_a_gate_that_asks_for_no_queries_passes_on_none() -> None:
    settings = ShadowSettings(gate_queries_min=0)
    assert all(item.passed for item in gate(Stats(), settings))


def test_too_few_queries_fail() -> None:
    found = judged(search=good(99))["shadow: enough queries"]
    assert not found.passed
    assert found.detail == "99 compared against 'new', at least 100 needed"


def test_an_error_of_the_candidate_fails() -> None:
    found = judged(search=replace(good(), errors={"Unavailable": 2}))["shadow: no errors"]
    assert not found.passed
    assert "'new' failed 2 queries" in found.detail
    assert "Unavailable 2" in found.detail


def test_the_overlap_is_judged_by_kind_so_that_lists_do_not_hide_a_search() -> None:
    bad = replace(good(), overlap_excused=many(Shares.of(0.9), 100))
    found = judged(search=bad, list=good(10_000))["shadow: overlap"]
    assert not found.passed
    assert "lowest for vector search: 0.9000" in found.detail


@pytest.mark.parametrize(
    ("cause", "name"),
    [
        ("missing", "shadow: no record missing"),
        ("extra", "shadow: no record too many"),
        ("stale", "shadow: no stale content"),
        ("vector", "shadow: no vector or metric differs"),
    ],
)
def test_one_of_these_is_one_too_many(cause: str, name: str) -> None:
    assert failed(search=replace(good(), causes={cause: 1})) == [name]


def test_a_key_returned_twice_is_a_record_too_many() -> None:
    assert failed(search=replace(good(), duplicates=1)) == ["shadow: no record too many"]


@pytest.mark.parametrize("cause", ["in_flight", "tie", "semantic", "displaced", "index_recall"])
def test_these_are_counted_and_do_not_fail_by_themselves(cause: str) -> None:
    assert failed(search=replace(good(), causes={cause: 50})) == []


def test_a_slower_candidate_fails_and_the_slowest_kind_is_named() -> None:
    slow = replace(good(), candidate_ms=sum((Latencies.of(80) for _ in range(100)), Latencies()))
    found = judged(search=slow, list=good())["shadow: latency"]
    assert not found.passed
    assert re.search(r"p95 of 'new' is (79|80)\.\d+ ms, 1\.6\d times", found.detail)
    assert "slowest against its control: documents, vector search (1.6" in found.detail


def test_a_candidate_that_is_slower_by_less_than_anyone_feels_passes() -> None:
    quick = replace(
        good(),
        control_ms=sum((Latencies.of(1.0) for _ in range(100)), Latencies()),
        candidate_ms=sum((Latencies.of(2.5) for _ in range(100)), Latencies()),
    )
    assert failed(search=quick) == []


def test_a_few_slow_queries_of_a_small_sample_are_within_the_doubt() -> None:
    spread = [10.0] * 93 + [40.0] * 7
    noisy = replace(
        good(),
        control_ms=sum(
            (Latencies.of(10.0) for _ in range(98)), Latencies.of(40) + Latencies.of(40)
        ),
        candidate_ms=sum((Latencies.of(value) for value in spread), Latencies()),
    )
    assert failed(search=noisy) == []
    more = replace(
        noisy,
        control_ms=sum((noisy.control_ms for _ in range(20)), Latencies()),
        candidate_ms=sum((noisy.candidate_ms for _ in range(20)), Latencies()),
    )
    assert failed(search=more) == ["shadow: latency"]


def test_reads_the_candidate_served_itself_count_for_content_alone() -> None:
    other = replace(good(), errors={"Unavailable": 5}, causes={"stale": 1})
    assert failed(search=good(), back=other) == ["shadow: no stale content"]


def test_dropped_and_waiting_reads_are_noted_and_do_not_fail() -> None:
    stats = Stats(observed=300, sampled=200, dropped={"queue_full": 50}, groups={SEARCH: good()})
    note = gate(stats, ShadowSettings())[-1]
    assert note.passed
    assert note.detail == "50 of 200 sampled reads were dropped (25.0 %); 300 were served, 50 wait"
