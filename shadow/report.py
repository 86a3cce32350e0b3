"""The shadow report as JSON, and the two pages a person reads: shadow reads, whole migration.

The JSON is stable: fields are only ever added, every field below is always there, and lists and
objects are in a fixed order. A share is 0..1; a mean or percentile of nothing is null.

    schema            "crossfade.shadow/1"
    migration         name
    generated_at      ISO time
    since, until      ISO times of the first and last observed read, "" for none
    replicas, windows names, sorted
    reads             {observed, sampled, dropped: {reason: n}, waiting, dropped_share}
    gate              {passed, conditions: [{name, passed, detail, remedy}]}
    total             {control, candidate, ...summary} of the reads toward one candidate
    groups            [{collection, kind, control, candidate, ...summary}]
    samples           the worst queries side by side, worst first, at most 12:
        request_id, at, collection, kind, query
        charged           differences without tolerance
        overlap, overlap_excused, rbo, tau
        looks             2 if the difference was confirmed by a second look
        control, candidate {store, latency_ms, count,
                           hits: [{rank, key, label, score, cause}]}   at most 10 each;
                           cause is "" for an id that does not differ, score null in lists
        findings          [{key, side, cause, detail}], at most 20; findings_more the rest
    failures          queries the candidate failed: [{request_id, at, query, error, message}]

A summary is

    queries           compared
    identical         of these, without any difference
    errors            {error: n} of the candidate; inconclusive {reason: n} of the comparison
    empty_differs, counts_differ, order_differs, duplicates, second_looks   queries
    top1              share of queries with the same (or a tied) first hit
    differences       {ids, excused, charged, causes: {cause: n}}; every cause of shadow.attribute
    known_differences {reason: ids} that are excused because the stores are known to differ
    by_rank           {reason: queries} whose ranks were compared and whose scores were not
    overlap, overlap_excused, jaccard, rbo, tau
                      {count, mean, low, bins}: 20 equal steps of low..1, and exactly 1 apart
    noise             the same, of the overlap of the control with itself
    score_delta_max   greatest difference of a score
    latency           {control, candidate, p95_ratio}, each side {count, mean_ms, p50_ms, p95_ms,
                      p99_ms, histogram: [[from_ms, to_ms, n]]}
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict

from proxy.config.settings import ShadowSettings
from proxy.controlplane import Precondition
from proxy.model import JsonValue
from shadow.attribute import EXCUSED, ZERO_TOLERANCE, Cause
from shadow.gate import gate, p95_ratio
from shadow.histogram import Latencies, Shares, bucket_ms
from shadow.page.migration import migration_page
from shadow.page.shadow import shadow_page
from shadow.stats import GroupKey, GroupStats, Stats

SCHEMA = "crossfade.shadow/1"
SAMPLES_MAX = 12
FAILURES_MAX = 12
_MERGED_BUCKETS = 8  # 1.02 ** 8: bars 17 % apart, about 14 to a decade


def build_report(
    stats: Stats,
    settings: ShadowSettings,
    *,
    migration: str,
    generated_at: dt.datetime,
    candidate: str = "new",
) -> dict[str, JsonValue]:
    """Return the report of merged statistics (see the module for its schema).

    Args:
        candidate: the store that traffic is to move to; the totals are of reads toward it.
    """
    conditions = gate(stats, settings, candidate=candidate)
    return {
        "schema": SCHEMA,
        "migration": migration,
        "generated_at": generated_at.isoformat(timespec="seconds"),
        "since": stats.since,
        "until": stats.until,
        "replicas": sorted(stats.replicas),
        "windows": sorted(stats.windows),
        "reads": _reads(stats),
        "gate": {
            "passed": all(item.passed for item in conditions),
            "conditions": [_condition(item) for item in conditions],
        },
        "total": _total(stats, candidate),
        "groups": [
            {
                "collection": key.collection,
                "kind": key.kind,
                "control": key.control,
                "candidate": key.candidate,
                **summary(stats.groups[key]),
            }
            for key in sorted(stats.groups)
        ],
        "samples": _worst(stats),
        "failures": _failures(stats),
    }


def render_shadow_report(report: Mapping[str, JsonValue]) -> str:
    """Return one self-contained HTML page of a shadow report; a missing part is left out."""
    return shadow_page(report)


def render_migration_report(data: Mapping[str, JsonValue]) -> str:
    """Return one self-contained HTML page of a whole migration; a missing part is left out.

    Args:
        data: report.json of `crossfade demo`: migration, started_at, duration_s, corpus,
            failed_requests, lost_writes, live_writes, live_reads, live_searches, verify {matched,
            mismatched, missing, extra}, swaps [{to, stall_ms}], phases [{phase, started_s,
            duration_s, searches, search_p50_ms, search_p95_ms, writes, write_p50_ms,
            write_p95_ms, failed}], backfill {rows, seconds, rate_rows_per_s}, index, shadow (a
            report of `build_report`), events, damage [{collection, key, kind, fields}], passed.
    """
    return migration_page(data)


def summary(group: GroupStats) -> dict[str, JsonValue]:
    """Return one group's counts as the report shows them."""
    causes: dict[str, JsonValue] = {
        cause.value: group.causes.get(cause.value, 0) for cause in Cause
    }
    return {
        "queries": group.queries,
        "identical": group.identical,
        "errors": _sorted(group.errors),
        "inconclusive": _sorted(group.inconclusive),
        "empty_differs": group.empty_differs,
        "counts_differ": group.counts_differ,
        "order_differs": group.order_differs,
        "duplicates": group.duplicates,
        "second_looks": group.second_looks,
        "top1": _ratio(group.top1_agrees, group.queries),
        "differences": {
            "ids": sum(group.causes.values()),
            "excused": sum(group.causes.get(cause.value, 0) for cause in EXCUSED),
            "charged": sum(group.causes.get(cause.value, 0) for cause in ZERO_TOLERANCE),
            "causes": causes,
        },
        "known_differences": _sorted(group.known),
        "by_rank": _sorted(group.by_rank),
        "overlap": _shares(group.overlap),
        "overlap_excused": _shares(group.overlap_excused),
        "jaccard": _shares(group.jaccard),
        "rbo": _shares(group.rbo),
        "tau": _shares(group.tau),
        "noise": _shares(group.noise),
        "score_delta_max": group.score_delta_max / 1e9,
        "latency": {
            "control": _latencies(group.control_ms),
            "candidate": _latencies(group.candidate_ms),
            "p95_ratio": _rounded(p95_ratio(group.control_ms, group.candidate_ms)),
        },
    }


