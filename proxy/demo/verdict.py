"""Everything a run found out, put together: report.json, and whether the run passed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.demo.account import Account
from proxy.demo.checks import LostWrite, RowDifference
from proxy.demo.damage import Damage
from proxy.demo.options import Pace
from proxy.demo.timeline import Timeline, phase_report, swap_report
from proxy.model import JsonValue, encode_key

_SHOWN_MAX = 100
_VERIFY_COUNTS = ("matched", "mismatched", "missing", "extra")


@dataclass(slots=True, kw_only=True)
class Findings:
    """What the parts of a run found, filled in as it goes.

    Attributes:
        verify, backfill: summaries of the last job of each kind.
        index: the nearest-neighbour index after the backfill.
        shadow: the merged shadow report before the ramp.
        rows: on each store, counted in what was read straight from it.
        matched: rows equal on both stores, by the independent check.
        complaints: what else the scenario finds wrong with the stores, as sentences.
        processes: what each process used, by name: cpu_s, memory_mib.
        steps: (name, seconds) of each step of the run.
    """

    started_at: dt.datetime
    migration: str = ""
    preset: str = ""
    seed: int
    engine: str
    corpus: Mapping[str, JsonValue]
    timeline: Timeline = field(default_factory=Timeline)
    duration_s: float = 0.0
    account: Account | None = None
    backfill: Mapping[str, JsonValue] = field(default_factory=dict)
    verify: Mapping[str, JsonValue] = field(default_factory=dict)
    index: Mapping[str, JsonValue] = field(default_factory=dict)
    shadow: Mapping[str, JsonValue] = field(default_factory=dict)
    events: Sequence[JsonValue] = ()
    damage: Sequence[Damage] = ()
    rows: Mapping[str, JsonValue] = field(default_factory=dict)
    matched: int = 0
    differences: Sequence[RowDifference] = ()
    lost: Sequence[LostWrite] = ()
    complaints: Sequence[str] = ()
    steps: Sequence[tuple[str, float]] = ()
    processes: dict[str, dict[str, float]] = field(default_factory=dict)
    error: str = ""


def failures(findings: Findings, report: Mapping[str, JsonValue], pace: Pace) -> list[str]:
    """Return every reason why a run did not pass, as sentences; none if it did."""
    account = findings.account
    reasons = [findings.error] if findings.error else []
    if account is None:
        return reasons or ["The live clients left no account."]
    counts = _verify_counts(findings)
    found = sum(counts[name] for name in _VERIFY_COUNTS[1:])
    checks = (
        (account.failed == 0, f"{account.failed} requests of live clients failed."),
        (account.wrong == 0, f"{account.wrong} answers to live clients were wrong."),
        (not findings.lost, f"{len(findings.lost)} acknowledged writes are lost."),
        (bool(findings.verify), "The last verify did not run."),
        (found == 0, f"The last verify found {found} rows that differ."),
        (
            not findings.differences,
            f"The independent check found {len(findings.differences)} rows that differ.",
        ),
        (counts["matched"] > 0, "The last verify matched no row."),
        (
            account.acknowledged >= pace.live_writes_min,
            f"Only {account.acknowledged} live writes, {pace.live_writes_min} wanted.",
        ),
    )
    reasons += [sentence for passed, sentence in checks if not passed]
    reasons += findings.complaints
    for swap in _swaps(findings):
        if float(str(swap["stall_ms"])) >= pace.stall_ms_max:
            reasons.append(
                f"The swap to {swap['to']} held a write for {swap['stall_ms']} ms, "
                f"{pace.stall_ms_max:.0f} ms is the limit."
            )
    return reasons


def build_report(findings: Findings, pace: Pace) -> dict[str, JsonValue]:
    """Return report.json."""
    account = findings.account
    samples = account.samples if account else ()
    timeline = findings.timeline
    report: dict[str, JsonValue] = {
        "migration": findings.migration,
        "preset": findings.preset,
        "started_at": findings.started_at.isoformat(),
        "duration_s": round(findings.duration_s, 1),
        "seed": findings.seed,
        "engine": findings.engine,
        "corpus": dict(findings.corpus),
        "failed_requests": account.failed if account else 0,
        "wrong_answers": account.wrong if account else 0,
        "lost_writes": len(findings.lost),
        "live_writes": account.acknowledged if account else 0,
        "live_reads": account.reads if account else 0,
        "live_searches": account.searches if account else 0,
        "problems": list(account.problems) if account else [],
        "verify": {**_verify_counts(findings), **_verify_rest(findings)},
        "independent_check": {
            "rows": dict(findings.rows),
            "matched": findings.matched,
            "differences": [item.as_json() for item in findings.differences[:_SHOWN_MAX]],
            "lost": [item.as_json() for item in findings.lost[:_SHOWN_MAX]],
        },
        "steps": [{"step": name, "seconds": round(took, 3)} for name, took in findings.steps],
        "swaps": _swaps(findings),
        "phases": [phase_report(span, samples, timeline.started_s) for span in timeline.spans],
        "backfill": dict(findings.backfill),
        "index": dict(findings.index),
        "shadow": dict(findings.shadow),
        "processes": dict(findings.processes),
        "events": list(findings.events),
        "damage": [item.as_json() for item in findings.damage],
    }
    reasons = failures(findings, report, pace)
    return {**report, "failures": list(reasons), "passed": not reasons}


def named_rows(findings: Findings) -> list[tuple[str, str, str, str]]:
    """Return (kind, collection, key, who found it) of each row that differs, for the table."""
    rows: dict[tuple[str, str], list[str]] = {}
    kinds: dict[tuple[str, str], str] = {}
    for item in findings.differences:
        place = (item.collection, encode_key(item.key))
        rows.setdefault(place, []).append("check")
        kinds[place] = item.kind
    for place, kind in verify_rows(findings.verify):
        rows.setdefault(place, []).insert(0, "verify")
        kinds[place] = kind
    return [(kinds[place], *place, " and ".join(finders)) for place, finders in rows.items()]


def verify_rows(verify: Mapping[str, JsonValue]) -> list[tuple[tuple[str, str], str]]:
    """Return ((collection, key), kind) of each row that a verify's summary names."""
    samples = verify.get("samples")
    if not isinstance(samples, list):
        return []
    return [
        ((str(item["collection"]), encode_key(tuple(item["key"]))), str(item["kind"]))
        for item in samples
    ]


def _verify_counts(findings: Findings) -> dict[str, int]:
    return {name: int(str(findings.verify.get(name, 0))) for name in _VERIFY_COUNTS}


def _verify_rest(findings: Findings) -> dict[str, JsonValue]:
    kept = ("in_flight", "rows", "rate_rows_per_s", "elapsed_s", "samples")
    return {name: findings.verify[name] for name in kept if name in findings.verify}


def _swaps(findings: Findings) -> list[dict[str, JsonValue]]:
    samples = findings.account.samples if findings.account else ()
    timeline = findings.timeline
    return [swap_report(swap, samples, timeline.started_s) for swap in timeline.swaps]
