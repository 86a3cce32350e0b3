"""Small parts of the command line: what is printed of values, changes, jobs and differences."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crossfade.client import control_types as there
from crossfade.client.control_types import (
    Change,
    Event,
    Phase,
    Precondition,
    Routing,
    Status,
    StoreHealth,
)
from crossfade.client.errors import CallError, Detail, FieldViolation

from proxy.cli.change import show_change
from proxy.cli.exits import ExitCode
from proxy.cli.jobs import outcome, parameters
from proxy.cli.jobs import report as report_job
from proxy.cli.local import JobBar
from proxy.cli.output import Output, cell, error_text, plain
from proxy.cli.remote import actor_name, as_ours
from proxy.cli.report import event_text
from proxy.cli.status import job_row, well
from proxy.cli.verify import difference_text
from proxy.errors import CrossfadeError, Reason, Rejected, Unavailable
from proxy.ledger.types import Job, JobKind, JobState
from proxy.server.reconciling import owner_name

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def job(state: JobState = JobState.DONE, **summary: Any) -> Job:
    return Job(
        job_id=7,
        kind=JobKind.VERIFY,
        state=state,
        wanted=JobState.RUNNING,
        epoch=2,
        params={"collections": ("documents",)},
        summary=summary,
        owner="",
        owner_alive=False,
        created_at=NOW,
        error="it [broke]" if state is JobState.FAILED else "",
    )


def change(*, applied: bool, passed: bool) -> Change:
    return Change(
        applied=applied,
        routing=Routing(epoch=3, phase=Phase.RAMP, primary="old", traffic_percent=5.0, hold=False),
        preconditions=[
            Precondition(name="verify [full]", passed=passed, detail="d", remedy="run it")
        ],
        message="it says",
        stall_ms=12.0,
    )


def test_everything_has_a_json_form() -> None:
    document = plain(job(rows=3, nested={"at": NOW, "path": Path("x")}))
    assert json.loads(json.dumps(document))["summary"] == {
        "rows": 3,
        "nested": {"at": "2026-01-02T03:04:05+00:00", "path": "x"},
    }
    shown: Any = plain(job())
    assert shown["params"] == {"collections": ["documents"]}
    assert plain(JobKind.VERIFY) == "verify"


def test_cells_are_for_people() -> None:
    assert cell(1234567) == "1,234,567"
    assert cell(0.25) == "0.2"
    assert "yes" in cell(True)


@pytest.mark.parametrize(
    ("applied", "passed", "dry_run", "code"),
    [
        (True, True, False, ExitCode.OK),
        (True, False, False, ExitCode.OK),
        (False, False, False, ExitCode.NO),
        (False, True, False, ExitCode.NO),
        (False, True, True, ExitCode.OK),
        (False, False, True, ExitCode.NO),
    ],
)
def test_a_change_is_shown_with_its_preconditions(
    applied: bool, passed: bool, dry_run: bool, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = show_change(change(applied=applied, passed=passed), Output(), dry_run=dry_run)
    assert shown is code
    text = capsys.readouterr().out
    assert "verify [full]" in text
    assert ("run it" in text) == (not passed)
    assert "writes were held for 12 ms" in text
    show_change(change(applied=applied, passed=passed), Output(as_json=True), dry_run=dry_run)
    assert json.loads(capsys.readouterr().out)["routing"]["phase"] == "ramp"


def test_a_dry_run_is_not_listed_as_a_backfill() -> None:
    known = there.Job(
        job_id=7,
        kind=there.JobKind.BACKFILL,
        state=there.JobState.DONE,
        wanted=there.JobState.RUNNING,
        epoch=2,
        params={"dry_run": True},
        summary={"rows": 208},
        owner="",
        owner_alive=False,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW,
        error="",
    )
    assert job_row(known)[1] == "backfill (dry run)"
    assert job_row(replace(known, params={}))[1] == "backfill"


def test_a_job_is_shown_by_collection(capsys: pytest.CaptureFixture[str]) -> None:
    collections = {"documents": {"matched": 4000, "missing": 2}}
    ended = job(JobState.FAILED, rows=4002, elapsed_s=2.0, collections=collections)
    report_job(ended, Output(), ("matched", "missing"))
    text = capsys.readouterr().out
    assert "4,000" in text
    assert "it [broke]" in text
    assert outcome(ended, good=True) is ExitCode.NO
    assert outcome(job(), good=True) is ExitCode.OK
    assert outcome(job(), good=False) is ExitCode.NO
    assert outcome(job(JobState.REQUESTED), good=True) is ExitCode.INTERRUPTED
    assert outcome(job(JobState.PAUSED), good=True) is ExitCode.INTERRUPTED


def test_a_progress_bar_takes_any_summary(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with JobBar("verify", Output(as_json=quiet)) as bar:
            bar.update(job())
            bar.update(job(rows=5, rows_total=10, rate_rows_per_s=2.5, eta_s=2, stage="copy"))
            bar.update(job(rows="odd", eta_s=None))
    assert capsys.readouterr().out == ""


def test_a_difference_is_one_line() -> None:
    sample = {
        "kind": "mismatched",
        "collection": "documents",
        "key": ["rust", "serde", "a"],
        "detail": {"content": ["x", "y"]},
    }
    assert difference_text(sample) == (
        "  mismatched documents ['rust', 'serde', 'a'] (content: 'x' / 'y')"
    )
    assert difference_text({"kind": "missing"}) == "  missing None None"


def test_only_given_options_become_parameters() -> None:
    given = parameters(collections=[], dry_run=False, workers=None, rows_per_s_max=0.0)
    assert given == {"rows_per_s_max": 0.0}


def test_who_did_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert actor_name("ann") == "ann"
    assert "@" in actor_name("")

    def nobody() -> str:
        raise KeyError("no such user")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert "@" in actor_name("")
    assert owner_name() != owner_name()


@pytest.mark.parametrize(
    ("code", "detail", "kind"),
    [
        ("UNAVAILABLE", Detail(), Unavailable),
        ("UNAVAILABLE", Detail(reason="UNAVAILABLE", metadata={"where": "ledger"}), Unavailable),
        ("FAILED_PRECONDITION", Detail(), Rejected),
        (
            "INVALID_ARGUMENT",
            Detail(violations=(FieldViolation(field="f", description="d"),)),
            Rejected,
        ),
        ("INTERNAL", Detail(request_id="r-9"), CrossfadeError),
    ],
)
def test_what_a_call_raises_becomes_ours(code: str, detail: Detail, kind: type) -> None:
    ours = as_ours(CallError("it says", code=code, detail=detail), "h:1")
    assert type(ours) is kind
    assert "it says" in str(ours)
    if isinstance(ours, Rejected):
        assert ours.reason is Reason[code]
        assert len(ours.violations) == len(detail.violations)
    if code == "INTERNAL":
        assert "r-9" in str(ours)


def test_what_the_proxy_expected_is_said_once_and_its_hint_is_a_line_of_its_own() -> None:
    detail = Detail(
        metadata={"hint": "Go on."},
        violations=(FieldViolation(field="target", description="expected one of: a, got b"),),
    )
    ours = as_ours(CallError("No step. Go on.", code="FAILED_PRECONDITION", detail=detail), "h:1")
    assert error_text(ours).splitlines() == [
        "error: No step.",
        "  target: expected one of: a, got b",
        "hint: Go on.",
    ]


def test_an_event_says_what_it_did_and_what_was_overruled() -> None:
    checked = [{"name": "verified", "passed": False}, {"name": "replicas", "passed": True}]
    told = Event(
        event_id=1,
        at=dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
        kind="phase",
        actor="ann",
        reason="I know",
        epoch=4,
        detail={"from": "ramp", "to": "new_primary", "forced": True, "preconditions": checked},
    )
    assert event_text(told) == "phase ramp -> new_primary (forced; not met: verified)"
    started = replace(told, kind="job.start", detail={"job_id": 7, "kind": "verify"})
    assert event_text(started) == "job.start job 7"


@pytest.mark.parametrize(
    ("phase", "down", "expected"),
    [
        (Phase.NEW_PRIMARY, "old", False),
        (Phase.NEW_ONLY, "old", True),
        (Phase.NEW_ONLY, "new", False),
    ],
)
def test_a_store_that_the_phase_has_done_with_may_be_down(
    phase: Phase, down: str, expected: bool
) -> None:
    stores = [
        StoreHealth(
            name=name, role="", engine="", healthy=name != down, breaker="", detail="", latency_ms=1
        )
        for name in ("old", "new")
    ]
    found = Status(
        migration="m",
        routing=Routing(epoch=9, phase=phase, primary="new", traffic_percent=100.0, hold=False),
        stores=stores,
        replicas=[],
        unsettled=0,
        dirty={},
        jobs=[],
        indexes=[],
        dead_letters=0,
        flags={},
        next_steps=[],
    )
    assert well(found) is expected
