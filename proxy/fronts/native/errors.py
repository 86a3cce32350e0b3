"""Crossfade's errors as gRPC statuses: the one place where the two meet.

    Rejected     the status of its reason; BadRequest, or PreconditionFailure for
                 FAILED_PRECONDITION, when it carries violations
    Unavailable  UNAVAILABLE with RetryInfo
    Ambiguous    DEADLINE_EXCEEDED when it timed out, else UNAVAILABLE; ErrorInfo.reason AMBIGUOUS
                 and no RetryInfo, so that nobody retries it without an idempotency key
    Corrupt      DATA_LOSS: stored data breaks an invariant, a retry finds the same
    TimeoutError DEADLINE_EXCEEDED (a read that this front gave up)
    other        INTERNAL with the request id; nothing of the inside leaves the process

Every status carries ErrorInfo (domain "crossfade") and RequestInfo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import google.rpc.error_details_pb2 as details_pb
import grpc
from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.message import Message
from google.rpc import status_pb2

from proxy.errors import (
    Ambiguous,
    Corrupt,
    LeaseLost,
    Reason,
    Rejected,
    StaleEpoch,
    Unavailable,
    Violation,
)

DOMAIN: Final = "crossfade"
MESSAGE_BYTES_MAX: Final = 600
"""Of a status message. gRPC clients refuse more than 8 KiB of trailing metadata by default, the
message travels percent-encoded (up to 3 bytes for one) and the details as base64 (4 for 3)."""
DETAILS_BYTES_MAX: Final = 3500
_RETRY_S: Final = 0.5
_RETRY_EPOCH_S: Final = 0.05
"""A replica learns of a new epoch within milliseconds."""

_CODES: Final[Mapping[Reason, grpc.StatusCode]] = {
    reason: grpc.StatusCode[reason.value] for reason in Reason
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How an error looks to a caller.

    Attributes:
        reason: ErrorInfo.reason, for programs.
        retry_s: when to try again, 0 for never.
        expected: False: a defect or damage that an operator must hear of.
    """

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_s: float = 0.0
    expected: bool = True


def failure_of(error: Exception, request_id: str) -> Failure:
    """Decide how an error looks to a caller."""
    if isinstance(error, Rejected):
        return Failure(
            code=_CODES[error.reason],
            message=str(error),
            reason=error.reason.value,
            metadata={"hint": error.hint} if error.hint else {},
            violations=error.violations,
        )
    if isinstance(error, Unavailable | Ambiguous):
        return _passing(error)
    if isinstance(error, Corrupt):
        return Failure(
            code=grpc.StatusCode.DATA_LOSS, message=str(error), reason="CORRUPT", expected=False
        )
    if isinstance(error, TimeoutError):
        message = "No answer by the deadline. Nothing was changed; try again with a longer one."
        return Failure(
            code=grpc.StatusCode.DEADLINE_EXCEEDED, message=message, reason="DEADLINE_EXCEEDED"
        )
    return Failure(
        code=grpc.StatusCode.INTERNAL,
        message=f"A defect in the proxy; its log has the details under request id {request_id}.",
        reason="INTERNAL",
        expected=False,
    )


def _passing(error: Unavailable | Ambiguous) -> Failure:
    """Decide on errors that may be gone a moment later."""
    metadata = {"where": error.where} if error.where else {}
    if isinstance(error, Ambiguous):
        late = error.timed_out
        return Failure(
            code=grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.UNAVAILABLE,
            message=str(error),
            reason="AMBIGUOUS",
            metadata=metadata,
        )
    if isinstance(error, StaleEpoch):
        reason, retry_s = "STALE_EPOCH", _RETRY_EPOCH_S
    else:
        reason = "LEASE_LOST" if isinstance(error, LeaseLost) else "UNAVAILABLE"
        retry_s = _RETRY_S
    return Failure(
        code=grpc.StatusCode.UNAVAILABLE,
        message=str(error),
        reason=reason,
        metadata=metadata,
        retry_s=retry_s,
    )


def status_of(failure: Failure, request_id: str) -> status_pb2.Status:
    """Return the failure as google.rpc.Status, cut to what fits into trailing metadata."""
    status = status_pb2.Status(code=_number(failure.code), message=_cut(failure.message))
    info = details_pb.ErrorInfo(reason=failure.reason, domain=DOMAIN)
    for name, text in failure.metadata.items():
        info.metadata[name] = _cut(text)
    _attach(status, info)
    _attach(status, details_pb.RequestInfo(request_id=request_id))
    if failure.retry_s:
        retry = details_pb.RetryInfo()
        retry.retry_delay.FromMicroseconds(round(failure.retry_s * 1e6))
        _attach(status, retry)
    if failure.violations:
        room = DETAILS_BYTES_MAX - status.ByteSize()
        _attach(status, _violations(failure, room))
    return status


def _violations(failure: Failure, room: int) -> Message:
    """Return as many violations as fit, and how many did not."""
    if failure.code is grpc.StatusCode.FAILED_PRECONDITION:
        precondition = details_pb.PreconditionFailure()
        for number, one in enumerate(failure.violations):
            last = precondition.violations.add(
                type="crossfade", subject=_cut(one.where), description=_cut(_described(one))
            )
            if precondition.ByteSize() > room:
                last.subject, last.description = "", _rest(failure, number)
                break
        return precondition
    bad = details_pb.BadRequest()
    for number, one in enumerate(failure.violations):
        added = bad.field_violations.add(
            field=_cut(one.where), description=_cut(_described(one)), reason=failure.reason
        )
        if bad.ByteSize() > room:
            added.field, added.description = "", _rest(failure, number)
            break
    return bad


def _described(violation: Violation) -> str:
    came = f", got {violation.got}" if violation.got else ""
    return f"expected {violation.expected}{came}"


def _rest(failure: Failure, told: int) -> str:
    return f"and {len(failure.violations) - told} more"


def _attach(status: status_pb2.Status, detail: Message) -> None:
    packed = PbAny()
    packed.Pack(detail)
    status.details.append(packed)


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number


def _cut(text: str) -> str:
    """Cut a text to what a status may carry, at a character's end."""
    data = text.encode(errors="replace")
    if len(data) <= MESSAGE_BYTES_MAX:
        return data.decode()
    return data[: MESSAGE_BYTES_MAX - 3].decode(errors="ignore") + "…"
