"""One channel, and how a call goes over it: metadata, deadline, and a few safe retries."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import grpc
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_random_exponential,
)

from crossfade.client.errors import CallError, Unavailable, from_rpc_error

Req = TypeVar("Req")
Res = TypeVar("Res")

_PAUSE: Final = wait_random_exponential(multiplier=0.05, max=1.0)
MESSAGE_BYTES_MAX: Final = 16 * 2**20
"""The server's own default; gRPC's default for clients is 4 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What goes with each call.

    Attributes:
        targeting_key: tenant, user or session that sticks to one store during a ramp.
        request_id: the caller's name for what it does, "" to let the server make one.
        attributes: more for the team's own traffic flag.
        timeout_s: for a call with its retries.
        retries: further tries after UNAVAILABLE. Writes carry an idempotency key, so that a
            second try of one that had been applied is answered from the first.
    """

    targeting_key: str = ""
    request_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 10.0
    retries: int = 3

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the request metadata."""
        pairs = [("crossfade-targeting-key", self.targeting_key)] if self.targeting_key else []
        if self.request_id:
            pairs.append(("x-request-id", self.request_id))
        pairs += [(f"crossfade-context-{name}", value) for name, value in self.attributes.items()]
        return tuple(pairs)


def open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, message_bytes_max: int
) -> grpc.aio.Channel:
    """Return a channel to one proxy or to several ("ipv4:10.0.0.1:50051,10.0.0.2:50051")."""
    options = [
        ("grpc.max_receive_message_length", message_bytes_max + 64 * 1024),
        ("grpc.max_send_message_length", message_bytes_max + 64 * 1024),
        # A replica that is down is passed over; one that comes back is found within two seconds.
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Despite its name: so long an attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def new_idempotency_key() -> str:
    """Return a key that no other write has."""
    return uuid.uuid4().hex


async def call(
    method: Callable[..., grpc.aio.UnaryUnaryCall[Req, Res]],
    request: Req,
    options: CallOptions,
    *,
    idempotency_key: str = "",
) -> Res:
    """Return the answer of a unary call.

    Raises:
        CallError: after the last try, or at once if a further try could not help.
    """
    metadata = options.metadata()
    if idempotency_key:
        metadata += (("crossfade-idempotency-key", idempotency_key),)
    ends_s = time.monotonic() + options.timeout_s

    async def attempt() -> Res:
        left_s = max(ends_s - time.monotonic(), 0.001)
        try:
            return await method(request, timeout=left_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    try:
        return await attempt()
    except Unavailable as error:
        if options.retries < 1:
            raise
        return await _again(attempt, error, ends_s, options.retries)


async def write(
    method: Callable[..., grpc.aio.UnaryUnaryCall[Req, Res]],
    request: Req,
    options: CallOptions,
    idempotency_key: str,
) -> Res:
    """Return the answer of a write; without a key of the caller's it gets one for its retries.

    Raises:
        CallError: as `call`.
    """
    key = idempotency_key or new_idempotency_key()
    return await call(method, request, options, idempotency_key=key)


async def _again(
    attempt: Callable[[], Awaitable[Res]], first: Unavailable, ends_s: float, retries: int
) -> Res:
    """Try again, with pauses; `first` counts as the first try."""
    failures: list[CallError] = [first]
    maybe_applied = first.maybe_applied

    async def replayed() -> Res:
        nonlocal maybe_applied
        if failures:
            raise failures.pop()
        try:
            return await attempt()
        except CallError as error:
            maybe_applied |= error.maybe_applied
            raise

    def stop(state: RetryCallState) -> bool:
        pause_s = _pause_s(state)
        return state.attempt_number > retries or time.monotonic() + pause_s >= ends_s

    tries = AsyncRetrying(
        stop=stop, wait=_pause_s, retry=retry_if_exception_type(Unavailable), reraise=True
    )
    try:
        return await tries(replayed)
    except CallError as error:
        # What the last try says of itself does not undo an earlier one whose answer was lost.
        error.detail.earlier_lost = maybe_applied
        raise


def _pause_s(state: RetryCallState) -> float:
    """Return the server's advice if it gave any, else exponential with jitter."""
    error = state.outcome.exception() if state.outcome is not None else None
    advised = error.detail.retry_after_s if isinstance(error, CallError) else None
    return _PAUSE(state) if advised is None else advised
