"""Statistics of shadow reads by (collection, query kind, stores): counted, merged, as JSON.

Merging is exact, associative and commutative, so that windows of any replicas can be merged in
any order and grouping.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from proxy.errors import Corrupt
from proxy.model import JsonValue
from shadow.attribute import Cause
from shadow.compare import Comparison
from shadow.fields import counts, integer, mapping, mappings, text
from shadow.histogram import Latencies, Shares, add_counts

VERSION = 1
WORST_MAX = 6
ERROR_EXAMPLES_MAX = 3
_NONE = Shares()
_SIGNED = Shares(low=-1)
_NO_TIME = Latencies()
_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class GroupKey:
    """What is aggregated together. `control` and `candidate` name stores."""

    collection: str
    kind: str
    control: str
    candidate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStats:
    """Counts of one group.

    Attributes:
        queries: compared; `errors` and `inconclusive` are not among them.
        errors: queries the candidate failed, by error.
        inconclusive: queries that could not be judged (ledger down, deadline), by reason.
        identical: compared without any difference.
        causes: differing ids by cause.
        known: those excused as known differences, by reason.
        by_rank: queries whose scores were left aside, by reason.
        score_delta_max: greatest difference of a score, in billionths.
        noise: overlap of the control with itself.
        worst: at most WORST_MAX samples, worst first (see shadow.samples).
        failures: at most ERROR_EXAMPLES_MAX examples of errors.
    """

    queries: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    inconclusive: Mapping[str, int] = field(default_factory=dict)
    identical: int = 0
    empty_differs: int = 0
    counts_differ: int = 0
    order_differs: int = 0
    top1_agrees: int = 0
    duplicates: int = 0
    second_looks: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[str, int] = field(default_factory=dict)
    by_rank: Mapping[str, int] = field(default_factory=dict)
    score_delta_max: int = 0
    overlap: Shares = _NONE
    overlap_excused: Shares = _NONE
    jaccard: Shares = _NONE
    rbo: Shares = _NONE
    tau: Shares = _SIGNED
    noise: Shares = _NONE
    control_ms: Latencies = _NO_TIME
    candidate_ms: Latencies = _NO_TIME
    worst: tuple[Mapping[str, JsonValue], ...] = ()
    failures: tuple[Mapping[str, JsonValue], ...] = ()

    def __add__(self, other: GroupStats) -> GroupStats:
        values: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name) for name in _SUMS
        }
        for name in _COUNTS:
            values[name] = add_counts(getattr(self, name), getattr(other, name))
        return GroupStats(
            **values,
            score_delta_max=max(self.score_delta_max, other.score_delta_max),
            worst=worst_of(self.worst + other.worst) if other.worst else self.worst,
            failures=first_of(self.failures + other.failures) if other.failures else self.failures,
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return JSON that `from_json` reads."""
        out: dict[str, JsonValue] = {name: getattr(self, name) for name in _INTEGERS}
        for name in _COUNTS:
            found = getattr(self, name)
            out[name] = {key: found[key] for key in sorted(found)}
        for name in (*_SHARES, *_LATENCIES):
            out[name] = getattr(self, name).to_json()
        out["worst"] = list(self.worst)
        out["failures"] = list(self.failures)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> GroupStats:
        """Read what `to_json` wrote. Raises Corrupt."""
        values: dict[str, Any] = {name: integer(data, name) for name in _INTEGERS}
        values |= {name: counts(data, name) for name in _COUNTS if name in data or name not in _NEW}
        values |= {name: Shares.from_json(mapping(data, name)) for name in _SHARES}
        values |= {name: Latencies.from_json(mapping(data, name)) for name in _LATENCIES}
        return cls(
            **values,
            worst=worst_of(tuple(mappings(data, "worst"))),
            failures=first_of(tuple(mappings(data, "failures"))),
        )


