"""The passes of a continuous verify follow one another in every ledger, each pass once."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from proxy.clock import SystemClock
from proxy.ledger.base import Ledger
from proxy.ledger.types import EventDraft, Job, JobKind, JobState, Phase
from reconcile.passes import ask_next, is_due

HOUR_S = 3600.0
PARAMS = {"continuous": True, "interval_s": HOUR_S}


class Later(SystemClock):
    """A clock that is ahead."""

    def now(self) -> dt.datetime:
        return super().now() + dt.timedelta(seconds=HOUR_S)


async def route(ledger: Ledger, phase: Phase, primary: str = "old", note: str = "") -> None:
    now = await ledger.routing()
    after = replace(now, phase=phase, primary=primary)
    event = EventDraft(kind="phase", actor="test")
    await ledger.change_routing(now.epoch, after, event, note=note)


async def first_pass(ledger: Ledger) -> Job:
    """Return the first pass, claimed by a runner."""
    await route(ledger, Phase.DUAL_WRITE, note="dual_write")
    job = await ledger.create_job(JobKind.VERIFY, PARAMS)
    assert await due(ledger, job)
    return await ledger.claim_job(job.job_id, owner="a", lease_s=60)


async def end(ledger: Ledger, job: Job, state: JobState = JobState.DONE) -> None:
    if job.state is not JobState.RUNNING:
        await ledger.claim_job(job.job_id, owner="a", lease_s=60)
    await ledger.end_job(job.job_id, owner="a", state=state, summary={})


async def due(ledger: Ledger, job: Job, *, later: bool = False) -> bool:
    clock = Later() if later else SystemClock()
    job = await ledger.job(job.job_id)
    return await is_due(ledger, clock, job, await ledger.jobs())


async def states(ledger: Ledger) -> list[JobState]:
    """Return the states of all jobs, oldest first."""
    return [job.state for job in reversed(await ledger.jobs())]


async def test_a_pass_is_due_once_the_one_before_has_ended_and_the_pause_is_over(
    ledger: Ledger,
) -> None:
    first = await first_pass(ledger)
    for _ in range(2):  # a runner that died after it had asked, and the next one
        await ask_next(ledger, first)
    following, _ = await ledger.jobs()
    assert not await due(ledger, following, later=True)
    await end(ledger, first)
    assert not await due(ledger, following)
    assert await due(ledger, following, later=True)
    assert await states(ledger) == [JobState.DONE, JobState.REQUESTED]


async def test_a_pass_that_two_runners_have_asked_for_is_made_once(ledger: Ledger) -> None:
    """A runner that was paused past its lease may ask for what another has asked for."""
    first = await first_pass(ledger)
    one, two = [
        await ledger.create_job(JobKind.VERIFY, {**PARAMS, "follows": first.job_id})
        for _ in range(2)
    ]
    await end(ledger, first)
    assert not await due(ledger, two, later=True)
    assert await due(ledger, one, later=True)
    await end(ledger, one)
    assert not await due(ledger, two, later=True)
    assert await states(ledger) == [JobState.DONE, JobState.DONE, JobState.CANCELLED]


async def test_a_swap_in_the_pause_has_the_pass_asked_for_anew_once(ledger: Ledger) -> None:
    first = await first_pass(ledger)
    await ask_next(ledger, first)
    await end(ledger, first)
    old, _ = await ledger.jobs()
    await route(ledger, Phase.NEW_PRIMARY, "new", note="swap")
    jobs = await ledger.jobs()
    for _ in range(2):  # two reconcilers that have looked at the same moment
        assert not await is_due(ledger, Later(), old, jobs)
    assert (await ledger.job(old.job_id)).state is JobState.CANCELLED
    anew = [job for job in reversed(await ledger.jobs()) if job.job_id > old.job_id]
    assert {job.epoch for job in anew} == {(await ledger.routing()).epoch}
    assert [await due(ledger, job, later=True) for job in anew] == [True, False]


async def test_who_cancels_a_pass_ends_it_and_so_does_the_end_of_dual_writes(
    ledger: Ledger,
) -> None:
    first = await first_pass(ledger)
    await ask_next(ledger, first)
    following, _ = await ledger.jobs()
    await end(ledger, first, JobState.CANCELLED)
    assert not await due(ledger, following, later=True)
    assert await states(ledger) == [JobState.CANCELLED, JobState.CANCELLED]
    again = await ledger.create_job(JobKind.VERIFY, PARAMS)
    again = await ledger.claim_job(again.job_id, owner="a", lease_s=60)
    asked = await ledger.want(again.job_id, JobState.CANCELLED)
    await ask_next(ledger, asked)
    await route(ledger, Phase.OLD_ONLY)
    await ask_next(ledger, again)
    assert len(await ledger.jobs()) == 3
