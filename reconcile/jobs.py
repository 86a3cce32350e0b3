"""The reconciler: plans jobs, runs one to its end or resumes it, and stores how it ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.clock import Clock, SystemClock
from proxy.config.settings import ReconcileSettings
from proxy.embedding.base import Embedder
from proxy.errors import CrossfadeError, LeaseLost, Reason, Rejected
from proxy.ledger.base import Ledger
from proxy.ledger.types import EventDraft, Job, JobKind, JobState
from proxy.model import JsonValue
from proxy.stores.base import Store
from reconcile.backfill import Backfill, dry_run
from reconcile.bench import Bench
from reconcile.checkpoint import BatchSeen, Interrupted, JobRun, NoObserver, Observer
from reconcile.late import LateWrites
from reconcile.params import parse_params, settings_for
from reconcile.passes import ask_next
from reconcile.planning import Plan, make_plan, with_samples
from reconcile.repair import ACTOR, repair_job
from reconcile.retry import Retry, RetryPolicy
from reconcile.roles import period_epoch
from reconcile.snapshot import Reach, pass_by
from reconcile.tasks import first_of, to_the_end
from reconcile.verify import Verify

END_S_MAX = 10.0
"""How long storing the end of a job may take when the process is being stopped."""

JOBS_LOOKED_AT = 50
"""How many of the newest jobs are looked at for one that can be resumed or picked up."""

WRONG_MAX = 10
"""So many of the things that were wrong with a job's parameters are kept with it."""


def _random() -> random.Random:
    return random.Random()  # noqa: S311  # jitter, not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a reconciler is handed besides stores, ledger and settings; a test owns them all."""

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=_random)
    observer: Observer = field(default_factory=NoObserver)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    reach: Reach = pass_by
    embedder: Embedder | None = None


class Reconciler:
    """Runs backfill, verify and repair for one migration; several of them may run at once."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        ledger: Ledger,
        settings: ReconcileSettings,
        *,
        owner: str,
        tools: Tools | None = None,
    ) -> None:
        """Make a reconciler.

        Args:
            stores: by name, "old" and "new", open.
            owner: names this process in the ledger; new for every start.
        """
        self._stores = dict(stores)
        self._ledger = ledger
        self._settings = settings
        self._owner = owner
        self._tools = tools or Tools()
        self._late = LateWrites(self._tools.clock)
        self._runs: set[JobRun] = set()
        self._stopping = False
        self._known = tuple(next(iter(stores.values())).schema.collections)

    def stop(self) -> None:
        """Stop after the batches that are running; jobs are left for the next runner (SIGTERM)."""
        self._stopping = True
        for run in self._runs:
            run.stop()

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stopping

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self._ledger

    @property
    def clock(self) -> Clock:
        """The clock."""
        return self._tools.clock

    def bench(
        self, given: Mapping[str, JsonValue] | None = None, observer: Observer | None = None
    ) -> Bench:
        """Return the tools of a job whose parameters may override settings."""
        return Bench(
            stores=self._stores,
            ledger=self._ledger,
            settings=settings_for(self._settings, given or {}),
            clock=self._tools.clock,
            rng=self._tools.rng,
            retry=Retry(self._tools.retry, self._tools.clock, self._tools.rng),
            observer=observer or self._tools.observer,
            reach=self._tools.reach,
            late=self._late,
            embedder=self._tools.embedder,
        )

    async def plan(self, collections: Sequence[str] = ()) -> Plan:
        """Return what a backfill would walk through; reads only, allowed in old_only."""
        bench = self.bench()
        roles = await bench.roles(read_only=True)
        return await with_samples(bench, roles, await make_plan(bench, roles, collections))

    def check(self, kind: JobKind, params: Mapping[str, JsonValue]) -> None:
        """Return if a job may be asked for with these parameters.

        Raises:
            Rejected(INVALID_ARGUMENT): a parameter is wrong; every problem is named.
        """
        parse_params(kind, params, self._known)
        settings_for(self._settings, params)

    async def create(self, kind: JobKind, params: Mapping[str, JsonValue]) -> Job:
        """Ask for a job; a runner picks it up. Raises as `check`."""
        self.check(kind, params)
        return await self._ledger.create_job(kind, params)

    async def run_once(
        self,
        kind: JobKind,
        params: Mapping[str, JsonValue],
        on_progress: Callable[[Job], None] | None = None,
    ) -> Job:
        """Run one job to its end: an unfinished one of the same kind is resumed, else a new one.

        Returns:
            The job as it ended; `state` and `error` say how.

        Raises:
            Rejected(FAILED_PRECONDITION): a live runner has such a job, or one is paused.
            Rejected(INVALID_ARGUMENT): a parameter is wrong.
        """
        job = await self._unfinished(kind, params)
        if job is None:
            job = await self.create(kind, params)
        return await self.run_job(job.job_id, on_progress)

    async def _unfinished(self, kind: JobKind, params: Mapping[str, JsonValue]) -> Job | None:
        """Return a job that is worth resuming, looking back to the last one that ended well."""
        began = period_epoch(await self._ledger.flags())
        jobs = await self._ledger.jobs(kind=kind, limit=JOBS_LOOKED_AT)
        return unfinished(jobs, params, began=began)

    async def run_job(self, job_id: int, on_progress: Callable[[Job], None] | None = None) -> Job:
        """Claim a job and run it until it ends, is paused or cancelled, or this process stops.

        Raises:
            Rejected(FAILED_PRECONDITION): another live runner has it, or it has ended.
            LeaseLost: another runner took it over meanwhile.
            Unavailable: the ledger could not be told how it ended; the lease will run out.
        """
        lease_s = self._settings.lease_s
        job = await self._ledger.claim_job(job_id, owner=self._owner, lease_s=lease_s)
        run = JobRun(
            self._ledger,
            job,
            owner=self._owner,
            lease_s=lease_s,
            clock=self._tools.clock,
            observer=_Relay(self._tools.observer, on_progress),
        )
        self._runs.add(run)
        if self._stopping:
            run.stop()
        try:
            return await self._driven(run)
        finally:
            self._runs.discard(run)

    async def _driven(self, run: JobRun) -> Job:
        """Do the job's work and store how it ended."""
        try:
            await self._with_heartbeat(run)
        except Interrupted as asked:
            return await self._end(run, asked.state)
        except LeaseLost:
            raise
        except CrossfadeError as error:
            return await self._end(run, JobState.FAILED, _why(error))
        except asyncio.CancelledError:
            await to_the_end(self._leave(run), deadline_s=END_S_MAX)
            raise
        except Exception as error:
            await self._end(run, JobState.FAILED, f"internal error: {error!r}")
            raise
        return await self._end(run, JobState.DONE)

    async def _with_heartbeat(self, run: JobRun) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(run.keep())
                try:
                    await self._work(run)
                finally:
                    beat.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from errors

    async def _end(self, run: JobRun, state: JobState, error: str = "") -> Job:
        """Store the end of a job, patiently: a ledger that restarts must not lose it."""
        retry = Retry(self._tools.retry, self._tools.clock, self._tools.rng)
        if state in (JobState.DONE, JobState.FAILED):
            await retry(lambda: ask_next(self._ledger, run.job), lambda: None)

        async def store() -> Job:
            return await run.end(state, error)

        job = await retry(store, lambda: None)
        await self._ledger.log_event(
            EventDraft(
                kind=f"{job.kind.value}.{state.value}",
                actor=ACTOR,
                reason=error,
                detail={"job_id": job.job_id, "params": dict(job.params)},
            )
        )
        return job

    async def _leave(self, run: JobRun) -> None:
        """Give the job back for the next runner; its lease would run out anyway."""
        try:
            await run.end(JobState.REQUESTED)
        except CrossfadeError as error:
            self._tools.observer.problem(f"job {run.job_id}", error)

    async def _work(self, run: JobRun) -> None:
        job = run.job
        params = parse_params(job.kind, job.params, self._known)
        bench = self.bench(job.params, observer=run.observer)
        await self._ledger.log_event(
            EventDraft(
                kind=f"{job.kind.value}.started",
                actor=ACTOR,
                detail={"job_id": job.job_id, "params": dict(job.params), "owner": self._owner},
            )
        )
        if job.kind is JobKind.VERIFY:
            await Verify(bench, run, params).run()
        elif job.kind is JobKind.REPAIR:
            await repair_job(bench, run, params)
        elif params.dry_run:
            await dry_run(bench, run, params)
        else:
            await Backfill(bench, run, params).run()


