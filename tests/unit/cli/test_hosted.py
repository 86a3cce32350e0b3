"""Where the commands look for the proxy that reconciles, and what they ask of it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from crossfade.client import control_types as there

from proxy.cli.hosted import as_ledgers, awaited, certificate_hint, refuse_beside
from proxy.cli.remote import Target, target_of
from proxy.config.settings import ListenSettings, TlsSettings
from proxy.errors import Reason
from proxy.ledger.types import JobKind, JobState, Replica


@pytest.mark.parametrize(
    ("listens", "asked"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("0.0.0.0:7000", "127.0.0.1:7000"),
        ("[::]:7000", "[::1]:7000"),
        (":7000", "127.0.0.1:7000"),
        ("proxy.internal:7000", "proxy.internal:7000"),
        ("127.0.0.1:0", None),
        ("nonsense", None),
    ],
)
def test_the_proxy_is_asked_where_it_listens(listens: str, asked: str | None) -> None:
    found = target_of(ListenSettings(address=listens))
    assert (found.address if found else None) == asked


def test_a_proxy_with_tls_is_trusted_by_its_own_certificate_or_the_authority_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls = TlsSettings(certificate="server.pem", key="server.key")
    listen = ListenSettings(address="127.0.0.1:7000", tls=tls)
    for name in ("CROSSFADE_TLS_CA", "CROSSFADE_TLS_CERT"):
        monkeypatch.delenv(name, raising=False)
    assert target_of(listen) == Target(address="127.0.0.1:7000", tls_ca=Path("server.pem"))
    monkeypatch.setenv("CROSSFADE_TLS_CA", "ca.pem")
    monkeypatch.setenv("CROSSFADE_TLS_CERT", "client.pem")
    assert target_of(listen) == Target(
        address="127.0.0.1:7000", tls_ca=Path("ca.pem"), tls_cert=Path("client.pem")
    )


def test_who_asks_a_proxy_with_mutual_tls_is_told_of_the_certificate_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CROSSFADE_TLS_CERT", raising=False)
    tls = TlsSettings(certificate="server.pem", key="server.key", client_ca="clients.pem")
    assert "set CROSSFADE_TLS_CERT" in certificate_hint(ListenSettings(tls=tls))
    assert certificate_hint(ListenSettings(tls=tls.model_copy(update={"client_ca": ""}))) == ""
    monkeypatch.setenv("CROSSFADE_TLS_CERT", "client.pem")
    assert certificate_hint(ListenSettings(tls=tls)) == ""


def test_a_job_told_by_the_proxy_is_judged_like_one_of_the_ledger() -> None:
    told = there.Job(
        job_id=7,
        kind=there.JobKind.VERIFY,
        state=there.JobState.PAUSED,
        wanted=there.JobState.PAUSED,
        epoch=3,
        params={"workers": 2},
        summary={"matched": 5},
        owner="somebody",
        owner_alive=False,
        created_at=dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
        started_at=None,
        finished_at=None,
        error="",
    )
    job = as_ledgers(told)
    assert (job.kind, job.state, job.wanted) == (JobKind.VERIFY, JobState.PAUSED, JobState.PAUSED)
    assert (job.job_id, job.params, job.summary) == (7, {"workers": 2}, {"matched": 5})


def test_a_reconciler_beside_the_one_writer_is_told_what_to_use_instead() -> None:
    error = refuse_beside(Target(address="127.0.0.1:7000"), ["new"])
    assert error.reason is Reason.FAILED_PRECONDITION
    assert "127.0.0.1:7000" in str(error)
    assert "crossfade backfill" in error.hint


def replica(began: int, left_s: float, *, clean: bool = False) -> Replica:
    return Replica(
        replica_id=str(began),
        acked_epoch=1,
        alive=left_s > 0 and not clean,
        lease_left_s=left_s,
        started_at=dt.datetime(2026, 1, 1, hour=began, tzinfo=dt.UTC),
        clean_exit=clean,
    )


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((), None),
        ((replica(1, 5),), "1"),
        ((replica(1, -20),), "1"),
        ((replica(1, -301),), None),
        ((replica(1, -20, clean=True),), None),
        ((replica(1, -20), replica(2, -10, clean=True)), None),  # it came back, and left in order
        ((replica(1, -20, clean=True), replica(2, -10)), "2"),
        ((replica(1, 5), replica(2, -10, clean=True)), "1"),
    ],
)
def test_a_proxy_that_lives_or_went_down_a_moment_ago_is_awaited(
    known: tuple[Replica, ...], expected: str | None
) -> None:
    found = awaited(known)
    assert (found.replica_id if found is not None else None) == expected