def _total(stats: Stats, candidate: str) -> dict[str, JsonValue]:
    toward = {key: group for key, group in stats.groups.items() if key.candidate == candidate}
    control = min((key.control for key in toward), default="old" if candidate == "new" else "new")
    merged = sum(toward.values(), GroupStats())
    return {"control": control, "candidate": candidate, **summary(merged)}


def _reads(stats: Stats) -> dict[str, JsonValue]:
    return {
        "observed": stats.observed,
        "sampled": stats.sampled,
        "dropped": _sorted(stats.dropped),
        "waiting": stats.waiting,
        "dropped_share": _ratio(sum(stats.dropped.values()), stats.sampled),
    }


def _condition(condition: Precondition) -> dict[str, JsonValue]:
    return dict(asdict(condition))


def _worst(stats: Stats) -> list[JsonValue]:
    """Return the worst samples, taking turns between groups so that each one shows its worst."""
    queues = [list(stats.groups[key].worst) for key in _by_charge(stats)]
    chosen: list[JsonValue] = []
    while any(queues) and len(chosen) < SAMPLES_MAX:
        for queue in queues:
            if queue and len(chosen) < SAMPLES_MAX:
                chosen.append(queue.pop(0))
    return chosen


def _by_charge(stats: Stats) -> list[GroupKey]:
    def charge(key: GroupKey) -> tuple[int, GroupKey]:
        causes = stats.groups[key].causes
        return (-sum(causes.get(cause.value, 0) for cause in ZERO_TOLERANCE), key)

    return sorted(stats.groups, key=charge)


def _failures(stats: Stats) -> list[JsonValue]:
    found = [item for key in sorted(stats.groups) for item in stats.groups[key].failures]
    return list(sorted(found, key=lambda item: str(item.get("at")))[:FAILURES_MAX])


def _shares(shares: Shares) -> dict[str, JsonValue]:
    return {
        "count": shares.count,
        "mean": _rounded(shares.mean),
        "low": shares.low,
        "bins": list(shares.bins),
    }


def _latencies(latencies: Latencies) -> dict[str, JsonValue]:
    bars: dict[int, int] = {}
    for index, count in latencies.buckets.items():
        bars[index // _MERGED_BUCKETS] = bars.get(index // _MERGED_BUCKETS, 0) + count
    histogram: list[JsonValue] = [
        [
            round(bucket_ms(bar * _MERGED_BUCKETS), 6),
            round(bucket_ms((bar + 1) * _MERGED_BUCKETS), 6),
            bars[bar],
        ]
        for bar in sorted(bars)
    ]
    return {
        "count": latencies.count,
        "mean_ms": _rounded(latencies.mean_ms),
        "p50_ms": _rounded(latencies.percentile_ms(50)),
        "p95_ms": _rounded(latencies.percentile_ms(95)),
        "p99_ms": _rounded(latencies.percentile_ms(99)),
        "histogram": histogram,
    }


def _sorted(counts: Mapping[str, int]) -> dict[str, JsonValue]:
    return {name: counts[name] for name in sorted(counts)}


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
