"""One path for every call: head, span, parse, handle, serialise, or the error as a status.

gRPC hands over bytes and takes bytes, so that a request that is no message of its type and an
answer that is too large are errors like any other, and so that one place does the work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from proxy.dataplane import RequestContext
from proxy.errors import Ambiguous, Reason, Rejected
from proxy.fronts.native.context import (
    DATA_DEADLINES,
    REQUEST_ID,
    SECONDARY_PENDING,
    Deadlines,
    NewId,
    given_id,
    new_request_id,
    read_head,
    request_context,
)
from proxy.fronts.native.errors import Failure, failure_of, status_of
from proxy.fronts.native.telemetry import Metadata, NoTelemetry, RpcSpan, Telemetry

log = logging.getLogger(__name__)

_GRACE_S: Final = 0.5
"""The data plane keeps the deadline itself and says what happened; this is for when it does not."""
_STATUS_DETAILS: Final = "grpc-status-details-bin"

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `secondary_pending` goes into trailing metadata."""

    message: Message
    secondary_pending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """A call with one answer. `writes`: when it is given up, it may have been applied."""

    name: str
    request: type[Message]
    handle: Callable[[Any, RequestContext], Awaitable[Reply]]
    writes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A call with a stream of answers; the handler bounds each of its own waits."""

    name: str
    request: type[Message]
    handle: Callable[[Any, RequestContext], AsyncIterator[Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What every call goes through."""

    answer_bytes_max: int
    deadlines: Deadlines = DATA_DEADLINES
    telemetry: Telemetry = field(default_factory=NoTelemetry)
    new_id: NewId = new_request_id

    def handlers(
        self, service: str, methods: list[Unary | Stream]
    ) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the methods of one service as gRPC takes them."""
        table: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method.name: self._handler(f"/{service}/{method.name}", method) for method in methods
        }
        return grpc.method_handlers_generic_handler(service, table)

    def _handler(self, path: str, method: Unary | Stream) -> grpc.RpcMethodHandler[Any, Any]:
        if isinstance(method, Stream):
            stream = method

            async def answers(raw: bytes, rpc: Context) -> AsyncIterator[bytes]:
                async for data in self._stream(path, stream, raw, rpc):
                    yield data

            return grpc.unary_stream_rpc_method_handler(answers)
        unary = method

        async def answer(raw: bytes, rpc: Context) -> bytes:
            return await self._unary(path, unary, raw, rpc)

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _unary(self, path: str, method: Unary, raw: bytes, rpc: Context) -> bytes:
        metadata = _metadata(rpc)
        request_id = given_id(metadata, self.new_id())
        with self.telemetry.start_rpc(path, request_id, metadata) as span:
            try:
                head = read_head(metadata, request_id)
                context = request_context(head, self.deadlines.left_s(rpc.time_remaining()))
                reply = await _handled(method, parsed(method.request, raw), context)
                data = self._serialised(reply.message)
            except Exception as error:  # noqa: BLE001 - every error must become a status
                failure = _failed(error, path, request_id, span)
            else:
                span.ended("OK", None)
                rpc.set_trailing_metadata(_trailing(request_id, reply.secondary_pending))
                return data
        await _abort(rpc, failure, request_id)
        raise AssertionError("abort raises")

    async def _stream(
        self, path: str, method: Stream, raw: bytes, rpc: Context
    ) -> AsyncIterator[bytes]:
        metadata = _metadata(rpc)
        request_id = given_id(metadata, self.new_id())
        with self.telemetry.start_rpc(path, request_id, metadata) as span:
            try:
                head = read_head(metadata, request_id)
                context = request_context(head, self.deadlines.left_s(rpc.time_remaining()))
                async for message in method.handle(parsed(method.request, raw), context):
                    yield self._serialised(message)
            except Exception as error:  # noqa: BLE001 - every error must become a status
                failure = _failed(error, path, request_id, span)
            else:
                span.ended("OK", None)
                rpc.set_trailing_metadata(_trailing(request_id, pending=False))
                return
        await _abort(rpc, failure, request_id)

    def _serialised(self, message: Message) -> bytes:
        data = message.SerializeToString()
        if len(data) > self.answer_bytes_max:
            raise Rejected(
                f"The answer has {len(data)} bytes, more than {self.answer_bytes_max}.",
                reason=Reason.RESOURCE_EXHAUSTED,
                hint="Ask for fewer records, fewer fields or no vectors.",
            )
        return data


def parsed(kind: type[Message], raw: bytes) -> Message:
    """Return the request.

    Raises:
        Rejected: INVALID_ARGUMENT, the bytes are no such message (or nest over 100 levels).
    """
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise Rejected(f"The request is no {kind.DESCRIPTOR.full_name}: {error}.") from error


async def _handled(method: Unary, request: Message, context: RequestContext) -> Reply:
    """Run the handler. A cancelled call passes through: the data plane shields its own writes."""
    try:
        async with asyncio.timeout(context.deadline_s + _GRACE_S):
            return await method.handle(request, context)
    except TimeoutError as error:
        if not method.writes:
            raise
        raise Ambiguous(
            f"No answer within {context.deadline_s:.3g} s; the write may have been applied.",
            where="proxy",
            timed_out=True,
            hint="Retry with the same idempotency key.",
        ) from error


def _metadata(rpc: Context) -> Metadata:
    return cast(Metadata, rpc.invocation_metadata() or ())


def _failed(error: Exception, path: str, request_id: str, span: RpcSpan) -> Failure:
    """Decide how the error looks, tell telemetry, and log what nobody expected."""
    failure = failure_of(error, request_id)
    span.ended(failure.code.name, error)
    log_unexpected(failure, error, path, request_id)
    return failure


def log_unexpected(failure: Failure, error: Exception, path: str, request_id: str) -> None:
    """Log a defect or damage with its stack; a caller's mistake is not the operator's concern."""
    if not failure.expected:
        where = {"request_id": request_id, "rpc": path, "code": failure.code.name}
        log.error("%s failed with %s", path, failure.code.name, exc_info=error, extra=where)


async def _abort(rpc: Context, failure: Failure, request_id: str) -> None:
    status: status_pb2.Status = status_of(failure, request_id)
    trailing = ((_STATUS_DETAILS, status.SerializeToString()), (REQUEST_ID, request_id))
    await rpc.abort(failure.code, status.message, trailing)


def _trailing(request_id: str, pending: bool) -> tuple[tuple[str, str], ...]:
    if pending:
        return ((REQUEST_ID, request_id), (SECONDARY_PENDING, "1"))
    return ((REQUEST_ID, request_id),)