_INTEGERS = (
    "queries",
    "identical",
    "empty_differs",
    "counts_differ",
    "order_differs",
    "top1_agrees",
    "duplicates",
    "second_looks",
    "score_delta_max",
)
_COUNTS = ("errors", "inconclusive", "causes", "known", "by_rank")
_NEW = frozenset({"known", "by_rank"})
"""A replica of a former version does not count these yet."""
_SHARES = ("overlap", "overlap_excused", "jaccard", "rbo", "tau", "noise")
_LATENCIES = ("control_ms", "candidate_ms")
_SUMS = tuple(name for name in _INTEGERS if name != "score_delta_max") + _SHARES + _LATENCIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Everything one or more replicas know about shadow reads.

    Attributes:
        observed: reads that were served while shadow reads were on.
        sampled: of these, chosen by the sample.
        dropped: chosen but not compared, by reason ("queue_full", "closed").
        since, until: ISO times of the first and last observation, "" for none.
    """

    observed: int = 0
    sampled: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    since: str = ""
    until: str = ""
    replicas: frozenset[str] = frozenset()
    windows: frozenset[str] = frozenset()
    groups: Mapping[GroupKey, GroupStats] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Sampled reads that were neither dropped nor judged when this was written."""
        ended = sum(
            group.queries + sum(group.errors.values()) + sum(group.inconclusive.values())
            for group in self.groups.values()
        )
        return max(0, self.sampled - sum(self.dropped.values()) - ended)

    def __add__(self, other: Stats) -> Stats:
        groups = dict(self.groups)
        for key, group in other.groups.items():
            groups[key] = groups[key] + group if key in groups else group
        return Stats(
            observed=self.observed + other.observed,
            sampled=self.sampled + other.sampled,
            dropped=add_counts(self.dropped, other.dropped),
            since=min(filter(None, (self.since, other.since)), default=""),
            until=max(self.until, other.until),
            replicas=self.replicas | other.replicas,
            windows=self.windows | other.windows,
            groups=groups,
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return what `RoutingLog.put_shadow` stores and `from_json` reads."""
        groups: list[JsonValue] = [
            {
                "collection": key.collection,
                "kind": key.kind,
                "control": key.control,
                "candidate": key.candidate,
                **self.groups[key].to_json(),
            }
            for key in sorted(self.groups)
        ]
        return {
            "version": VERSION,
            "observed": self.observed,
            "sampled": self.sampled,
            "dropped": {name: self.dropped[name] for name in sorted(self.dropped)},
            "since": self.since,
            "until": self.until,
            "replicas": sorted(self.replicas),
            "windows": sorted(self.windows),
            "groups": groups,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> Stats:
        """Read what `to_json` wrote.

        Raises:
            Corrupt: not shadow statistics, or those of another version.
        """
        if integer(data, "version") != VERSION:
            raise Corrupt(
                f"shadow statistics have version {data['version']}, expected {VERSION}.",
                hint="Let every replica run the same version of Crossfade.",
            )
        groups: dict[GroupKey, GroupStats] = {}
        for item in mappings(data, "groups"):
            key = GroupKey(
                collection=text(item, "collection"),
                kind=text(item, "kind"),
                control=text(item, "control"),
                candidate=text(item, "candidate"),
            )
            groups[key] = GroupStats.from_json(item)
        return cls(
            observed=integer(data, "observed"),
            sampled=integer(data, "sampled"),
            dropped=counts(data, "dropped"),
            since=text(data, "since"),
            until=text(data, "until"),
            replicas=_strings(data.get("replicas")),
            windows=_strings(data.get("windows")),
            groups=groups,
        )


def merge(parts: Iterable[Stats]) -> Stats:
    """Merge statistics of any replicas and windows."""
    return reduce(lambda left, right: left + right, parts, Stats())


def merge_json(rows: Iterable[Mapping[str, JsonValue]], *, since_epoch: int = 0) -> Stats:
    """Merge what `RoutingLog.shadow` returns, without windows of earlier epochs.

    A window of an earlier epoch may reach the ledger just after the step to the next one; it is
    known by its name. Raises Corrupt.
    """
    parts = (Stats.from_json(row) for row in rows)
    return merge(part for part in parts if _epoch(part) >= since_epoch)


def _epoch(stats: Stats) -> int:
    """Return the least epoch of the windows; "epoch-3:..." is 3."""
    numbers = [name.removeprefix("epoch-").partition(":")[0] for name in stats.windows]
    return min((int(number) for number in numbers if number.isdecimal()), default=0)


def of_comparison(comparison: Comparison, sample: Mapping[str, JsonValue] | None) -> GroupStats:
    """Count one compared query; `sample` shows it side by side if it is worth showing."""
    likeness, causes = comparison.likeness, [item.cause.value for item in comparison.findings]
    reasons = [item.detail for item in comparison.findings if item.cause is Cause.SEMANTIC]
    clean = not causes and likeness.order_agrees and not comparison.counts_differ
    case = comparison.case
    return GroupStats(
        queries=1,
        identical=int(clean),
        empty_differs=int(comparison.empty_on_one_side),
        counts_differ=int(comparison.counts_differ),
        order_differs=int(not likeness.order_agrees),
        top1_agrees=int(likeness.top1),
        duplicates=case.candidate.duplicates,
        second_looks=int(case.evidence.looks > 1),
        causes={name: causes.count(name) for name in set(causes)},
        known={reason: reasons.count(reason) for reason in set(reasons)},
        by_rank={case.question.by_rank: 1} if case.question.by_rank else {},
        score_delta_max=_billionths(likeness.score_delta_max),
        overlap=Shares.of(likeness.overlap),
        overlap_excused=Shares.of(likeness.overlap_excused),
        jaccard=Shares.of(likeness.jaccard),
        rbo=Shares.of(likeness.rbo),
        tau=_SIGNED if likeness.tau is None else Shares.of(likeness.tau, -1),
        control_ms=Latencies.of(case.control.latency_ms),
        candidate_ms=Latencies.of(case.candidate.latency_ms),
        worst=(sample,) if sample is not None else (),
    )


def _billionths(delta: float | None) -> int:
    """A score that is not finite counts as the greatest difference."""
    if delta is None:
        return 0
    return round(min(delta, 1e6) * _NANO) if math.isfinite(delta) else 10**6 * _NANO


def worst_of(samples: tuple[Mapping[str, JsonValue], ...]) -> tuple[Mapping[str, JsonValue], ...]:
    """Return the worst WORST_MAX samples, in a total order, so that merging is associative."""
    if len(samples) < 2:
        return samples
    return tuple(sorted(samples, key=_badness)[:WORST_MAX])


def _badness(sample: Mapping[str, JsonValue]) -> tuple[float, float, float, float, str]:
    numbers = [sample.get(name) for name in ("charged", "overlap_excused", "overlap", "rbo")]
    charged, excused, overlap, rbo = (
        float(value) if isinstance(value, int | float) else 0.0 for value in numbers
    )
    names = ("at", "request_id", "collection", "kind", "query")
    return (-charged, excused, overlap, rbo, "\0".join(str(sample.get(name)) for name in names))


def first_of(
    failures: tuple[Mapping[str, JsonValue], ...],
) -> tuple[Mapping[str, JsonValue], ...]:
    """Return the earliest ERROR_EXAMPLES_MAX failures."""
    ordered = sorted(failures, key=lambda item: (str(item.get("at")), str(item.get("request_id"))))
    return tuple(ordered[:ERROR_EXAMPLES_MAX])


def _strings(value: JsonValue) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return frozenset()
    return frozenset(item for item in value if isinstance(item, str))
