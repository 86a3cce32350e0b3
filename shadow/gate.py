"""The gate before the ramp: do the shadow reads say that the candidate answers as the control?"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.config.settings import ShadowSettings
from proxy.controlplane import Precondition
from proxy.query import SearchMode
from shadow.attribute import Cause
from shadow.histogram import Latencies, Shares, add_all
from shadow.stats import GroupKey, GroupStats, Stats

_ZERO = {
    Cause.MISSING: (
        "shadow: no record missing",
        "Run `crossfade verify`, then `crossfade repair`; a key that comes back missing has a "
        "writer that bypasses the proxy.",
    ),
    Cause.EXTRA: (
        "shadow: no record too many",
        "Run `crossfade verify`, then `crossfade repair`: the candidate kept a record that was "
        "deleted, or returned one twice.",
    ),
    Cause.STALE: (
        "shadow: no stale content",
        "Run `crossfade verify`, then `crossfade repair`; `crossfade report` names the fields.",
    ),
    Cause.VECTOR: (
        "shadow: no vector or metric differs",
        "Compare the metric of both layouts; then run `crossfade verify` and `crossfade repair`.",
    ),
}

_REASONS_MAX = 3

_MORE_TRAFFIC = "Let live traffic run longer, or raise shadow.sample."

_ANEW = (
    "What was counted stays counted: once a verify is clean, go back and forward again "
    "(`crossfade phase shadow` from ramp, `crossfade phase dual_write` and then `crossfade phase "
    "shadow` from shadow), and the gate counts anew."
)


_RANKED_KINDS = frozenset(
    f"{mode.value} search" for mode in (SearchMode.TEXT, SearchMode.KEYWORD, SearchMode.HYBRID)
)
"""Searches that two engines or two models rank in their own ways."""


def gate(stats: Stats, settings: ShadowSettings, *, candidate: str = "new") -> list[Precondition]:
    """Judge merged statistics; always the same conditions, in the same order.

    Args:
        candidate: the store that traffic is to move to. Reads that it served itself (a ramp that
            has begun) count for content, not for the overlap and the latency.
    """
    toward = {key: group for key, group in stats.groups.items() if key.candidate == candidate}
    return [
        _enough(toward, settings, candidate),
        _errors(toward, settings, candidate),
        _overlap(toward, settings),
        _known_overlap(toward, settings),
        *(_zero(stats, cause) for cause in _ZERO),
        _latency(toward, settings, candidate),
        _dropped(stats, settings),
    ]


def _enough(
    groups: Mapping[GroupKey, GroupStats], settings: ShadowSettings, candidate: str
) -> Precondition:
    queries = sum(group.queries for group in groups.values())
    unjudged = sum(sum(group.inconclusive.values()) for group in groups.values())
    left_out = f"; {unjudged} could not be judged" if unjudged else ""
    return Precondition(
        name="shadow: enough queries",
        passed=queries >= settings.gate_queries_min,
        detail=f"{queries} compared against {candidate!r}, at least "
        f"{settings.gate_queries_min} needed{left_out}",
        remedy=_MORE_TRAFFIC,
    )


def _errors(
    groups: Mapping[GroupKey, GroupStats], settings: ShadowSettings, candidate: str
) -> Precondition:
    by_kind: dict[str, int] = {}
    for group in groups.values():
        for name, count in group.errors.items():
            by_kind[name] = by_kind.get(name, 0) + count
    total = sum(by_kind.values())
    named = ", ".join(f"{name} {by_kind[name]}" for name in sorted(by_kind))
    return Precondition(
        name="shadow: no errors",
        passed=total <= settings.gate_errors_max,
        detail=f"{candidate!r} failed {total} {'query' if total == 1 else 'queries'} that the "
        "control answered"
        + (f" ({named})" if named else "")
        + f", at most {settings.gate_errors_max} allowed",
        remedy=f"Look at the examples in `crossfade report` and at the log of {candidate!r}. "
        + _ANEW,
    )


def _overlap(groups: Mapping[GroupKey, GroupStats], settings: ShadowSettings) -> Precondition:
    kinds: dict[str, Shares] = {}
    for key, group in groups.items():
        kinds[key.kind] = kinds.get(key.kind, Shares()) + group.overlap_excused
    means = {kind: shares.mean for kind, shares in kinds.items() if shares.mean is not None}
    worst = min(means, key=lambda kind: (means[kind] or 0.0, kind), default="")
    detail = f"none compared, at least {settings.gate_overlap_min:.4f} needed"
    passed = settings.gate_queries_min == 0
    if worst:
        lowest = means[worst] or 0.0
        passed = lowest >= settings.gate_overlap_min
        detail = (
            f"lowest for {worst}: {lowest:.4f} after excusing, at least "
            f"{settings.gate_overlap_min:.4f} needed"
        ) + _excused(groups)
    return Precondition(
        name="shadow: overlap",
        passed=passed,
        detail=detail,
        remedy="Raise ef_search or oversample of the index, or rebuild it; `crossfade report` "
        "shows the worst queries side by side."
        if worst
        else _MORE_TRAFFIC,
    )


def _known_overlap(groups: Mapping[GroupKey, GroupStats], settings: ShadowSettings) -> Precondition:
    """A known difference excuses other ranks, not a store that finds next to nothing."""
    kinds: dict[str, Shares] = {}
    for key, group in groups.items():
        if group.known and key.kind.partition(",")[0] in _RANKED_KINDS:
            kinds[key.kind] = kinds.get(key.kind, Shares()) + group.overlap
    means = {kind: shares.mean for kind, shares in kinds.items() if shares.mean is not None}
    worst = min(means, key=lambda kind: (means[kind] or 0.0, kind), default="")
    lowest = means.get(worst) or 0.0
    needed = settings.gate_known_overlap_min
    return Precondition(
        name="shadow: overlap of known differences",
        passed=not worst or lowest >= needed,
        detail=f"lowest for {worst}: {lowest:.4f} before excusing, at least {needed:.4f} needed"
        if worst
        else "no search is known to be answered differently",
        remedy="Look whether the candidate's word index covers every record and has the same "
        "language, and whether its model is the right one; `crossfade report` shows the worst "
        "queries side by side.",
    )


def _excused(groups: Mapping[GroupKey, GroupStats]) -> str:
    """Say what was excused as a known difference, "" if nothing was."""
    known: dict[str, int] = {}
    for key, group in groups.items():
        for reason, ids in group.known.items():
            named = f"{key.kind}: {reason}"
            known[named] = known.get(named, 0) + ids
    if not known:
        return ""
    often = sorted(known, key=lambda reason: (-known[reason], reason))
    more = f"; and {len(often) - _REASONS_MAX} more" if len(often) > _REASONS_MAX else ""
    listed = "; ".join(f"{reason} ({known[reason]} ids)" for reason in often[:_REASONS_MAX])
    return f"; known differences: {listed}{more}"


def _zero(stats: Stats, cause: Cause) -> Precondition:
    name, remedy = _ZERO[cause]
    found = sum(group.causes.get(cause.value, 0) for group in stats.groups.values())
    if cause is Cause.EXTRA:
        found += sum(group.duplicates for group in stats.groups.values())
    return Precondition(
        name=name,
        passed=found == 0,
        detail=f"{found} found since the phase became shadow, none allowed",
        remedy=f"{remedy} {_ANEW}",
    )


def _latency(
    groups: Mapping[GroupKey, GroupStats], settings: ShadowSettings, candidate: str
) -> Precondition:
    control = add_all([group.control_ms for group in groups.values()])
    shadow = add_all([group.candidate_ms for group in groups.values()])
    ratio = p95_ratio(control, shadow)
    passed, detail = settings.gate_queries_min == 0, ""
    if ratio is not None:
        passed = not _surely_slower(control, shadow, settings)
        doubt = passed and not _within(control, shadow, settings)
        detail = (
            f"p95 of {candidate!r} is {shadow.percentile_ms(95):.2f} ms, {ratio:.2f} times the "
            f"control's {control.percentile_ms(95):.2f} ms; at most "
            f"{settings.gate_latency_ratio_max:.2f} times plus "
            f"{settings.gate_latency_slack_ms:g} ms allowed"
            f"{f', which {shadow.count} queries do not prove exceeded' if doubt else ''}"
        ) + _slowest(groups)
    return Precondition(
        name="shadow: latency",
        passed=passed,
        detail=detail or "none measured",
        remedy="Check that the new store's index is used and its cache is warm."
        if detail
        else _MORE_TRAFFIC,
    )


def _within(control: Latencies, candidate: Latencies, settings: ShadowSettings) -> bool:
    left, right = control.percentile_ms(95) or 0.0, candidate.percentile_ms(95) or 0.0
    return right <= left * settings.gate_latency_ratio_max + settings.gate_latency_slack_ms


def _surely_slower(control: Latencies, candidate: Latencies, settings: ShadowSettings) -> bool:
    """Return whether the candidate's p95 exceeds the limit at 95 % confidence.

    Few queries leave much doubt, many leave little.
    """
    left, right = control.bounds_ms(95), candidate.bounds_ms(95)
    if left is None or right is None:
        return False
    limit_ms = left[1] * settings.gate_latency_ratio_max + settings.gate_latency_slack_ms
    return right[0] > limit_ms


def p95_ratio(control: Latencies, candidate: Latencies) -> float | None:
    """Return the candidate's p95 over the control's, None if nothing was measured."""
    left, right = control.percentile_ms(95), candidate.percentile_ms(95)
    return right / left if left and right else None


def _slowest(groups: Mapping[GroupKey, GroupStats]) -> str:
    """Name the group with the worst ratio, which the sum of all could hide."""
    ratios = {
        f"{key.collection}, {key.kind}": ratio
        for key, group in groups.items()
        if (ratio := p95_ratio(group.control_ms, group.candidate_ms)) is not None
    }
    if len(ratios) < 2:
        return ""
    worst = max(ratios, key=lambda name: (ratios[name], name))
    return f"; slowest against its control: {worst} ({ratios[worst]:.2f} times)"


def _dropped(stats: Stats, settings: ShadowSettings) -> Precondition:
    """A note: a sample that was thinned out is still a sample."""
    lost = sum(stats.dropped.values())
    share = 100 * lost / stats.sampled if stats.sampled else 0.0
    return Precondition(
        name="shadow: dropped",
        passed=True,
        detail=f"{lost} of {stats.sampled} sampled reads were dropped ({share:.1f} %); "
        f"{stats.observed} were served" + (f", {stats.waiting} wait" if stats.waiting else ""),
        remedy=f"Raise shadow.queue_max ({settings.queue_max}) or shadow.workers "
        f"({settings.workers}), or lower shadow.sample.",
    )
