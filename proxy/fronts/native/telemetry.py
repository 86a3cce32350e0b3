"""The hook through which a front tells telemetry about each call; by default it tells nobody."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Metadata = Sequence[tuple[str, str | bytes]]


class RpcSpan(Protocol):
    """One call that is under way."""

    def ended(self, code: str, error: Exception | None) -> None:
        """Take note of the outcome: a gRPC status code's name ("OK") and the error if any.

        Not called when the client went away: then the context is left by CancelledError.
        """


class Telemetry(Protocol):
    """Whoever wants a span for each call."""

    def start_rpc(
        self, method: str, request_id: str, metadata: Metadata
    ) -> AbstractContextManager[RpcSpan]:
        """Begin a call and make its span current; leaving the context ends it.

        Args:
            method: "/crossfade.storage.v1.StorageService/Search".
            metadata: the request's, for a remote parent ("traceparent").
        """


class _NoSpan:
    def ended(self, code: str, error: Exception | None) -> None:
        """Nobody asked."""


class NoTelemetry:
    """Telemetry switched off."""

    def start_rpc(
        self, method: str, request_id: str, metadata: Metadata
    ) -> AbstractContextManager[RpcSpan]:
        return nullcontext(_NoSpan())
