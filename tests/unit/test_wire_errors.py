"""Every error has one status, with details that a program and a person can act on."""

from __future__ import annotations

import google.rpc.error_details_pb2 as details_pb
import grpc
import pytest
from crossfade.client.errors import (
    CallError,
    DataLoss,
    FieldViolation,
    InvalidArgument,
    from_status,
)

from proxy.errors import (
    Ambiguous,
    ConfigInvalid,
    Corrupt,
    LeaseLost,
    Reason,
    Rejected,
    StaleEpoch,
    Unavailable,
    Violation,
)
from proxy.fronts.native.errors import MESSAGE_BYTES_MAX, failure_of, status_of

GRPC_DEFAULT_METADATA_BYTES = 8 * 1024


def seen(error: Exception) -> CallError:
    """Return the error as the client sees it."""
    status = status_of(failure_of(error, "r-1"), "r-1")
    return from_status(status.code, status.message, status.details)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_rejection_has_the_status_of_its_reason(reason: Reason) -> None:
    error = seen(Rejected("No.", reason=reason, hint="Do that."))
    assert error.code == reason.value
    assert error.message == "No. Do that."
    assert error.detail.reason == reason.value
    assert error.detail.metadata == {"hint": "Do that."}
    assert error.request_id == "r-1"
    assert error.detail.retry_after_s is None
    assert not error.maybe_applied


def test_violations_become_a_bad_request() -> None:
    violation = Violation(where="record.vector", expected="4 float32", got="3")
    error = seen(Rejected("No.", violations=(violation,)))
    assert isinstance(error, InvalidArgument)
    assert error.violations == (
        FieldViolation(field="record.vector", description="expected 4 float32, got 3"),
    )


def test_violations_of_a_precondition_become_a_precondition_failure() -> None:
    violation = Violation(where="crates/serde", expected="the parent record to exist")
    failure = failure_of(
        Rejected("No.", reason=Reason.FAILED_PRECONDITION, violations=(violation,)), "r-1"
    )
    status = status_of(failure, "r-1")
    found = details_pb.PreconditionFailure()
    assert any(detail.Unpack(found) for detail in status.details)
    assert found.violations[0].subject == "crates/serde"
    error = from_status(status.code, status.message, status.details)
    assert error.violations[0].field == "crates/serde"


@pytest.mark.parametrize(
    ("error", "reason", "retry_s"),
    [
        (Unavailable("Down.", where="ledger"), "UNAVAILABLE", 0.5),
        (StaleEpoch("Moved.", where="ledger"), "STALE_EPOCH", 0.05),
        (LeaseLost("Lost.", where="ledger"), "LEASE_LOST", 0.5),
    ],
)
def test_what_is_unavailable_says_when_to_retry_and_where(
    error: Unavailable, reason: str, retry_s: float
) -> None:
    found = seen(error)
    assert (found.code, found.detail.reason) == ("UNAVAILABLE", reason)
    assert found.detail.retry_after_s == retry_s
    assert found.detail.metadata == {"where": "ledger"}
    assert not found.maybe_applied


@pytest.mark.parametrize(
    ("timed_out", "code"), [(True, "DEADLINE_EXCEEDED"), (False, "UNAVAILABLE")]
)
def test_what_may_have_been_applied_says_so_and_invites_no_blind_retry(
    timed_out: bool, code: str
) -> None:
    error = seen(Ambiguous("Sent, no answer.", where="old", timed_out=timed_out))
    assert (error.code, error.detail.reason) == (code, "AMBIGUOUS")
    assert error.detail.retry_after_s is None
    assert error.maybe_applied


def test_damage_is_data_loss_and_is_not_expected() -> None:
    failure = failure_of(Corrupt("Row 7 cannot be decoded."), "r-1")
    assert (failure.code, failure.expected) == (grpc.StatusCode.DATA_LOSS, False)
    assert isinstance(seen(Corrupt("x")), DataLoss)


def test_a_read_without_an_answer_is_deadline_exceeded_and_was_not_applied() -> None:
    error = seen(TimeoutError())
    assert error.code == "DEADLINE_EXCEEDED"
    assert not error.maybe_applied


@pytest.mark.parametrize(
    "error", [ValueError("secret"), KeyError("secret"), ConfigInvalid("secret", ())]
)
def test_a_defect_tells_the_request_id_and_nothing_of_the_inside(error: Exception) -> None:
    failure = failure_of(error, "r-1")
    status = status_of(failure, "r-1")
    assert failure.code is grpc.StatusCode.INTERNAL
    assert not failure.expected
    assert b"secret" not in status.SerializeToString()
    assert "r-1" in status.message


def encoded_bytes(data: bytes, message: str) -> int:
    """Return what the status takes in trailing metadata: base64, and percent-encoding at worst."""
    return -(-len(data) // 3) * 4 + 3 * len(message.encode())


@pytest.mark.parametrize("reason", [Reason.INVALID_ARGUMENT, Reason.FAILED_PRECONDITION])
@pytest.mark.parametrize("letter", ["x", "ü", "😀", "\ud800"])
def test_a_thousand_long_violations_still_fit_into_the_metadata(
    reason: Reason, letter: str
) -> None:
    violation = Violation(where=letter * 5000, expected=letter * 5000, got=letter * 5000)
    error = Rejected(
        letter * 5000, reason=reason, violations=(violation,) * 1000, hint=letter * 999
    )
    status = status_of(failure_of(error, "r-1"), "r-1")
    assert len(status.message.encode()) <= MESSAGE_BYTES_MAX
    size = encoded_bytes(status.SerializeToString(), status.message)
    assert size < GRPC_DEFAULT_METADATA_BYTES
    found = from_status(status.code, status.message, status.details)
    assert found.violations[-1].description.startswith("and ")
    assert found.violations[-1].description.endswith(" more")


def test_every_violation_is_told_when_they_fit() -> None:
    violations = tuple(Violation(where=f"f{n}", expected="a text", got="1") for n in range(50))
    error = seen(Rejected("No.", violations=violations))
    assert [one.field for one in error.violations] == [one.where for one in violations]


def test_an_unknown_code_and_foreign_details_are_told_as_they_are() -> None:
    error = from_status(99, "Strange.", [])
    assert (error.code, str(error)) == ("UNKNOWN", "UNKNOWN: Strange.")
    assert error.maybe_applied  # nobody can say
