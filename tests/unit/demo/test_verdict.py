"""A run passes only if everything that must be zero is zero, and its report says why if not."""

import datetime as dt
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from proxy.demo.account import Account
from proxy.demo.checks import LostWrite, RowDifference
from proxy.demo.narrator import Narrator
from proxy.demo.options import Pace
from proxy.demo.samples import Sample
from proxy.demo.timeline import Span, Swap
from proxy.demo.verdict import Findings, build_report, named_rows
from proxy.demo.verdict_table import conclude
from proxy.model import JsonValue, Key

PACE = Pace(live_writes_min=2)
KEY: Key = ("rust", "serde", "it's.html")
CLEAN: dict[str, JsonValue] = {
    "matched": 10,
    "mismatched": 0,
    "missing": 0,
    "extra": 0,
    "samples": [],
}


def account() -> Account:
    samples = [
        Sample(kind="upsert", start_s=1.0, end_s=1.01),
        Sample(kind="delete", start_s=2.0, end_s=2.03),
        Sample(kind="search", start_s=1.5, end_s=1.52),
    ]
    return Account(acknowledged=2, failed=0, wrong=0, problems=(), samples=samples, expected=())


def good() -> Findings:
    findings = Findings(
        started_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        seed=7,
        engine="PostgreSQL 18",
        corpus={"documents": 10},
        account=account(),
        verify=CLEAN,
        matched=10,
    )
    findings.timeline.started_s = 0.0
    findings.timeline.spans.append(Span(phase="old_only", start_s=0.0, end_s=3.0))
    findings.timeline.swaps.append(Swap(to="new", start_s=2.0, end_s=2.1, hold_ms=20.0))
    return findings


def lose(findings: Findings) -> None:
    lost = LostWrite(
        collection="documents", key=KEY, store="new", found=None, expected=({"content": "a"},)
    )
    findings.lost = [lost]


def fail_requests(findings: Findings) -> None:
    findings.account = replace(account(), failed=3)


def answer_wrongly(findings: Findings) -> None:
    findings.account = replace(account(), wrong=1)


def write_little(findings: Findings) -> None:
    findings.account = replace(account(), acknowledged=1)


def differ_in_verify(findings: Findings) -> None:
    findings.verify = {**CLEAN, "extra": 1}


def differ_in_check(findings: Findings) -> None:
    findings.differences = [RowDifference(collection="documents", key=KEY, kind="missing")]


def stall(findings: Findings) -> None:
    slow = Sample(kind="update", start_s=1.9, end_s=2.2)
    findings.account = replace(account(), samples=[*account().samples, slow])


def skip_verify(findings: Findings) -> None:
    findings.verify = {}


def break_down(findings: Findings) -> None:
    findings.error = "The step to shadow was refused."


def leave_no_account(findings: Findings) -> None:
    findings.account = None


def complain(findings: Findings) -> None:
    findings.complaints = ["2 work items have a vector that is not the one of their words: a, b."]


def test_a_run_without_a_fault_passes() -> None:
    report = build_report(good(), PACE)
    assert report["passed"] is True
    assert report["failures"] == []
    assert report["swaps"] == [{"to": "new", "at_s": 2.0, "stall_ms": 30.0, "hold_ms": 20.0}]
    assert report["live_writes"] == 2


def test_the_report_names_the_migration_and_the_time_of_each_step() -> None:
    findings = good()
    findings.migration, findings.preset = "work-items", "work-items"
    findings.steps = [("load", 1.23456), ("serve", 2.0)]
    report = build_report(findings, PACE)
    assert (report["migration"], report["preset"]) == ("work-items", "work-items")
    assert report["steps"] == [
        {"step": "load", "seconds": 1.235},
        {"step": "serve", "seconds": 2.0},
    ]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose, "1 acknowledged writes are lost"),
        (fail_requests, "3 requests of live clients failed"),
        (answer_wrongly, "1 answers to live clients were wrong"),
        (write_little, "Only 1 live writes"),
        (differ_in_verify, "The last verify found 1 rows"),
        (differ_in_check, "independent check found 1 rows"),
        (stall, "held a write for 300.0 ms"),
        (skip_verify, "verify did not run"),
        (break_down, "The step to shadow was refused"),
        (leave_no_account, "no account"),
        (complain, "not the one of their words: a, b"),
    ],
)
def test_each_fault_fails_the_run_and_is_named(
    spoil: Callable[[Findings], None], words: str
) -> None:
    findings = good()
    spoil(findings)
    report = build_report(findings, PACE)
    assert report["passed"] is False
    assert words in str(report["failures"])


def test_a_row_is_named_once_with_everybody_who_found_it() -> None:
    findings = good()
    differ_in_check(findings)
    other: Key = ("rust", "tokio", "a.html")
    findings.verify = {
        **CLEAN,
        "samples": [
            {"collection": "documents", "key": list(KEY), "kind": "missing", "fields": []},
            {"collection": "documents", "key": list(other), "kind": "extra", "fields": []},
        ],
    }
    assert sorted(named_rows(findings)) == [
        ("extra", "documents", '["rust","tokio","a.html"]', "verify"),
        ("missing", "documents", '["rust","serde","it\'s.html"]', "verify and check"),
    ]


def test_the_end_is_one_table_two_reports_and_the_reasons(tmp_path: Path) -> None:
    findings = good()
    differ_in_check(findings)
    report = build_report(findings, PACE)
    console = Console(record=True, width=140, file=io.StringIO())
    conclude(report, findings, PACE, tmp_path / "out", Narrator(console=console))
    text = console.export_text()
    assert text.count("┏") == 1
    assert "missing: documents" in text
    assert "it's.html" in text
    assert "FAILED" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
