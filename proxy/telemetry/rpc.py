"""What a front's telemetry hook does: request id, span, duration and status code of each call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import Token
from types import TracebackType

from proxy.telemetry.logs import REQUEST_ID
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.traces import ActiveSpan, Tracing

log = logging.getLogger(__name__)

_OURS = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
"""Status codes that mean a defect or damage: always worth a line with the error."""


class RpcCall(AbstractContextManager["RpcCall"]):
    """One call under way; `ended` is told the outcome, leaving the block records it."""

    __slots__ = ("_code", "_metrics", "_name", "_now", "_request_id", "_span", "_start", "_token")

    def __init__(
        self,
        name: str,
        request_id: str,
        *,
        metrics: Metrics,
        span: ActiveSpan | None,
        now: Callable[[], float],
    ) -> None:
        self._name = name
        self._request_id = request_id
        self._metrics = metrics
        self._span = span
        self._now = now
        self._start = 0.0
        self._code = ""
        self._token: Token[str] | None = None

    def __enter__(self) -> RpcCall:
        self._start = self._now()
        self._token = REQUEST_ID.set(self._request_id)
        if self._span is not None:
            self._span.__enter__()
        return self

    def ended(self, code: str, error: Exception | None) -> None:
        """Take note of a gRPC status code's name and the error, if any."""
        self._code = code
        if code in _OURS:
            log.error("%s failed with %s", self._name, code, exc_info=error)
        elif code != "OK":
            log.debug("%s answered %s: %s", self._name, code, error)
        if self._span is not None:
            self._span.set("rpc.grpc.status_code", code)
            if code != "OK":
                self._span.fail(str(error) if error is not None else code)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if not self._code:
            gone = kind is not None and issubclass(kind, asyncio.CancelledError)
            self._code = "CANCELLED" if gone else "UNKNOWN"
            if self._span is not None:
                self._span.set("rpc.grpc.status_code", self._code)
        if self._span is not None:
            self._span.__exit__(kind, error, where)
        if self._token is not None:
            REQUEST_ID.reset(self._token)
        self._metrics.rpc(self._name, self._code, self._now() - self._start)


class RpcTelemetry:
    """Satisfies the `Telemetry` hook of `proxy.fronts.native.telemetry`."""

    def __init__(
        self,
        tracing: Tracing,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tracing = tracing
        self._metrics = metrics
        self._now = now

    def start_rpc(
        self, method: str, request_id: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> RpcCall:
        """Begin a call; `method` is "/package.Service/Method"."""
        service, _, name = method.strip("/").rpartition("/")
        span = None
        if self._tracing.on:
            attributes = {
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": name,
                "crossfade.request_id": request_id,
            }
            span = self._tracing.root(f"{service}/{name}", metadata, attributes)
        return RpcCall(name, request_id, metrics=self._metrics, span=span, now=self._now)
