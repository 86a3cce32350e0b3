"""A continuous verify goes on, pass after pass, whoever dies between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from proxy.ledger.base import Ledger
from proxy.ledger.types import Job, JobKind, JobState, Phase
from reconcile.jobs import JOBS_LOOKED_AT, Reconciler
from reconcile.service import serve
from tests.unit.reconcile.support import Killed, Rig

PAUSE_S = 120.0
CONTINUOUS = {"continuous": True, "interval_s": PAUSE_S}


@pytest.fixture
async def rig() -> Rig:
    rig = await Rig().start()
    await rig.fill(20)
    return rig


@asynccontextmanager
async def serving(*reconcilers: Reconciler) -> AsyncIterator[None]:
    """Run services until the end of the block."""
    tasks = [asyncio.ensure_future(serve(reconciler)) for reconciler in reconcilers]
    try:
        yield
    finally:
        for reconciler in reconcilers:
            reconciler.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 20)


class DiesAt:
    """A ledger whose process dies at a call, before it is carried out or before its answer."""

    def __init__(self, ledger: Ledger, call: str, *, answered: bool) -> None:
        self._ledger = ledger
        self._call = call
        self._answered = answered

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)
        if name != self._call:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._answered:
                await method(*args, **kwargs)
            raise Killed

        return call


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition, not for a time."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0)


async def passes(rig: Rig, *states: JobState) -> list[Job]:
    """Return the verifies in these states, oldest first."""
    jobs = await rig.ledger.jobs(kind=JobKind.VERIFY, limit=100)
    return [job for job in reversed(jobs) if job.state in (states or tuple(JobState))]


def ended(rig: Rig, count: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return len(await passes(rig, JobState.DONE)) >= count

    return enough


def later(rig: Rig, passed_s: float) -> Callable[[], Awaitable[bool]]:
    ends_s = rig.clock.passed_s + passed_s

    async def is_later() -> bool:
        return rig.clock.passed_s > ends_s

    return is_later


def apart_s(jobs: list[Job]) -> list[float]:
    """Return the pause before each pass but the first, in seconds."""
    found = []
    for before, after in pairwise(jobs):
        assert before.finished_at is not None
        assert after.started_at is not None
        found.append((after.started_at - before.finished_at).total_seconds())
    return found


async def test_it_goes_on_after_a_restart_in_the_pause_when_the_pause_is_over(rig: Rig) -> None:
    first = rig.reconciler("first")
    await first.create(JobKind.VERIFY, CONTINUOUS)
    async with serving(first):
        await until(ended(rig, 1))
    async with serving(rig.reconciler("second")):
        await until(ended(rig, 2))
    async with serving(rig.reconciler("third")):
        await until(ended(rig, 4))
    assert all(
        PAUSE_S <= pause_s < PAUSE_S + 60 for pause_s in apart_s(await passes(rig, JobState.DONE))
    )
    assert rig.watcher.problems == []


async def test_two_reconcilers_make_one_pass_after_each_pause(rig: Rig) -> None:
    both = [rig.reconciler("one"), rig.reconciler("two")]
    await both[0].create(JobKind.VERIFY, CONTINUOUS)
    async with serving(*both):
        await until(ended(rig, 3))
    done = await passes(rig, JobState.DONE)
    assert all(pause_s >= PAUSE_S for pause_s in apart_s(done))
    assert len(await passes(rig)) == len(done) + 1


async def test_another_verify_does_not_wait_for_the_pause(rig: Rig) -> None:
    reconciler = rig.reconciler()
    await reconciler.create(JobKind.VERIFY, CONTINUOUS)
    async with serving(reconciler):
        await until(ended(rig, 1))
        asked_s = rig.clock.passed_s
        other = await reconciler.create(JobKind.VERIFY, {})

        async def done() -> bool:
            return (await rig.ledger.job(other.job_id)).state is JobState.DONE

        await until(done)
        assert rig.clock.passed_s - asked_s < 60
        await until(ended(rig, 3))


async def test_whoever_cancels_the_pass_that_waits_ends_it(rig: Rig) -> None:
    reconciler = rig.reconciler()
    await reconciler.create(JobKind.VERIFY, CONTINUOUS)
    async with serving(reconciler):
        await until(ended(rig, 1))
        (waiting,) = await passes(rig, JobState.REQUESTED)
        await rig.ledger.want(waiting.job_id, JobState.CANCELLED)
        await until(later(rig, 3 * PAUSE_S))
    assert [job.state for job in await passes(rig)] == [JobState.DONE, JobState.CANCELLED]


async def test_a_swap_in_the_pause_makes_the_next_pass_one_of_the_new_roles(rig: Rig) -> None:
    reconciler = rig.reconciler()
    await rig.run(JobKind.BACKFILL)
    await reconciler.create(JobKind.VERIFY, CONTINUOUS)
    async with serving(reconciler):
        await until(ended(rig, 1))
        await rig.route(phase=Phase.NEW_PRIMARY, primary="new")
        await until(ended(rig, 3))
    assert not await passes(rig, JobState.FAILED)
    done = await passes(rig, JobState.DONE)
    assert [job.summary["routing"]["primary"] for job in done[:3]] == ["old", "new", "new"]  # type: ignore[index,call-overload]  # a JSON object
    assert all(PAUSE_S <= pause_s < PAUSE_S + 60 for pause_s in apart_s(done))
    assert len(await passes(rig, JobState.REQUESTED)) == 1


@pytest.mark.parametrize("call", ["create_job", "end_job"])
@pytest.mark.parametrize("answered", [False, True])
async def test_a_kill_around_the_end_of_a_pass_leaves_one_series(
    rig: Rig, call: str, answered: bool
) -> None:
    """The next pass is asked for before this one ends: never none, and never two."""
    await rig.reconciler().create(JobKind.VERIFY, CONTINUOUS)
    dying = rig.reconciler("dying", ledger=DiesAt(rig.ledger, call, answered=answered))
    (job,) = await passes(rig)
    with pytest.raises(Killed):
        await dying.run_job(job.job_id)
    rig.clock.passed_s += 60  # its lease is over
    async with serving(rig.reconciler("second")):
        await until(ended(rig, 3))
    done = await passes(rig, JobState.DONE)
    assert all(pause_s >= PAUSE_S for pause_s in apart_s(done))
    assert len(await passes(rig)) == len(done) + 1


async def test_it_ends_with_the_dual_writes_and_says_why(rig: Rig) -> None:
    reconciler = rig.reconciler()
    await reconciler.create(JobKind.VERIFY, CONTINUOUS)
    async with serving(reconciler):
        await until(ended(rig, 1))
        await rig.route(phase=Phase.OLD_ONLY)

        async def failed() -> bool:
            return bool(await passes(rig, JobState.FAILED))

        await until(failed)
    (last,) = await passes(rig, JobState.FAILED)
    assert "old_only" in last.error
    assert not await passes(rig, JobState.REQUESTED)


async def test_a_pass_that_waits_is_not_lost_among_many_other_jobs(rig: Rig) -> None:
    async def many_jobs() -> None:
        for _ in range(JOBS_LOOKED_AT + 1):
            other = await rig.ledger.create_job(JobKind.REPAIR, {})
            await rig.ledger.want(other.job_id, JobState.CANCELLED)

    reconciler = rig.reconciler()
    await reconciler.create(JobKind.VERIFY, CONTINUOUS)
    async with serving(reconciler):
        await until(ended(rig, 1))
        await until(later(rig, 10))
        await many_jobs()
        await until(ended(rig, 2))
    await many_jobs()
    async with serving(rig.reconciler("second")):
        await until(ended(rig, 3))
    assert [job.state for job in await passes(rig)][:3] == [JobState.DONE] * 3
