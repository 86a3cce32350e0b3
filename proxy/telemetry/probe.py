"""One measured call: a span if the request is traced, a duration, and an outcome by error type."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from proxy.errors import Ambiguous, Corrupt, Rejected, Unavailable
from proxy.telemetry.traces import Tracing

T = TypeVar("T")
Record = Callable[[str, str, float], None]
"""Called with (operation, outcome, seconds)."""


def outcome_of(error: BaseException) -> str:
    """Name an outcome for metrics: few words, the same for every store."""
    if isinstance(error, Rejected):
        return "rejected"
    if isinstance(error, Unavailable):
        return "unavailable"
    if isinstance(error, Ambiguous):
        return "ambiguous"
    if isinstance(error, Corrupt):
        return "corrupt"
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    return "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Measures calls of one target.

    Attributes:
        target: "old", "new" or "ledger": the span's name begins with it.
        shared: calls serve several requests at once (group commit), so that one that comes after
            the current request's end belongs to another one and gets no span.
        now: a clock in seconds that never goes back.
    """

    target: str
    tracing: Tracing
    record: Record
    shared: bool = False
    now: Callable[[], float] = time.perf_counter

    async def call(self, operation: str, collection: str, work: Awaitable[T]) -> T:
        """Await `work` and record it. Errors pass through unchanged."""
        start = self.now()
        span = None
        if self.tracing.on:
            attributes = {"crossfade.target": self.target, "crossfade.collection": collection}
            name = f"{self.target}.{operation}"
            span = self.tracing.child(name, attributes, late=not self.shared)
        if span is None:
            try:
                result = await work
            except BaseException as error:
                self.record(operation, outcome_of(error), self.now() - start)
                raise
        else:
            with span:
                try:
                    result = await work
                except BaseException as error:
                    self.record(operation, outcome_of(error), self.now() - start)
                    span.fail(f"{type(error).__name__}: {error}")
                    raise
        self.record(operation, "ok", self.now() - start)
        return result