def unfinished(
    jobs: Sequence[Job], params: Mapping[str, JsonValue], *, began: int, join: bool = False
) -> Job | None:
    """Return the job that goes on when one with these parameters is asked for.

    Args:
        jobs: of one kind, newest first.
        began: the epoch at which this period began; earlier jobs are worth nothing.
        join: one that runs, or is paused, will do if it has the same parameters.

    Raises:
        Rejected(FAILED_PRECONDITION): a live runner has such a job, or one is paused.
    """
    for job in jobs:
        if job.state in (JobState.DONE, JobState.CANCELLED) or job.epoch < began:
            return None
        same = dict(job.params) == dict(params)
        if (job.owner_alive or job.state is JobState.PAUSED) and not (same and join):
            raise _under_way(job)
        # A verify that failed begins anew: what it has seen may have changed since.
        resumable = job.state is not JobState.FAILED or job.kind is JobKind.BACKFILL
        if resumable and same:
            return job
    return None


def _under_way(job: Job) -> Rejected:
    number = job.job_id
    if job.owner_alive:
        what = f"is run by {job.owner}"
        hint = (
            f"`crossfade job watch {number}` follows it, `crossfade job cancel {number}` ends it."
        )
    else:
        what = "is paused"
        hint = f"First `crossfade job resume {number}`, or `crossfade job cancel {number}`."
    return Rejected(
        f"Job {number} ({job.kind.value}) {what}.", reason=Reason.FAILED_PRECONDITION, hint=hint
    )


def _why(error: CrossfadeError) -> str:
    """Say why a job failed, for the ledger: an error is all that is left of it there."""
    violations = error.violations if isinstance(error, Rejected) else ()
    named = "; ".join(str(violation) for violation in violations[:WRONG_MAX])
    return f"{error} {named}".rstrip()


class _Relay:
    """An observer that also tells the caller of one job."""

    def __init__(self, observer: Observer, on_progress: Callable[[Job], None] | None) -> None:
        self._observer = observer
        self._on_progress = on_progress

    def progress(self, job: Job) -> None:
        """See `Observer`."""
        self._observer.progress(job)
        if self._on_progress is not None:
            self._on_progress(job)

    def batch(self, seen: BatchSeen) -> None:
        """See `Observer`."""
        self._observer.batch(seen)

    def problem(self, where: str, error: Exception) -> None:
        """See `Observer`."""
        self._observer.problem(where, error)
