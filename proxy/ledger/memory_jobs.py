"""Jobs, their ranges and their differences in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from proxy.errors import LeaseLost, Reason, Rejected
from proxy.ledger.memory_state import MemoryState
from proxy.ledger.types import Difference, Job, JobKind, JobState, RangeState
from proxy.model import JsonValue, encode_key

_ENDED = (JobState.DONE, JobState.CANCELLED)


class MemoryJobs:
    """`JobLog` over a MemoryState."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def create_job(
        self, kind: JobKind, params: Mapping[str, JsonValue], *, ranges: Sequence[RangeState] = ()
    ) -> Job:
        """See `JobLog.create_job`."""
        job = Job(
            job_id=self._state.number(),
            kind=kind,
            state=JobState.REQUESTED,
            wanted=JobState.RUNNING,
            epoch=self._state.routing.epoch,
            params=dict(params),
            summary={},
            owner="",
            owner_alive=False,
            created_at=self._state.clock.now(),
        )
        self._state.jobs[job.job_id] = job
        self._state.ranges[job.job_id] = {}
        self._state.differences[job.job_id] = {}
        await self.add_ranges(job.job_id, ranges)
        return job

    async def add_ranges(self, job_id: int, ranges: Sequence[RangeState]) -> None:
        """See `JobLog.add_ranges`."""
        stored = self._state.ranges[job_id]
        for item in ranges:
            stored[item.collection, item.number] = replace(item, job_id=job_id)

    async def claim_job(self, job_id: int, *, owner: str, lease_s: float) -> Job:
        """See `JobLog.claim_job`."""
        job = await self.job(job_id)
        if job.state in _ENDED or (job.owner_alive and job.owner != owner):
            what = f"is run by {job.owner}" if job.owner_alive else f"is {job.state.value}"
            raise Rejected(
                f"Job {job_id} ({job.kind.value}) {what}.",
                reason=Reason.FAILED_PRECONDITION,
                hint="Wait for it, or ask it to pause first.",
            )
        self._state.job_leases[job_id] = self._state.clock.monotonic_s() + lease_s
        return self._put(
            replace(
                job,
                owner=owner,
                state=JobState.RUNNING,
                wanted=JobState.RUNNING,
                started_at=job.started_at or self._state.clock.now(),
                error="",
            )
        )

    async def renew_job(
        self, job_id: int, *, owner: str, lease_s: float, summary: Mapping[str, JsonValue]
    ) -> Job:
        """See `JobLog.renew_job`."""
        job = self._owned(job_id, owner)
        self._state.job_leases[job_id] = self._state.clock.monotonic_s() + lease_s
        return self._put(replace(job, summary=dict(summary)))

    async def end_job(
        self,
        job_id: int,
        *,
        owner: str,
        state: JobState,
        summary: Mapping[str, JsonValue],
        error: str = "",
    ) -> Job:
        """See `JobLog.end_job`."""
        job = self._owned(job_id, owner)
        self._state.job_leases.pop(job_id, None)
        ended = state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
        return self._put(
            replace(
                job,
                owner="",
                state=state,
                wanted=state,
                summary=dict(summary),
                error=error,
                finished_at=self._state.clock.now() if ended else None,
            )
        )

    def _owned(self, job_id: int, owner: str) -> Job:
        job = self._state.jobs[job_id]
        if job.owner != owner or job.state is not JobState.RUNNING:
            raise LeaseLost(f"Job {job_id} belongs to another runner now.", where="ledger")
        return job

    async def want(self, job_id: int, wanted: JobState) -> Job:
        """See `JobLog.want`."""
        job = await self.job(job_id)
        if job.state in _ENDED:
            raise Rejected(
                f"Job {job_id} ({job.kind.value}) is {job.state.value} and cannot be"
                f" {wanted.value} any more.",
                reason=Reason.FAILED_PRECONDITION,
                hint="Start a new one.",
            )
        asked = JobState.RUNNING if wanted is JobState.REQUESTED else wanted
        at_once = JobState.REQUESTED if wanted is JobState.RUNNING else wanted
        state = job.state if job.owner_alive else at_once
        return self._put(replace(job, wanted=asked, state=state))

    async def job(self, job_id: int) -> Job:
        """See `JobLog.job`."""
        job = self._state.jobs.get(job_id)
        if job is None:
            raise Rejected(
                f"There is no job {job_id}.",
                reason=Reason.NOT_FOUND,
                hint="`crossfade status` lists them.",
            )
        return self._put(job)

    async def jobs(self, *, kind: JobKind | None = None, limit: int = 20) -> list[Job]:
        """See `JobLog.jobs`."""
        found = [self._put(job) for job in self._state.jobs.values() if kind in (None, job.kind)]
        return sorted(found, key=lambda job: -job.job_id)[:limit]

    async def ranges(self, job_id: int) -> list[RangeState]:
        """See `JobLog.ranges`."""
        return [item for _, item in sorted(self._state.ranges.get(job_id, {}).items())]

    async def save_range(self, progress: RangeState) -> None:
        """See `JobLog.save_range`."""
        self._state.ranges[progress.job_id][progress.collection, progress.number] = progress

    async def add_differences(self, job_id: int, differences: Sequence[Difference]) -> None:
        """See `JobLog.add_differences`."""
        stored = self._state.differences[job_id]
        for item in differences:
            stored[item.collection, item.key] = item

    async def differences(self, job_id: int, *, limit: int = 1000) -> list[Difference]:
        """See `JobLog.differences`."""
        found = self._state.differences.get(job_id, {}).values()
        return sorted(found, key=lambda item: (item.collection, encode_key(item.key)))[:limit]

    def _put(self, job: Job) -> Job:
        lease_s = self._state.job_leases.get(job.job_id, 0.0)
        alive = bool(job.owner) and lease_s > self._state.clock.monotonic_s()
        self._state.jobs[job.job_id] = replace(job, owner_alive=alive)
        return self._state.jobs[job.job_id]
