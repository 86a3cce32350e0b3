"""The long-running reconciler: picks up jobs, repairs always, sweeps and prunes the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.errors import CrossfadeError
from proxy.ledger.types import Job, JobKind, JobState
from reconcile.checkpoint import Interrupted
from reconcile.jobs import JOBS_LOOKED_AT, Reconciler
from reconcile.passes import is_due, waits
from reconcile.repair import Repair, Repaired, note_repair
from reconcile.roles import ONE_STORE_PHASES
from reconcile.tasks import first_of

JOBS_EVERY_S = 0.5
JOBS_LOOKED_AT_FIRST = 1000
"""At the start: a pass of a continuous verify may have been asked for long ago."""

SWEEP_EVERY_S = 1.0
PRUNE_EVERY_S = 5.0
REPAIR_EVERY_S = 0.25
"""A dirty key waits at most about this long for its repair."""

BUSY_PAUSE_S = 0.02
"""Pause between rounds while there is something to repair, or a swap drains."""

NOTE_EVERY_S = 10.0
"""Repairs of ordinary dirty keys are noted this often at most; those verify asked for at once."""

TROUBLE_PAUSE_S = 1.0
"""Pause after a store or the ledger did not answer."""


async def serve(reconciler: Reconciler) -> None:
    """Run until `Reconciler.stop`: no trouble with a store, the ledger or a job ends it."""
    service = _Service(reconciler)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(service.repair())
            group.create_task(service.every(SWEEP_EVERY_S, "sweep", service.sweep))
            group.create_task(service.every(PRUNE_EVERY_S, "prune", service.prune))
            group.create_task(service.jobs(group))
    except BaseExceptionGroup as errors:
        raise first_of(errors) from errors


class _Service:
    """The loops of `serve`; each ends soon after the reconciler is stopped."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._ledger = reconciler.ledger
        self._clock = reconciler.clock
        self._bench = reconciler.bench()
        self._running: dict[JobKind, int] = {}
        self._waiting: set[int] = set()
        self._noted_s = float("-inf")
        self._unnoted = Repaired()

    def _check(self) -> None:
        if self._reconciler.stopping:
            raise Interrupted(JobState.REQUESTED)

    async def every(self, pause_s: float, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work again and again."""
        while not self._reconciler.stopping:
            try:
                await work()
            except CrossfadeError as error:
                self._bench.observer.problem(what, error)
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        """Sleep, but not long past a stop."""
        ends_s = self._clock.monotonic_s() + pause_s
        while not self._reconciler.stopping:
            left_s = ends_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            await self._clock.sleep(min(left_s, REPAIR_EVERY_S))

    async def sweep(self) -> None:
        """Take over the intents of dead replicas."""
        await self._ledger.sweep()

    async def prune(self) -> None:
        """Forget settled intents that nobody can need."""
        await self._ledger.prune()

    async def repair(self) -> None:
        """Repair dirty keys as they appear, also while a swap drains."""
        repair = Repair(self._bench, job_id=0, check=self._check)
        while not self._reconciler.stopping:
            try:
                await self._repair_once(repair)
            except Interrupted:
                return
            except CrossfadeError as error:
                self._bench.observer.problem("repair", error)
                await self._pause(TROUBLE_PAUSE_S)

    async def _repair_once(self, repair: Repair) -> None:
        routing = await self._ledger.routing()
        done = Repaired()
        if routing.phase not in ONE_STORE_PHASES:
            done = await repair.round()
            await self._note(done)
        if done.repaired or done.in_flight or routing.hold:
            await self._clock.sleep(BUSY_PAUSE_S)
        else:
            await self._ledger.wait_change(routing.epoch, timeout_s=REPAIR_EVERY_S)

    async def _note(self, done: Repaired) -> None:
        """Store when something was last repaired, without flooding the event log."""
        self._unnoted = self._unnoted.plus(done)
        if not self._unnoted.repaired:
            return
        now_s = self._clock.monotonic_s()
        if self._unnoted.from_verify or now_s - self._noted_s >= NOTE_EVERY_S:
            await note_repair(self._bench, self._unnoted)
            self._unnoted, self._noted_s = Repaired(), now_s

    async def jobs(self, group: asyncio.TaskGroup) -> None:
        """Pick up jobs, one of each kind at a time, oldest first."""
        looked_at = JOBS_LOOKED_AT_FIRST
        while not self._reconciler.stopping:
            try:
                found = await self._newest(looked_at)
                for job in found:
                    await self._consider(job, found, group)
                looked_at = JOBS_LOOKED_AT
            except CrossfadeError as error:
                self._bench.observer.problem("jobs", error)
            await self._pause(JOBS_EVERY_S)

    async def _newest(self, limit: int) -> list[Job]:
        """Return the newest jobs, oldest first, and those that wait however old they are."""
        newest = await self._ledger.jobs(limit=limit)
        seen = {job.job_id for job in newest}
        older = [await self._ledger.job(number) for number in sorted(self._waiting - seen)]
        found = [*older, *reversed(newest)]
        self._waiting = {job.job_id for job in found if waits(job)}
        return found

    async def _consider(self, job: Job, found: list[Job], group: asyncio.TaskGroup) -> None:
        left_behind = job.state is JobState.RUNNING and not job.owner_alive
        if left_behind and job.wanted in (JobState.PAUSED, JobState.CANCELLED):
            await self._ledger.want(job.job_id, job.wanted)  # its owner died before it could obey
        elif (left_behind or job.state is JobState.REQUESTED) and job.kind not in self._running:
            if not await is_due(self._ledger, self._clock, job, found):
                return
            self._running[job.kind] = job.job_id
            group.create_task(self._run(job))

    async def _run(self, job: Job) -> None:
        """Run one job; what goes wrong with it ends the job, not the service."""
        try:
            await self._reconciler.run_job(job.job_id)
        except CrossfadeError as error:
            self._bench.observer.problem(f"job {job.job_id}", error)
        finally:
            self._running.pop(job.kind, None)
