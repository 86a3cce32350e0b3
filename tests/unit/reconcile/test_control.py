"""Jobs obey: pause, resume, cancel, stop; one owner each; bad parameters are all named."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from proxy.errors import LeaseLost, Reason, Rejected, Unavailable
from proxy.ledger.types import Job, JobKind, JobState
from reconcile.jobs import unfinished
from reconcile.service import serve
from reconcile.snapshot import Step
from tests.doc_server import delete, document
from tests.unit.reconcile.support import Rig, Wrapped, doc


@pytest.fixture
async def rig() -> Rig:
    rig = await Rig().start()
    await rig.fill(80)
    return rig


async def until(condition: Any) -> None:
    """Wait for a condition, not for a time."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0)


async def heartbeat() -> None:
    """Let the runner's heartbeat come by."""
    for _ in range(200):
        await asyncio.sleep(0)


@pytest.mark.parametrize("wanted", [JobState.PAUSED, JobState.CANCELLED])
async def test_a_running_job_obeys_between_two_batches(rig: Rig, wanted: JobState) -> None:
    reconciler = rig.reconciler()
    job = await reconciler.create(JobKind.BACKFILL, {})

    async def ask() -> None:
        await rig.ledger.want(job.job_id, wanted)
        await heartbeat()

    rig.at(Step.READ, ask)
    ended = await reconciler.run_job(job.job_id)
    assert ended.state is wanted
    assert 0 < int(str(ended.summary["rows"])) < 81
    assert rig.open_snapshots() == 0
    if wanted is JobState.CANCELLED:
        with pytest.raises(Rejected):
            await reconciler.run_job(job.job_id)
        return
    with pytest.raises(Rejected, match="is paused") as caught:
        await reconciler.run_once(JobKind.BACKFILL, {})
    assert f"`crossfade job resume {job.job_id}`" in caught.value.hint
    await rig.ledger.want(job.job_id, JobState.RUNNING)
    resumed = await reconciler.run_job(job.job_id)
    assert resumed.state is JobState.DONE
    assert resumed.summary["rows"] == 81
    assert await rig.differing() == []


async def test_a_stopped_process_leaves_its_job_for_the_next_one(rig: Rig) -> None:
    first = rig.reconciler("first")

    async def stop() -> None:
        first.stop()

    rig.at(Step.READ, stop)
    job = await first.run_once(JobKind.BACKFILL, {})
    assert (job.state, job.owner) == (JobState.REQUESTED, "")
    resumed = await rig.reconciler("second").run_once(JobKind.BACKFILL, {})
    assert (resumed.job_id, resumed.state) == (job.job_id, JobState.DONE)
    assert await rig.differing() == []


async def test_a_cancelled_task_leaves_no_snapshot_and_no_silent_row(rig: Rig) -> None:
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    async def live() -> None:
        return None

    rig.at(Step.WRITTEN, live, hang)  # the sources pass, the first documents hang
    task = asyncio.ensure_future(rig.reconciler().run_once(JobKind.BACKFILL, {}))
    await reached.wait()
    await rig.write(delete("documents", doc(4)))  # would be resurrected by what was just loaded
    await rig.put(document("00004.html", packed=None), on="new")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.open_snapshots() == 0
    assert ("documents", doc(4)) in await rig.dirty()
    (job,) = await rig.ledger.jobs()
    assert job.state is JobState.REQUESTED
    await rig.run(JobKind.BACKFILL)
    assert await rig.differing() == []


