"""Keeps the gauges that come from the migration's status up to date, beside the requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from proxy.clock import Clock
from proxy.controlplane import ControlPlane, Status
from proxy.errors import CrossfadeError
from proxy.ledger.types import Job, JobKind
from proxy.stores.base import Store
from proxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class GaugePoller:
    """Reads the status every `interval_s` and sets the gauges."""

    def __init__(
        self,
        control: ControlPlane,
        stores: Mapping[str, Store],
        metrics: Metrics,
        *,
        clock: Clock,
        interval_s: float = 5.0,
        shadow: Callable[[], Mapping[str, float]] = dict,
        embedder: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """Make a poller.

        Args:
            shadow: returns running totals of shadow reads by outcome ("queued" is no total).
            embedder: returns the figures of the embedder, nothing if there is none.
        """
        self._control = control
        self._stores = stores
        self._metrics = metrics
        self._clock = clock
        self._interval_s = interval_s
        self._shadow = shadow
        self._embedder = embedder
        self._shadow_seen: dict[str, float] = {}

    async def run(self) -> None:
        """Poll until cancelled. While the ledger is away the gauges grow old and say so."""
        failing = False
        while True:
            try:
                await self.poll()
                failing = False
            except CrossfadeError as error:
                if not failing:
                    log.warning("the gauges cannot be read: %s", error)
                failing = True
            await self._clock.sleep(self._interval_s)

    async def poll(self) -> None:
        """Set the gauges once. Raises what `ControlPlane.status` raises."""
        for name, store in self._stores.items():
            self._metrics.pool(name, store.stats())
        self._metrics.embedder(self._embedder())
        self._count_shadow()
        report_status(await self._control.status(), self._metrics)

    def _count_shadow(self) -> None:
        for outcome, total in self._shadow().items():
            new = total - self._shadow_seen.get(outcome, 0)
            if outcome != "queued" and new > 0:
                self._metrics.shadow(outcome, int(new))
                self._shadow_seen[outcome] = total


def report_status(status: Status, metrics: Metrics) -> None:
    """Set every gauge that a status holds."""
    metrics.routing(status.routing)
    for store in status.stores:
        metrics.store(store.name, store.role, healthy=store.healthy, breaker=store.breaker)
    alive = [replica for replica in status.replicas if replica.alive]
    behind = sum(replica.acked_epoch < status.routing.epoch for replica in alive)
    metrics.replicas(alive=len(alive), behind=behind)
    for kind in JobKind:
        jobs = [job for job in status.jobs if job.kind is kind]
        if jobs:
            newest = max(jobs, key=lambda job: job.job_id)
            metrics.job(kind.value, newest.state.value, job_counts(newest))
    metrics.ledger(unsettled=status.unsettled, dirty=status.dirty, dead_letters=status.dead_letters)


def job_counts(job: Job) -> dict[str, float]:
    """Return the numbers at the top of a job's summary."""
    return {
        name: float(value)
        for name, value in job.summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
