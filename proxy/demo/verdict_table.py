"""The end of a run: report.json, report.html, and the one table that says it all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from proxy.demo.narrator import Narrator
from proxy.demo.options import Pace
from proxy.demo.verdict import Findings, named_rows
from proxy.model import JsonValue
from shadow.report import render_migration_report

_ROWS_MAX = 20


def conclude(
    report: Mapping[str, JsonValue],
    findings: Findings,
    pace: Pace,
    out: Path,
    narrator: Narrator,
) -> None:
    """Write both reports to `out` and print the table and the reasons of a failure."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    (out / "report.html").write_text(render_migration_report(report), encoding="utf-8")
    rows = [*_counts(report, pace), *_swaps(report, pace), *_phases(report), *_spoiled(findings)]
    narrator.console.print()
    narrator.table("Crossfade demo", ("", "found", "wanted", ""), rows)
    for reason in _texts(report, "failures"):
        narrator.warn(reason)
    for problem in _texts(report, "problems")[:10]:
        narrator.warn(problem)
    narrator.fact("reports", f"{out / 'report.json'}, {out / 'report.html'}")
    narrator.fact("logs", f"of every process: {out / 'logs'}")
    narrator.fact("verdict", "passed" if report["passed"] else "FAILED")


def _counts(report: Mapping[str, JsonValue], pace: Pace) -> list[tuple[str, str, str, str]]:
    verify = report["verify"]
    counts = verify if isinstance(verify, Mapping) else {}
    zeros = {
        "failed requests": report["failed_requests"],
        "wrong answers": report["wrong_answers"],
        "lost writes": report["lost_writes"],
        **{f"verify: {name}": counts.get(name) for name in ("mismatched", "missing", "extra")},
    }
    live = int(str(report["live_writes"]))
    rows = [
        (
            "live writes",
            f"{live:,}",
            f"> {pace.live_writes_min:,}",
            _mark(live >= pace.live_writes_min),
        ),
        ("live reads, searches", f"{report['live_reads']}, {report['live_searches']}", "", ""),
        ("verify: matched", str(counts.get("matched")), "every row", ""),
    ]
    return [*rows, *((name, str(value), "0", _mark(value == 0)) for name, value in zeros.items())]


def _swaps(report: Mapping[str, JsonValue], pace: Pace) -> list[tuple[str, str, str, str]]:
    rows = []
    swaps = report["swaps"]
    for swap in swaps if isinstance(swaps, list) else []:
        stall_ms = float(swap["stall_ms"])
        rows.append(
            (
                f"longest write, swap to {swap['to']}",
                f"{stall_ms:.1f} ms",
                f"< {pace.stall_ms_max:.0f} ms",
                _mark(stall_ms < pace.stall_ms_max),
            )
        )
    return rows


def _phases(report: Mapping[str, JsonValue]) -> list[tuple[str, str, str, str]]:
    phases = report["phases"]
    return [
        (
            f"search in {phase['phase']}, p50/p95",
            f"{phase['search_p50_ms']:.1f} / {phase['search_p95_ms']:.1f} ms",
            "",
            f"of {phase['searches']}",
        )
        for phase in (phases if isinstance(phases, list) else [])
    ]


def _spoiled(findings: Findings) -> list[tuple[str, str, str, str]]:
    """Name the rows that differ, with the key, so that a person can look at each."""
    return [
        (f"{kind}: {collection} {key}", finders, "no row", "✗")
        for kind, collection, key, finders in named_rows(findings)[:_ROWS_MAX]
    ]


def _mark(good: bool) -> str:
    return "✓" if good else "✗"


def _texts(report: Mapping[str, JsonValue], name: str) -> list[str]:
    texts = report[name]
    return [str(text) for text in texts] if isinstance(texts, list) else []