async def test_a_snapshot_that_is_being_taken_when_the_task_is_cancelled_is_forgotten(
    rig: Rig,
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    begin = rig.ledger.begin_copy

    async def slow(*args: Any, **kwargs: Any) -> Any:
        snapshot = await begin(*args, **kwargs)
        begun.set()
        await go.wait()  # the answer is on its way
        return snapshot

    rig.ledger.begin_copy = slow
    task = asyncio.ensure_future(rig.reconciler().run_once(JobKind.BACKFILL, {}))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.open_snapshots() == 0


async def test_a_second_runner_is_turned_away_while_the_first_one_lives(rig: Rig) -> None:
    async def meddle() -> None:
        with pytest.raises(Rejected, match="is run by first") as caught:
            await rig.reconciler("second").run_once(JobKind.BACKFILL, {})
        assert caught.value.reason is Reason.FAILED_PRECONDITION
        (job,) = await rig.ledger.jobs()
        with pytest.raises(Rejected, match="is run by first"):
            await rig.reconciler("second").run_job(job.job_id)

    rig.at(Step.READ, meddle)
    assert (await rig.reconciler("first").run_once(JobKind.BACKFILL, {})).state is JobState.DONE


async def test_a_runner_whose_lease_was_taken_over_stops(rig: Rig) -> None:
    async def lose() -> None:
        (job,) = await rig.ledger.jobs()
        rig.ledger.state.job_leases[job.job_id] = 0.0
        await rig.ledger.claim_job(job.job_id, owner="other", lease_s=1e6)
        await heartbeat()

    rig.at(Step.READ, lose)
    with pytest.raises(LeaseLost):
        await rig.reconciler("first").run_once(JobKind.BACKFILL, {})
    (job,) = await rig.ledger.jobs()
    assert (job.owner, job.state) == ("other", JobState.RUNNING)


async def test_progress_is_told_as_it_goes(rig: Rig) -> None:
    seen: list[Job] = []
    await rig.reconciler().run_once(JobKind.BACKFILL, {}, seen.append)
    rows = [int(str(job.summary.get("rows", 0))) for job in seen]
    assert rows == sorted(rows)
    assert rows[-1] == 81
    stages = [str(job.summary.get("stage")) for job in seen]
    assert stages[-1] == "done"
    assert {"rate_rows_per_s", "eta_s", "rows_total", "elapsed_s"} <= set(seen[-1].summary)
    assert sum(item.rows for item in rig.watcher.batches) == 81
    kinds = [event.kind for event in await rig.ledger.events()]
    assert "backfill.started" in kinds
    assert "backfill.done" in kinds


async def test_every_wrong_parameter_is_named_at_once(rig: Rig) -> None:
    with pytest.raises(Rejected) as caught:
        await rig.run(
            JobKind.VERIFY, collections=["documents", "nope"], dry_run=True, report_only="yes"
        )
    said = {violation.where for violation in caught.value.violations}
    assert said == {"params.collections", "params.dry_run", "params.report_only"}
    with pytest.raises(Rejected) as caught:
        await rig.run(JobKind.BACKFILL, batch_rows=0, workers=1000)
    assert {v.where for v in caught.value.violations} == {"params.batch_rows", "params.workers"}
    assert await rig.ledger.jobs() == []


async def test_a_job_that_fails_by_its_parameters_keeps_which(rig: Rig) -> None:
    job = await rig.ledger.create_job(JobKind.VERIFY, {"nonsense": 1})
    ended = await rig.reconciler().run_job(job.job_id)
    assert ended.state is JobState.FAILED
    assert "params.nonsense: expected one of collections" in ended.error


async def test_a_job_can_be_limited_to_collections(rig: Rig) -> None:
    job = await rig.run(JobKind.BACKFILL, collections=["sources"])
    assert job.state is JobState.DONE
    assert len(await rig.records("new", "sources")) == 1
    assert not await rig.records("new", "documents")
    assert "last_backfill" not in await rig.ledger.flags()


async def test_a_ledger_that_blinks_at_the_end_does_not_lose_the_outcome(rig: Rig) -> None:
    end, failures = rig.ledger.end_job, 2

    async def blink(*args: Any, **kwargs: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Unavailable("the ledger restarts", where="ledger")
        return await end(*args, **kwargs)

    rig.ledger.end_job = blink
    assert (await rig.run(JobKind.BACKFILL)).state is JobState.DONE


# The long-running reconciler.


async def test_the_service_picks_jobs_up_repairs_and_stops(rig: Rig) -> None:
    reconciler = rig.reconciler("service")
    task = asyncio.ensure_future(serve(reconciler))
    job = await reconciler.create(JobKind.BACKFILL, {})

    async def backfilled() -> bool:
        return (await rig.ledger.job(job.job_id)).state is JobState.DONE

    await until(backfilled)
    await rig.put(delete("documents", doc(4)), on="new")
    await rig.ledger.mark_dirty("documents", [doc(4)], reason="verify: missing")

    async def repaired() -> bool:
        return not await rig.dirty() and "last_repair" in await rig.ledger.flags()

    await until(repaired)
    assert await rig.differing() == []
    reconciler.stop()
    await asyncio.wait_for(task, 20)
    assert rig.watcher.problems == []


async def test_the_service_repairs_what_a_dead_replica_left(rig: Rig) -> None:
    await rig.run(JobKind.BACKFILL)
    await rig.ledger.register_replica("dying", address="", lease_s=1.0, ledger_down="refuse")
    routing = await rig.ledger.routing()
    write = document("00004.html", packed=None, content="half written")
    from proxy.ledger.types import IntentDraft

    await rig.ledger.append(
        [IntentDraft(collection="documents", key=write.key, op="upsert")],
        epoch=routing.epoch,
        replica_id="dying",
    )
    await rig.put(write, on="old")
    reconciler = rig.reconciler("service")
    task = asyncio.ensure_future(serve(reconciler))

    async def whole() -> bool:
        return not await rig.differing() and not await rig.ledger.unsettled()

    await until(whole)
    reconciler.stop()
    await asyncio.wait_for(task, 20)
    assert await rig.differing() == []
    assert await rig.dirty() == set()


async def test_the_service_survives_a_ledger_and_a_store_that_fail(rig: Rig) -> None:
    await rig.run(JobKind.BACKFILL)
    real, failures = rig.ledger.dirty_counts, 12

    async def blink() -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Unavailable("the ledger restarts", where="ledger")
        return await real()

    rig.ledger.dirty_counts = blink
    await rig.put(delete("documents", doc(4)), on="new")
    await rig.ledger.mark_dirty("documents", [doc(4)], reason="test")
    reconciler = rig.reconciler("service")
    task = asyncio.ensure_future(serve(reconciler))

    async def repaired() -> bool:
        return not await rig.dirty()

    await until(repaired)
    assert rig.watcher.problems
    reconciler.stop()
    await asyncio.wait_for(task, 20)


async def test_the_service_resumes_a_dead_runners_job_and_obeys_for_it(rig: Rig) -> None:
    jobs = [await rig.reconciler().create(JobKind.VERIFY, {}) for _ in range(2)]
    for job in jobs:
        await rig.ledger.claim_job(job.job_id, owner="dead", lease_s=1.0)
    await rig.ledger.want(jobs[1].job_id, JobState.CANCELLED)
    rig.clock.passed_s += 5
    reconciler = rig.reconciler("service")
    task = asyncio.ensure_future(serve(reconciler))

    async def ended() -> bool:
        states = [(await rig.ledger.job(job.job_id)).state for job in jobs]
        return states == [JobState.DONE, JobState.CANCELLED]

    await until(ended)
    reconciler.stop()
    await asyncio.wait_for(task, 20)
    assert await ended(), "nobody begins them again"
    assert rig.watcher.problems == []


async def test_a_continuous_verify_begins_again(rig: Rig) -> None:
    reconciler = rig.reconciler("service")
    await reconciler.create(JobKind.VERIFY, {"continuous": True, "interval_s": 1})
    task = asyncio.ensure_future(serve(reconciler))

    async def thrice() -> bool:
        jobs = await rig.ledger.jobs(kind=JobKind.VERIFY)
        return sum(job.state is JobState.DONE for job in jobs) >= 3

    await until(thrice)
    reconciler.stop()
    await asyncio.wait_for(task, 20)
    assert await thrice()
    assert rig.watcher.problems == []


async def test_a_continuous_repair_stops_soon_in_the_longest_pause(rig: Rig) -> None:
    reconciler = rig.reconciler()
    job = await reconciler.create(JobKind.REPAIR, {"continuous": True, "interval_s": 3600})
    running = asyncio.ensure_future(reconciler.run_job(job.job_id))

    async def pausing() -> bool:
        return rig.clock.passed_s > 10

    await until(pausing)
    reconciler.stop()
    ended = await asyncio.wait_for(running, 20)
    assert ended.state is JobState.REQUESTED
    assert rig.clock.passed_s < 60


async def test_a_backfill_obeys_its_rate() -> None:
    took: dict[int, float] = {}
    for rate in (0, 1):
        rig = await Rig().start()
        await rig.fill(80)
        job = await rig.run(JobKind.BACKFILL, rows_per_s_max=rate)
        assert job.state is JobState.DONE, job.error
        took[rate] = rig.clock.passed_s
    assert took[1] >= 60
    assert took[0] < 30


async def test_a_slow_primary_slows_the_backfill_down(rig: Rig) -> None:
    async def slow(**kwargs: Any) -> None:
        rig.clock.passed_s += 0.05

    rig.stores["old"] = Wrapped(rig.old, ping=slow)
    await rig.run(JobKind.BACKFILL, primary_latency_ms_max=10)
    assert {0.02, 0.04, 0.08, 0.16} <= {round(delay_s, 2) for delay_s in rig.clock.slept}
    assert await rig.differing() == []


def asked(job_id: int, state: JobState, *, alive: bool = False, **params: Any) -> Job:
    return Job(
        job_id=job_id,
        kind=JobKind.BACKFILL,
        state=state,
        wanted=state,
        epoch=3,
        params=params,
        summary={},
        owner="somebody",
        owner_alive=alive,
        created_at=dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
    )


@pytest.mark.parametrize(
    ("state", "alive"),
    [(JobState.PAUSED, False), (JobState.RUNNING, True), (JobState.RUNNING, False)],
)
def test_whoever_asks_a_running_reconciler_again_joins_its_own_job(
    state: JobState, alive: bool
) -> None:
    jobs = [asked(7, state, alive=alive, workers=2)]
    found = unfinished(jobs, {"workers": 2}, began=3, join=True)
    assert found is jobs[0]
    if alive or state is JobState.PAUSED:
        with pytest.raises(Rejected, match="Job 7"):
            unfinished(jobs, {"workers": 3}, began=3, join=True)
        with pytest.raises(Rejected, match="Job 7"):
            unfinished(jobs, {"workers": 2}, began=3)


def test_a_job_of_an_earlier_period_or_behind_a_finished_one_is_not_resumed() -> None:
    left = asked(7, JobState.REQUESTED)
    assert unfinished([left], {}, began=3) is left
    assert unfinished([left], {}, began=4) is None
    assert unfinished([asked(8, JobState.DONE), left], {}, began=3) is None
