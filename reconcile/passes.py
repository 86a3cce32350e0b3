"""The passes of a continuous verify: one after the other, in the ledger alone.

The next pass is asked for while the runner still owns the one before it, and waits there, as
REQUESTED, until the pause is over: whoever dies, the next runner goes on, and an operator who
cancels it ends the whole. It says which pass it follows, and only one pass follows another.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.clock import Clock
from proxy.errors import Reason, Rejected
from proxy.ledger.base import Ledger
from proxy.ledger.types import EventDraft, Job, JobKind, JobState
from reconcile.params import INTERVAL_S
from reconcile.repair import ACTOR
from reconcile.roles import ONE_STORE_PHASES, period_epoch

_FOLLOWS = "follows"
_ENDED = (JobState.DONE, JobState.FAILED)
_LOOKED_AT = 50
"""How many of the newest verifies may hold the one that follows a pass that has just ended."""


def follows(job: Job) -> int:
    """Return the number of the pass that this one follows, 0 if it follows none."""
    before = job.params.get(_FOLLOWS)
    return before if isinstance(before, int) else 0


def waits(job: Job) -> bool:
    """True for a pass that has not begun and must perhaps wait for the pause to end."""
    return job.state is JobState.REQUESTED and job.started_at is None and follows(job) > 0


async def ask_next(ledger: Ledger, job: Job) -> None:
    """Ask for the pass after this one, which its runner still owns, unless that was done.

    With the dual writes it ends: there is nothing to compare until somebody begins anew.
    """
    continuous = job.kind is JobKind.VERIFY and job.params.get("continuous") is True
    if not continuous or job.wanted is JobState.CANCELLED:
        return
    if (await ledger.routing()).phase in ONE_STORE_PHASES:
        return
    newest = await ledger.jobs(kind=job.kind, limit=_LOOKED_AT)
    if not any(follows(other) == job.job_id for other in newest):
        await ledger.create_job(job.kind, {**job.params, _FOLLOWS: job.job_id})


async def is_due(ledger: Ledger, clock: Clock, job: Job, others: Iterable[Job]) -> bool:
    """True if a job may begin; a pass that must not begin any more is cancelled.

    Args:
        others: the newest jobs, any order, this one among them.
    """
    before = await _before(ledger, job) if waits(job) else None
    if before is None:
        return True
    twins = [other for other in others if follows(other) == before.job_id]
    older = {other.state for other in twins if other.job_id < job.job_id}
    if before.state is JobState.CANCELLED or older & {*_ENDED}:
        await _cancel(ledger, job, "the pass before it was cancelled, or followed already")
        return False
    if older - {JobState.CANCELLED} or not _pause_is_over(clock, before, job):
        return False
    if job.epoch >= period_epoch(await ledger.flags()):
        return True
    # The roles were swapped in the pause, and a job belongs to the period it was asked for in.
    if not any(other.job_id > job.job_id for other in twins):
        await ledger.create_job(job.kind, job.params)
    await _cancel(ledger, job, "the primary was swapped since it was asked for; it is asked anew")
    return False


def _pause_is_over(clock: Clock, before: Job, job: Job) -> bool:
    given = job.params.get("interval_s")
    interval_s = given if isinstance(given, int | float) else INTERVAL_S[job.kind]
    ended = before.finished_at
    return ended is not None and (clock.now() - ended).total_seconds() >= interval_s


async def _before(ledger: Ledger, job: Job) -> Job | None:
    try:
        return await ledger.job(follows(job))
    except Rejected as error:
        if error.reason is not Reason.NOT_FOUND:
            raise
        return None


async def _cancel(ledger: Ledger, job: Job, why: str) -> None:
    try:
        await ledger.want(job.job_id, JobState.CANCELLED)
    except Rejected:
        return  # another reconciler came first
    await ledger.log_event(
        EventDraft(
            kind=f"{job.kind.value}.cancelled",
            actor=ACTOR,
            reason=why,
            detail={"job_id": job.job_id, "params": dict(job.params)},
        )
    )
