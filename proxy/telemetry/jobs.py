"""What a reconciler's observer does for telemetry: counts batches, follows jobs, logs trouble."""

from __future__ import annotations

import logging
from typing import Protocol

from proxy.ledger.types import Job
from proxy.telemetry.gauges import job_counts
from proxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


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

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def progress(self, job: Job) -> None:
        """A job's stored progress changed."""
        self._metrics.job(job.kind.value, job.state.value, job_counts(job))

    def batch(self, seen: Batch) -> None:
        """A batch is finished."""
        self._metrics.batch(
            seen.kind, seen.collection, rows=seen.rows, size=seen.bytes, seconds=seen.seconds
        )

    def problem(self, where: str, error: Exception) -> None:
        """Something went wrong that the reconciler will try again."""
        log.warning("%s: %s", where, error)
