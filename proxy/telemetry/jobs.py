"""What a reconciler's observer does for telemetry: counts batches, follows jobs, logs trouble."""

from __future__ import annotations

import logging
from typing import Protocol

from proxy.clock import Clock, SystemClock
from proxy.ledger.types import Job
from proxy.telemetry.gauges import job_counts
from proxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

REPEAT_S = 10.0
"""So long the same is not told again: a ledger that is away is asked several times a second."""

TOLD_MAX = 100
"""Of so many different troubles at once it is known that they were told."""


class Batch(Protocol):
    """One finished batch (`reconcile.checkpoint.BatchSeen`)."""

    @property
    def kind(self) -> str: ...
    @property
    def collection(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class JobMetrics:
    """Satisfies `reconcile.checkpoint.Observer`; returns at once, never raises."""

    def __init__(self, metrics: Metrics, clock: Clock | None = None) -> None:
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._told: dict[str, float] = {}

    def progress(self, job: Job) -> None:
        """A job's stored progress changed."""
        self._metrics.job(job.kind.value, job.state.value, job_counts(job))

    def batch(self, seen: Batch) -> None:
        """A batch is finished."""
        self._metrics.batch(
            seen.kind, seen.collection, rows=seen.rows, size=seen.bytes, seconds=seen.seconds
        )

    def problem(self, where: str, error: Exception) -> None:
        """Something went wrong that the reconciler will try again; it is not told each time."""
        now_s = self._clock.monotonic_s()
        self._told = {text: at for text, at in self._told.items() if now_s - at < REPEAT_S}
        text = f"{where}: {error}"
        if text not in self._told:
            log.warning("%s", text)
            if len(self._told) < TOLD_MAX:
                self._told[text] = now_s
