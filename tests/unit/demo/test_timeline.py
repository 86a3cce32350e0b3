"""What the report says of a phase and a swap must be what the clients felt."""

import random

from proxy.demo.samples import Sample, longest_ms, percentile
from proxy.demo.timeline import Span, Swap, Timeline, phase_report, swap_report


def sample(kind: str, start_s: float, latency_ms: float, ok: bool = True) -> Sample:
    return Sample(kind=kind, start_s=start_s, end_s=start_s + latency_ms / 1000, ok=ok)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    random.shuffle(values)
    assert percentile(values, 0.50) == 50.0
    assert percentile(values, 0.95) == 95.0
    assert percentile([7.0], 0.95) == 7.0
    assert percentile([], 0.5) == 0.0


def test_the_stall_counts_writes_that_began_before_the_swap_and_ended_in_it() -> None:
    samples = [
        sample("upsert", 9.95, 100),
        sample("update", 10.05, 40),
        sample("search", 10.0, 900),
        sample("upsert", 12.0, 500),
    ]
    swap = Swap(to="new", start_s=10.0, end_s=10.2, hold_ms=35.0)
    report = swap_report(swap, samples, 0.0)
    assert report["to"] == "new"
    assert report["stall_ms"] == 100.0
    assert report["hold_ms"] == 35.0


def test_a_failed_write_counts_for_the_stall_too() -> None:
    assert longest_ms([sample("upsert", 10.0, 5000, ok=False)], 10.1, 10.2) == 5000.0


def test_a_phase_counts_its_own_requests_alone() -> None:
    samples = [
        sample("search", 1.0, 10),
        sample("search", 2.0, 20),
        sample("search_all", 2.5, 40),
        sample("upsert", 2.6, 4),
        sample("get", 2.7, 2),
        sample("upsert", 2.8, 4, ok=False),
        sample("upsert", 3.0, 4),
    ]
    report = phase_report(Span(phase="ramp 10%", start_s=2.0, end_s=3.0), samples, 0.5)
    assert report == {
        "phase": "ramp 10%",
        "started_s": 1.5,
        "duration_s": 1.0,
        "searches": 2,
        "search_p50_ms": 20.0,
        "search_p95_ms": 40.0,
        "searches_all": 1,
        "search_all_p50_ms": 40.0,
        "writes": 1,
        "write_p50_ms": 4.0,
        "write_p95_ms": 4.0,
        "reads": 1,
        "failed": 1,
    }


def test_phases_follow_each_other_without_a_gap() -> None:
    timeline = Timeline()
    timeline.enter("old_only")
    timeline.enter("dual_write")
    timeline.close()
    timeline.close()
    first, second = timeline.spans
    assert (first.phase, second.phase) == ("old_only", "dual_write")
    assert first.end_s == second.start_s
