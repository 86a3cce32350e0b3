"""One claimed job: its lease, its progress with rate and ETA, and what the operator wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from proxy.clock import Clock
from proxy.errors import CrossfadeError, LeaseLost, Unavailable
from proxy.ledger.base import JobLog
from proxy.ledger.types import Job, JobState, RangeState, Routing
from proxy.model import JsonValue
from reconcile.ranges import added

BEATS_PER_LEASE = 4
"""The lease is renewed this often, so that one lost answer does not lose the job."""

BEAT_S_MAX = 1.0
"""Progress is stored, and a request to pause is seen, at least this often."""


class Interrupted(CrossfadeError):
    """The job was asked to stop between two batches; `state` is what it becomes."""

    def __init__(self, state: JobState) -> None:
        super().__init__(f"The job was asked to stop: {state.value}.")
        self.state = state


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSeen:
    """One finished batch, as telemetry gets it."""

    kind: str
    collection: str
    rows: int
    bytes: int
    seconds: float


class Observer(Protocol):
    """Somebody who watches jobs: a progress bar, metrics. Returns at once, never raises."""

    def progress(self, job: Job) -> None:
        """A job's stored progress changed."""

    def batch(self, seen: BatchSeen) -> None:
        """A batch is finished."""

    def problem(self, where: str, error: Exception) -> None:
        """Something failed that is tried again later."""


class NoObserver:
    """Nobody watches."""

    def progress(self, job: Job) -> None:
        """Ignore it."""

    def batch(self, seen: BatchSeen) -> None:
        """Ignore it."""

    def problem(self, where: str, error: Exception) -> None:
        """Ignore it."""


@dataclass(slots=True)
class Progress:
    """What a job has done so far; `facts` are the parts of the summary that are not counts.

    Attributes:
        total: rows by collection, estimated when the ranges were planned.
        tally: counts by collection, those of earlier runs of the same job included.
        labels: what else is shown of a collection.
        before: rows that earlier runs did; the rate is this run's own.
        began_s: monotonic start of this run.
    """

    began_s: float
    total: dict[str, int] = field(default_factory=dict)
    tally: dict[str, dict[str, int]] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    before: int = 0
    stage: str = ""
    facts: dict[str, JsonValue] = field(default_factory=dict)

    def resume(self, ranges: Sequence[RangeState]) -> None:
        """Begin with what the stored ranges say was done before."""
        self.tally = {}
        for state in ranges:
            self.add(state.collection, state.tally)
        self.before = self.sum("rows")

    def add(self, collection: str, tally: Mapping[str, int]) -> None:
        """Count what a batch did."""
        self.tally[collection] = added(self.tally.get(collection, {}), tally)

    def sum(self, name: str) -> int:
        """Return one count over all collections."""
        return sum(tally.get(name, 0) for tally in self.tally.values())

    def summary(self, now_s: float, names: Sequence[str]) -> dict[str, JsonValue]:
        """Return the job's summary.

        Args:
            names: counts that are always shown, zeros included.
        """
        rows, total = self.sum("rows"), sum(self.total.values())
        elapsed_s = max(now_s - self.began_s, 1e-9)
        rate = (rows - self.before) / elapsed_s
        left = max(0, total - rows)
        eta_s = None if left and rate <= 0 else round(left / rate, 1) if left else 0.0
        shown = dict.fromkeys((*names, *(name for t in self.tally.values() for name in t)))
        collections: dict[str, JsonValue] = {
            name: {
                "rows_total": self.total.get(name, 0),
                "rows": 0,
                **self.tally.get(name, {}),
                **self.labels.get(name, {}),
            }
            for name in dict.fromkeys((*self.total, *self.tally))
        }
        counted: dict[str, JsonValue] = {name: self.sum(name) for name in shown}
        return {
            "stage": self.stage,
            **counted,
            "rows": rows,
            "rows_total": max(total, rows),
            "rate_rows_per_s": round(rate, 1),
            "eta_s": eta_s,
            "elapsed_s": round(elapsed_s, 2),
            "collections": collections,
            **self.facts,
        }


class JobRun:
    """A job while this process owns it."""

    def __init__(
        self,
        log: JobLog,
        job: Job,
        *,
        owner: str,
        lease_s: float,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self.log = log
        self.job = job
        self.observer = observer
        self.progress = Progress(began_s=clock.monotonic_s())
        self.names: tuple[str, ...] = ()
        self._owner = owner
        self._lease_s = lease_s
        self._clock = clock
        self._renewed_s = clock.monotonic_s()
        self._stopping = False

    @property
    def job_id(self) -> int:
        """The job's number."""
        return self.job.job_id

    def stop(self) -> None:
        """Stop at the next batch and leave the job for the next runner (SIGTERM)."""
        self._stopping = True

    def check(self) -> None:
        """Return if the job may go on with its next batch.

        Raises:
            Interrupted: the operator wants it paused or cancelled, or the process stops.
            LeaseLost: the lease could not be renewed in time; another runner may have it.
        """
        if self._stopping:
            raise Interrupted(JobState.REQUESTED)
        if self.job.wanted in (JobState.PAUSED, JobState.CANCELLED):
            raise Interrupted(self.job.wanted)
        if self._clock.monotonic_s() - self._renewed_s > self._lease_s:
            raise LeaseLost(
                f"The lease of job {self.job_id} could not be renewed in time.",
                where="ledger",
                hint="Another runner takes the job; nothing is lost.",
            )

    def summary(self) -> dict[str, JsonValue]:
        """Return the summary as it is now."""
        return self.progress.summary(self._clock.monotonic_s(), self.names)

    def note_routing(self, routing: Routing) -> None:
        """Show in the summary under which routing the job works."""
        self.progress.facts["routing"] = {
            "epoch": routing.epoch,
            "phase": routing.phase.value,
            "primary": routing.primary,
        }

    async def keep(self) -> None:
        """Renew the lease and store progress until cancelled.

        Raises:
            LeaseLost: another runner has the job.
        """
        pause_s = min(BEAT_S_MAX, self._lease_s / BEATS_PER_LEASE)
        while True:
            await self._clock.sleep(pause_s)
            await self.beat()

    async def beat(self) -> None:
        """Renew the lease once; a ledger that does not answer is asked again at the next beat."""
        asked_s = self._clock.monotonic_s()
        try:
            job = await self.log.renew_job(
                self.job_id, owner=self._owner, lease_s=self._lease_s, summary=self.summary()
            )
        except LeaseLost:
            raise
        except Unavailable:
            return
        self._renewed_s = asked_s
        self.job = job
        self.observer.progress(job)

    async def end(self, state: JobState, error: str = "") -> Job:
        """Store the end, or the pause, of the job and give up its lease."""
        self.job = await self.log.end_job(
            self.job_id, owner=self._owner, state=state, summary=self.summary(), error=error
        )
        self.observer.progress(self.job)
        return self.job


async def save(run: JobRun, state: RangeState) -> RangeState:
    """Store a range's checkpoint on its own and return it as this job's."""
    mine = replace(state, job_id=run.job_id)
    await run.log.save_range(mine)
    return mine
