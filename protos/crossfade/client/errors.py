"""What a call raises: one class for each gRPC status that Crossfade answers with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

import google.rpc.error_details_pb2 as details_pb
import grpc
from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

_STATUS_DETAILS: Final = "grpc-status-details-bin"
_REQUEST_ID: Final = "x-request-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One thing that was wrong with a request: where, what was expected and what came."""

    field: str
    description: str


@dataclass(slots=True, kw_only=True)
class Detail:
    """What the status details say.

    Attributes:
        reason: for programs, such as "AMBIGUOUS" or "STALE_EPOCH"; "" if the answer did not come
            from a proxy (a refused connection).
        metadata: such as {"where": "ledger"} or {"hint": "..."}.
        retry_after_s: the server's advice, None if it gave none.
        earlier_lost: an earlier try of the same call may have been applied.
    """

    request_id: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    earlier_lost: bool = False


class CallError(Exception):
    """The root: a call that did not succeed.

    Attributes:
        code: the gRPC status code's name, such as "INVALID_ARGUMENT".
        message: one sentence for a person.
        detail: request id, reason, violations and more.
    """

    def __init__(self, message: str, *, code: str, detail: Detail) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    def __str__(self) -> str:
        named = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.code}: {self.message}{named}"

    @property
    def request_id(self) -> str:
        """The request's name in the proxy's logs, "" if it never got there."""
        return self.detail.request_id

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """What was wrong with the request, field by field."""
        return self.detail.violations

    @property
    def maybe_applied(self) -> bool:
        """True if a write may have been applied although the call failed."""
        lost = not self.detail.reason and self.code in _LOST
        return lost or self.detail.reason == "AMBIGUOUS" or self.detail.earlier_lost


_LOST: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"})
"""Codes that gRPC itself gives when an answer got lost."""


class InvalidArgument(CallError):
    """The request is wrong; see `violations`."""


class NotFound(CallError):
    """There is no such record (Update) or job."""


class AlreadyExists(CallError):
    """Insert of a key that is taken."""


class FailedPrecondition(CallError):
    """A missing parent, a value that a store cannot hold, a reused idempotency key."""


class ResourceExhausted(CallError):
    """A message over the size limit, or too many calls at once."""


class Unimplemented(CallError):
    """The store cannot do this, or the server is older than the client."""


class Unavailable(CallError):
    """Nobody answered, or not now; the client has retried already.

    The code is UNAVAILABLE, or CANCELLED from a proxy that was stopping. (A call that its own
    caller cancels raises asyncio.CancelledError, as everywhere.)
    """


class DeadlineExceeded(CallError):
    """No answer in time; see `maybe_applied`."""


class DataLoss(CallError):
    """Stored data breaks an invariant; an operator must look."""


class Internal(CallError):
    """A defect; report the request id."""


_CLASSES: Final[Mapping[str, type[CallError]]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "OUT_OF_RANGE": InvalidArgument,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "UNIMPLEMENTED": Unimplemented,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Unavailable,
    "DATA_LOSS": DataLoss,
}
_NAMES: Final[Mapping[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode}


def from_rpc_error(error: grpc.aio.AioRpcError) -> CallError:
    """Return the exception of a call that gRPC says has failed."""
    detail = Detail()
    # The stubs call one pair of the metadata what is a sequence of pairs.
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for name, value in metadata:
        if name == _STATUS_DETAILS and isinstance(value, bytes):
            detail = _parsed(value)
        elif name == _REQUEST_ID and not detail.request_id:
            detail.request_id = str(value)
    return _made(error.code().name, error.details() or "no message", detail)


def from_status(code: int, message: str, details: Iterable[PbAny]) -> CallError:
    """Return the exception of one item of a batch."""
    return _made(_NAMES.get(code, "UNKNOWN"), message, read_details(details))


def _made(code: str, message: str, detail: Detail) -> CallError:
    return _CLASSES.get(code, Internal)(message, code=code, detail=detail)


def _parsed(data: bytes) -> Detail:
    try:
        return read_details(Status.FromString(data).details)
    except DecodeError:
        return Detail()  # another server's idea of details; the code and message still tell


def read_details(details: Iterable[PbAny]) -> Detail:
    """Return what google.rpc details say; an unknown one is passed over."""
    found = Detail()
    info = details_pb.ErrorInfo()
    request = details_pb.RequestInfo()
    retry = details_pb.RetryInfo()
    bad = details_pb.BadRequest()
    precondition = details_pb.PreconditionFailure()
    for packed in details:
        if packed.Unpack(info):
            found.reason, found.metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(request):
            found.request_id = request.request_id
        elif packed.Unpack(retry):
            found.retry_after_s = retry.retry_delay.ToMicroseconds() / 1e6
        elif packed.Unpack(bad):
            found.violations = tuple(
                FieldViolation(field=one.field, description=one.description)
                for one in bad.field_violations
            )
        elif packed.Unpack(precondition):
            found.violations = tuple(
                FieldViolation(field=one.subject, description=one.description)
                for one in precondition.violations
            )
    return found
