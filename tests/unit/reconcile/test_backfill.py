"""Backfill copies everything once, resumes, and respects its preconditions."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.config.settings import ReconcileSettings
from proxy.errors import Reason, Rejected, Unavailable
from proxy.ledger.types import JobKind, JobState, Phase
from proxy.model import WriteOp
from reconcile.snapshot import Step
from tests.doc_server import delete, document, source
from tests.unit.reconcile.support import Killed, Mortal, Rig, Wrapped, doc


@pytest.fixture
async def rig() -> Rig:
    return await Rig().start()


async def test_an_empty_migration_is_backfilled_at_once(rig: Rig) -> None:
    job = await rig.run(JobKind.BACKFILL)
    assert (job.state, job.summary["rows"], job.error) == (JobState.DONE, 0, "")
    flags: Any = await rig.ledger.flags()
    assert flags["last_backfill"]["rows"] == 0


async def test_every_record_reaches_the_new_store(rig: Rig) -> None:
    await rig.fill(137, crates=("serde", "tokio", "日本 ünïcode"))
    await rig.put(document("v.html", number=9), on="old")  # one with a real vector
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert await rig.differing() == []
    assert await rig.dirty() == set()
    assert rig.open_snapshots() == 0
    summary: Any = job.summary
    assert summary["collections"]["documents"]["copied"] == 138
    assert summary["collections"]["sources"]["rows"] == 3
    assert job.summary["rows_total"] == job.summary["rows"] == 141
    assert job.summary["eta_s"] == 0.0


async def test_the_index_is_built_after_the_load(rig: Rig) -> None:
    await rig.fill(5)
    assert not (await rig.new.index_states())[0].ready
    await rig.run(JobKind.BACKFILL)
    assert (await rig.new.index_states())[0].ready


async def test_a_second_backfill_writes_nothing(rig: Rig) -> None:
    await rig.fill(40)
    await rig.run(JobKind.BACKFILL)
    written: list[object] = []

    async def refuse(*args: Any, **kwargs: Any) -> Any:
        written.append(args)
        raise AssertionError("nothing may be written")

    rig.stores["new"] = Wrapped(rig.new, apply=refuse, bulk_load=refuse)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert written == []
    assert job.summary["unchanged"] == 41


async def test_rows_that_differ_or_are_extra_on_the_new_store_are_put_right(rig: Rig) -> None:
    await rig.fill(60)
    await rig.put(source(), on="new")
    await rig.put(document("00003.html", packed=None, content="stale"), on="new")
    await rig.put(document("00031x.html", packed=None), on="new")
    await rig.put(document("zzz/tail.html", packed=None), on="new")
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert await rig.differing() == []
    assert await rig.dirty() == set()


async def test_extras_of_a_collection_that_is_empty_on_the_primary_go(rig: Rig) -> None:
    await rig.put(source("gone"), on="new")
    await rig.put(*(document(f"{n}.html", name="gone", packed=None) for n in range(30)), on="new")
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert await rig.differing() == []
    assert await rig.dirty() == set()
    assert not await rig.records("new", "documents")
    assert not await rig.records("new", "sources")


async def test_records_of_another_doc_type_are_left_alone(rig: Rig) -> None:
    await rig.fill(20)
    foreign = [document(f"{n}.html", name="birdeye", packed=None) for n in range(150)]
    for kind in ("birdeye", "zebra"):
        keyed = [type(item)(**{**_parts(item), "key": (kind, *item.key[1:])}) for item in foreign]
        parent = source("birdeye")
        await rig.put(type(parent)(**{**_parts(parent), "key": (kind, "birdeye")}), on="new")
        await rig.put(*keyed, on="new")
    before = {k: v for k, v in (await rig.records("new", "documents")).items() if k[0] != "rust"}
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    verified = await rig.run(JobKind.VERIFY)
    assert verified.summary["clean"] is True
    assert (verified.summary["matched"], verified.summary["extra"]) == (21, 0)
    after = {k: v for k, v in (await rig.records("new", "documents")).items() if k[0] != "rust"}
    assert after == before
    assert await rig.differing() == []


def _parts(write: Any) -> dict[str, Any]:
    return {name: getattr(write, name) for name in type(write).__slots__}


async def test_after_a_swap_the_copy_goes_from_new_to_old(rig: Rig) -> None:
    await rig.fill(50, on="new")
    await rig.put(document("only-old.html", packed=None, op=WriteOp.UPSERT), source("x"), on="new")
    await rig.route(phase=Phase.NEW_PRIMARY, primary="new")
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert await rig.differing() == []
    assert len(await rig.records("old", "documents")) == 51


@pytest.mark.parametrize("phase", [Phase.OLD_ONLY, Phase.NEW_ONLY])
@pytest.mark.parametrize("kind", list(JobKind))
async def test_where_only_one_store_is_written_no_job_runs(kind: JobKind, phase: Phase) -> None:
    rig = await Rig().start(phase=phase, primary="old" if phase is Phase.OLD_ONLY else "new")
    await rig.fill(3)
    await rig.ledger.mark_dirty("documents", [doc(1)], reason="test")
    job = await rig.run(kind)
    assert job.state is JobState.FAILED
    assert phase.value in job.error
    assert not await rig.records("new", "documents")


async def test_backfill_waits_for_every_replica_and_names_the_one_that_lags(rig: Rig) -> None:
    await rig.fill(3)
    await rig.ledger.register_replica("slow-one", address="", lease_s=1e9, ledger_down="refuse")
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.FAILED
    assert "slow-one" in job.error
    assert not await rig.records("new", "documents")


async def test_a_dead_replica_does_not_stop_a_backfill_unless_it_may_write_without_the_ledger(
    rig: Rig,
) -> None:
    await rig.fill(3)
    await rig.ledger.register_replica("dead", address="", lease_s=0.0, ledger_down="refuse")
    assert (await rig.run(JobKind.BACKFILL)).state is JobState.DONE
    await rig.ledger.register_replica("loose", address="", lease_s=0.0, ledger_down="primary_alone")
    assert "loose" in (await rig.run(JobKind.BACKFILL)).error


async def test_a_build_that_a_killed_runner_left_behind_is_waited_for(rig: Rig) -> None:
    await rig.fill(3)
    busy = 3

    async def build_index(collection: str) -> None:
        nonlocal busy
        busy -= 1
        if busy >= 0:
            raise Rejected("somebody else is building it", reason=Reason.FAILED_PRECONDITION)
        await rig.new.build_index(collection)

    rig.stores["new"] = Wrapped(rig.new, build_index=build_index)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert (await rig.new.index_states())[0].ready


async def test_a_build_is_stopped_when_the_job_is(rig: Rig) -> None:
    await rig.fill(3)
    reconciler = rig.reconciler()
    stopped = asyncio.Event()

    async def build_index(collection: str) -> None:
        reconciler.stop()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    rig.stores["new"] = Wrapped(rig.new, build_index=build_index)
    reconciler = rig.reconciler()
    job = await reconciler.run_once(JobKind.BACKFILL, {})
    assert (job.state, stopped.is_set()) == (JobState.REQUESTED, True)
    rig.stores["new"] = rig.new
    assert (await rig.run(JobKind.BACKFILL)).job_id == job.job_id
    assert (await rig.new.index_states())[0].ready


@pytest.mark.parametrize("step", [Step.BEGUN, Step.READ, Step.WRITTEN, Step.FINISHED])
@pytest.mark.parametrize("batch", [0, 3])
async def test_killed_at_any_step_it_resumes_and_repeats_at_most_one_batch(
    rig: Rig, step: Step, batch: int
) -> None:
    await rig.fill(100)
    mortal = Mortal(rig.ledger)
    visits = 0

    async def count() -> None:
        nonlocal visits
        visits += 1
        if visits == batch + 1:
            mortal.die()
            raise Killed

    rig.at(step, *[count] * 50)
    with pytest.raises(Killed):
        await rig.reconciler("first", mortal).run_once(JobKind.BACKFILL, {})
    rig.hooks.clear()
    rig.clock.passed_s += 120  # the lease and the snapshot run out
    done_before = sum(s.tally.get("rows", 0) for s in await rig.ledger.ranges(_job(rig)))
    job = await rig.reconciler("second").run_once(JobKind.BACKFILL, {})
    assert job.job_id == _job(rig)
    assert job.state is JobState.DONE, job.error
    assert await rig.differing() == []
    assert await rig.dirty() == set()
    assert int(str(job.summary["rows"])) == 101
    assert done_before + int(str(job.summary["unchanged"])) <= 101
    assert int(str(job.summary["unchanged"])) <= 10


def _job(rig: Rig) -> int:
    return max(rig.ledger.state.jobs)


async def test_a_resume_skips_nothing_that_was_inserted_behind_the_checkpoint(rig: Rig) -> None:
    await rig.fill(60)
    mortal = Mortal(rig.ledger)

    async def die() -> None:
        mortal.die()
        raise Killed

    async def go_on() -> None:
        return None

    rig.at(Step.FINISHED, go_on, go_on, go_on, die)
    with pytest.raises(Killed):
        await rig.reconciler("first", mortal).run_once(JobKind.BACKFILL, {})
    rig.clock.passed_s += 120
    await rig.write(
        document("00000a.html", packed=None),
        document("zz.html", packed=None),
        delete("documents", doc(2)),
    )
    job = await rig.reconciler("second").run_once(JobKind.BACKFILL, {})
    assert job.state is JobState.DONE, job.error
    assert await rig.differing() == []


async def test_an_unfinished_backfill_is_worth_nothing_after_the_migration_was_in_old_only(
    rig: Rig,
) -> None:
    await rig.fill(60)
    mortal = Mortal(rig.ledger)

    async def die() -> None:
        mortal.die()
        raise Killed

    async def go_on() -> None:
        return None

    rig.at(Step.FINISHED, *[go_on] * 5, die)
    with pytest.raises(Killed):
        await rig.reconciler("first", mortal).run_once(JobKind.BACKFILL, {})
    rig.clock.passed_s += 120
    await rig.route(phase=Phase.OLD_ONLY)
    await rig.put(document("00001.html", packed=None, content="written under old_only"), on="old")
    await rig.put(delete("documents", doc(3)), on="old")
    await rig.route(phase=Phase.DUAL_WRITE)
    stale = await rig.reconciler("second").run_job(_job(rig))
    assert stale.state is JobState.FAILED
    assert "Start a new backfill" in stale.error
    job = await rig.reconciler("second").run_once(JobKind.BACKFILL, {})
    assert job.job_id != stale.job_id
    assert job.state is JobState.DONE, job.error
    assert await rig.differing() == []


async def test_a_backfill_that_was_begun_under_other_roles_is_not_resumed(rig: Rig) -> None:
    await rig.fill(60)

    async def swap() -> None:
        await rig.route(phase=Phase.NEW_PRIMARY, primary="new")

    rig.at(Step.FINISHED, swap)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.FAILED
    assert "from old to new" in job.error
    again = await rig.reconciler().run_job(job.job_id)
    assert again.state is JobState.FAILED
    assert "Start a new backfill" in again.error
    assert len(await rig.records("old", "documents")) == 60  # nothing was deleted the wrong way
    assert rig.open_snapshots() == 0


async def test_a_copier_that_learns_of_the_swap_after_step_1_writes_nothing(rig: Rig) -> None:
    await rig.fill(9)
    wrote: list[str] = []

    async def swap_first(*args: Any, **kwargs: Any) -> Any:
        snapshot = await begin(*args, **kwargs)
        await rig.route(phase=Phase.NEW_PRIMARY, primary="new")
        return snapshot

    async def note(*args: Any, **kwargs: Any) -> Any:
        wrote.append("bulk")
        raise AssertionError

    begin = rig.ledger.begin_copy
    rig.ledger.begin_copy = swap_first
    rig.stores["new"] = Wrapped(rig.new, bulk_load=note, apply=note)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.FAILED
    assert wrote == []


async def test_while_writes_are_held_backfill_waits_and_then_goes_on(rig: Rig) -> None:
    await rig.fill(40)
    held: list[int] = []

    async def hold() -> None:
        await rig.route(hold=True)

    async def release(epoch: int, *, timeout_s: float) -> None:
        held.append(rig.open_snapshots())
        await rig.route(hold=False)

    rig.at(Step.FINISHED, hold)
    rig.ledger.wait_change = release
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert held == [0]  # it waited, with no snapshot open that would hold the swap up
    assert await rig.differing() == []


async def test_a_store_that_comes_back_is_ridden_out_and_one_that_does_not_fails_the_job(
    rig: Rig,
) -> None:
    await rig.fill(20)
    failures = 3

    async def flaky(*args: Any, **kwargs: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Unavailable("the store is down", where="new")
        return await rig.new.bulk_load(*args, **kwargs)

    rig.stores["new"] = Wrapped(rig.new, bulk_load=flaky)
    assert (await rig.run(JobKind.BACKFILL)).state is JobState.DONE

    rig = await Rig().start()
    await rig.fill(20)
    failures = 10**6
    rig.stores["new"] = Wrapped(rig.new, bulk_load=flaky)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.FAILED
    assert "the store is down" in job.error
    failures = 0
    again = await rig.run(JobKind.BACKFILL)
    assert (again.job_id, again.state) == (job.job_id, JobState.DONE)
    assert await rig.differing() == []


async def test_a_bulk_load_that_collides_with_live_writes_ends_by_records(rig: Rig) -> None:
    await rig.fill(10)
    tried = 0

    async def collide(*args: Any, **kwargs: Any) -> Any:
        nonlocal tried
        tried += 1
        raise Rejected("there already", reason=Reason.ALREADY_EXISTS)

    rig.stores["new"] = Wrapped(rig.new, bulk_load=collide)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert await rig.differing() == []
    assert tried == 6  # three tries for each collection, then records


async def test_two_workers_never_have_more_than_two_batches_open() -> None:
    rig = await Rig().start()
    await rig.fill(300)
    most = 0

    async def look() -> None:
        nonlocal most
        for _ in range(10):
            await asyncio.sleep(0)
            most = max(most, rig.open_snapshots())

    rig.at(Step.READ, *[look] * 200)
    job = await rig.reconciler(workers=2).run_once(JobKind.BACKFILL, {})
    assert job.state is JobState.DONE, job.error
    assert most == 2
    assert await rig.differing() == []


@pytest.mark.parametrize(("params", "larger"), [({}, True), ({"batch_rows": 10}, False)])
async def test_loads_are_as_large_as_the_secondary_says_unless_the_job_says_otherwise(
    params: dict[str, int], larger: bool
) -> None:
    rig = await Rig().start()
    rig.settings = ReconcileSettings(batch_rows=10, range_rows=1000, workers=1)
    rig.new.capabilities = replace(rig.new.capabilities, bulk_rows=200)
    await rig.fill(300)
    job = await rig.run(JobKind.BACKFILL, **params)
    assert job.state is JobState.DONE, job.error
    largest = max(seen.rows for seen in rig.watcher.batches if seen.collection == "documents")
    assert (largest > 10) is larger
    assert await rig.differing() == []
