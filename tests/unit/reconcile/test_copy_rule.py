"""The copy rule against live writes that come between any two of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from proxy.config.settings import LATE_WRITE_S
from proxy.errors import Ambiguous, Unavailable
from proxy.ledger.types import JobKind, JobState, Phase
from proxy.model import Key, Record, Write, WriteOp
from reconcile.letters import DeadLetters
from reconcile.ranges import scope_of
from reconcile.snapshot import REPAIR_S_MAX, Step, TooSlow
from reconcile.writing import full_write
from tests.doc_server import delete, document, source
from tests.unit.reconcile.support import Mortal, Rig, Wrapped, doc

FIRST_STEPS = [Step.BEGUN, Step.READ, Step.WRITTEN]


@pytest.fixture
async def rig() -> Rig:
    return await Rig().start()


def changed(number: int = 4) -> Write:
    return document(f"{number:05d}.html", packed=None, content="written live", number=number)


def born() -> Write:
    return document("00004x.html", packed=None, content="born live")


WRITES: dict[str, Callable[[], Write]] = {
    "update": changed,
    "insert": born,
    "delete": lambda: delete("documents", doc(4)),
}


@pytest.mark.parametrize("step", FIRST_STEPS)
@pytest.mark.parametrize("kind", WRITES)
async def test_a_live_write_between_any_two_steps_of_a_backfill_wins(
    rig: Rig, kind: str, step: Step
) -> None:
    await rig.fill(9)
    await rig.put(source(), on="new")

    async def live() -> None:
        await rig.write(WRITES[kind]())

    rig.at(step, _nothing, live)  # the first batch is that of the sources
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    await _settled_and_equal(rig)


async def _nothing() -> None:
    return None


async def _settled_and_equal(rig: Rig) -> None:
    await rig.run(JobKind.REPAIR)
    assert await rig.dirty() == set()
    assert await rig.differing() == []
    assert rig.open_snapshots() == 0


@pytest.mark.parametrize("step", FIRST_STEPS)
@pytest.mark.parametrize("kind", WRITES)
async def test_a_live_write_between_any_two_steps_of_a_repair_wins(
    rig: Rig, kind: str, step: Step
) -> None:
    await rig.fill(9)
    await rig.put(source(), on="new")
    key = WRITES[kind]().key
    await rig.ledger.mark_dirty("documents", [doc(1), key], reason="test")

    async def live() -> None:
        await rig.write(WRITES[kind]())

    rig.at(step, live)
    pair_job = await rig.run(JobKind.REPAIR)
    assert pair_job.state is JobState.DONE
    old, new = await rig.records("old", "documents"), await rig.records("new", "documents")
    assert (key in old) == (key in new) == (kind != "delete")
    assert await rig.dirty() == set()


async def test_a_write_between_steps_1_and_5_leaves_its_key_dirty(rig: Rig) -> None:
    await rig.fill(9)
    bench = rig.reconciler().bench()
    pairs = await bench.pairs(await bench.roles(), ["sources", "documents"])
    copier = bench.copier(DeadLetters(rig.ledger, 0))
    await rig.ledger.mark_dirty("sources", [("rust", "serde")], reason="test")
    await copier.copy_keys(pairs["sources"], [("rust", "serde")])
    await rig.ledger.mark_dirty("documents", [doc(1), doc(2)], reason="test")

    async def live() -> None:
        await rig.write(changed(1))

    rig.at(Step.WRITTEN, live)
    await copier.copy_keys(pairs["documents"], [doc(1), doc(2)])
    assert await rig.dirty() == {("documents", doc(1))}


async def test_two_copies_of_one_key_never_run_at_once(rig: Rig) -> None:
    """The later one cleared the mark, then the earlier one wrote an older state."""
    await rig.fill(9, on="old")
    await rig.fill(9, on="new")
    bench = rig.reconciler().bench()
    pair = (await bench.pairs(await bench.roles(), ["documents"]))["documents"]
    first, second = (bench.copier(DeadLetters(rig.ledger, 0)) for _ in range(2))
    await rig.ledger.mark_dirty("documents", [doc(1)], reason="test")

    async def meanwhile() -> None:
        await rig.write(changed(1))
        copied = await second.copy_keys(pair, [doc(1)])
        assert (copied.stored, copied.in_flight) == (0, 1)

    rig.at(Step.READ, meanwhile)
    await first.copy_keys(pair, [doc(1)])
    assert await rig.dirty() == {("documents", doc(1))}, "it holds the older state by now"
    await second.copy_keys(pair, [doc(1)])
    assert await rig.dirty() == set()
    assert await rig.differing() == []


async def test_what_a_given_up_copy_may_still_write_nobody_else_copies(rig: Rig) -> None:
    """A swap's drain gave up a copy and the reconciler copied the key at once; then the first
    one's write landed, with nobody to know."""
    await rig.fill(9, on="old")
    await rig.fill(9, on="new")
    await rig.ledger.mark_dirty("documents", [doc(1)], reason="test")
    here, there = rig.reconciler("here"), rig.reconciler("there")
    pairs = await here.bench().pairs(await here.bench().roles(), ["documents"])
    silent: Any = Wrapped(rig.new, apply=_no_answer)
    roles = replace(pairs["documents"].roles, secondary=silent)
    lost = replace(pairs["documents"], roles=roles)
    with pytest.raises(Ambiguous):
        await here.bench().copier(DeadLetters(rig.ledger, 0)).copy_keys(lost, [doc(1)])
    other = there.bench().copier(DeadLetters(rig.ledger, 0))
    assert (await other.copy_keys(pairs["documents"], [doc(1)])).in_flight == 1
    rig.clock.passed_s += LATE_WRITE_S + 0.1
    assert (await other.copy_keys(pairs["documents"], [doc(1)])).stored == 1
    assert await rig.dirty() == set()


async def test_a_copier_that_was_stopped_past_its_claims_writes_nothing(rig: Rig) -> None:
    await rig.fill(9, on="old")
    await rig.fill(9, on="new")
    await rig.ledger.mark_dirty("documents", [doc(1)], reason="test")
    bench = rig.reconciler().bench()
    pair = (await bench.pairs(await bench.roles(), ["documents"]))["documents"]

    async def stopped() -> None:
        rig.clock.passed_s += REPAIR_S_MAX + 0.1

    rig.at(Step.READ, stopped)
    with pytest.raises(TooSlow):
        await bench.copier(DeadLetters(rig.ledger, 0)).copy_keys(pair, [doc(1)])
    assert await rig.dirty() == {("documents", doc(1))}


async def test_a_ledger_that_was_away_when_a_copy_ended_is_told_before_the_next_copy(
    rig: Rig,
) -> None:
    """Else a key would stay fenced for the 25 s of a claim that nobody uses any more."""
    await rig.fill(9, on="old")
    await rig.fill(9, on="new")
    await rig.ledger.mark_dirty("documents", [doc(1)], reason="test")
    ledger = Mortal(rig.ledger)
    bench = rig.reconciler(ledger=ledger).bench()
    pair = (await bench.pairs(await bench.roles(), ["documents"]))["documents"]
    copier = bench.copier(DeadLetters(rig.ledger, 0))

    async def away() -> None:
        ledger.die()

    rig.at(Step.WRITTEN, away)
    with pytest.raises(Unavailable):
        await copier.copy_keys(pair, [doc(1)])
    with pytest.raises(Unavailable):
        await copier.copy_keys(pair, [doc(1)])
    assert rig.open_snapshots() == 1
    ledger.rise()
    copied = await copier.copy_keys(pair, [doc(1)])
    assert (copied.rows, copied.in_flight) == (1, 0)
    assert await rig.dirty() == set()
    assert rig.open_snapshots() == 0


async def test_a_key_that_is_clean_by_now_is_not_copied(rig: Rig) -> None:
    await rig.fill(9, on="old")
    bench = rig.reconciler().bench()
    pair = (await bench.pairs(await bench.roles(), ["documents"]))["documents"]
    copied = await bench.copier(DeadLetters(rig.ledger, 0)).copy_keys(pair, [doc(1)])
    assert (copied.rows, copied.stored, copied.in_flight) == (0, 0, 0)


async def _no_answer(*args: object, **kwargs: object) -> object:
    raise Ambiguous("no answer", where="new")


async def test_a_key_in_flight_is_left_out_and_becomes_dirty(rig: Rig) -> None:
    await rig.fill(9)
    intent = await rig.begin_write(changed(4))
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE
    assert doc(4) not in await rig.records("new", "documents")
    assert await rig.dirty() == {("documents", doc(4))}
    assert job.summary["still_dirty"] == 1
    assert job.summary["in_flight"] == 1
    await rig.put(changed(4))
    await rig.end_write(intent)
    await _settled_and_equal(rig)


@pytest.mark.parametrize("lands", ["before", "after"])
async def test_a_delete_in_flight_is_never_undone(rig: Rig, lands: str) -> None:
    await rig.fill(9)
    gone = delete("documents", doc(4))
    intent = await rig.begin_write(gone)
    if lands == "before":
        await rig.put(gone, on="new")

    async def land() -> None:
        await rig.put(gone)
        await rig.end_write(intent)

    rig.at(Step.READ, _nothing, land)
    await rig.run(JobKind.BACKFILL)
    await _settled_and_equal(rig)
    assert doc(4) not in await rig.records("new", "documents")


async def test_a_delete_that_only_the_primary_saw_is_repaired_as_a_delete(rig: Rig) -> None:
    await rig.fill(9, on="both")
    gone = delete("documents", doc(4))
    intent = await rig.begin_write(gone)
    await rig.put(gone, on="old")
    await rig.end_write(intent, clean=False)
    await _settled_and_equal(rig)
    assert doc(4) not in await rig.records("new", "documents")


async def test_a_write_that_ended_on_one_store_only_is_repaired_from_the_primary(rig: Rig) -> None:
    await rig.fill(9, on="both")
    intent = await rig.begin_write(changed(4))
    await rig.put(changed(4), on="new")  # the primary's write failed
    await rig.end_write(intent, clean=False)
    await _settled_and_equal(rig)
    assert (await rig.records("new", "documents"))[doc(4)].fields["content"] == "About 00004.html"


@pytest.mark.parametrize("lands_s", [0.0, 4.0])
async def test_a_copy_that_was_given_up_and_lands_late_overtakes_nothing(
    rig: Rig, lands_s: float
) -> None:
    """The first load of the documents times out, and its rows land some seconds later."""
    await rig.fill(9)
    late: list[Record] = []
    sleep = rig.clock.sleep

    async def load(collection: str, target: Any, chunks: Any, **kwargs: Any) -> Any:
        if collection == "documents" and not late:
            late.extend((await rig.records("old", "documents")).values())
            rig.clock.sleep = land_then(rig.clock.passed_s + lands_s)  # type: ignore[method-assign]  # it lands in a sleep
            raise Ambiguous("no answer in time", where="new", timed_out=True)
        return await rig.new.bulk_load(collection, target, chunks, **kwargs)

    def land_then(at_s: float) -> Any:
        async def slept(delay_s: float) -> None:
            await sleep(delay_s)
            if rig.clock.passed_s >= at_s and late:
                writes = [full_write(scope, record, WriteOp.UPSERT) for record in late]
                late.clear()
                await rig.new.apply(writes, atomic=False, deadline_s=1)
                late.append(NEVER)

        return slept

    scope = scope_of("documents", rig.old.schema, rig.new.schema)
    rig.stores["new"] = Wrapped(rig.new, bulk_load=load)

    async def live() -> None:
        await rig.write(delete("documents", doc(4)), changed(5))

    rig.at(Step.FINISHED, _nothing, live)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert late == [NEVER]
    await _settled_and_equal(rig)


NEVER = Record(collection="documents", key=("rust", "", ""), fields={})


async def test_a_load_that_landed_without_an_answer_is_recognised(rig: Rig) -> None:
    await rig.fill(9)
    lost = 0

    async def lose(*args: Any, **kwargs: Any) -> Any:
        nonlocal lost
        lost += 1
        loaded = await rig.new.bulk_load(*args, **kwargs)
        if lost == 2:
            await rig.write(delete("documents", doc(4)), changed(5))
            raise Ambiguous("the connection was lost", where="new")
        return loaded

    rig.stores["new"] = Wrapped(rig.new, bulk_load=lose)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert job.summary["still_dirty"] == 0
    await _settled_and_equal(rig)


async def test_a_batch_that_does_not_end_in_time_is_tried_smaller(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconcile.snapshot.COPY_S_MAX", 0.1)
    await rig.fill(40)
    sizes: list[int] = []

    async def load(collection: str, target: Any, chunks: Any, **kwargs: Any) -> Any:
        loaded = await rig.new.bulk_load(collection, target, chunks, **kwargs)
        sizes.append(loaded)
        if loaded > 4:
            await asyncio.Event().wait()  # cancelled by the copy's own limit
        return loaded

    rig.stores["new"] = Wrapped(rig.new, bulk_load=load)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert max(sizes) == 10
    assert len([size for size in sizes if size > 4]) < 8
    await _settled_and_equal(rig)


async def test_repair_runs_while_writes_are_held_so_that_a_swap_can_drain(rig: Rig) -> None:
    await rig.fill(9)
    await rig.ledger.mark_dirty("documents", [doc(1)], reason="test")
    await rig.ledger.mark_dirty("sources", [("rust", "serde")], reason="test")
    await rig.route(hold=True)
    job = await rig.run(JobKind.REPAIR)
    assert (job.state, await rig.dirty()) == (JobState.DONE, set())


async def test_a_repair_that_meets_a_swap_goes_on_under_the_new_roles(rig: Rig) -> None:
    await rig.fill(9, on="both")
    await rig.put(changed(4), on="new")
    await rig.ledger.mark_dirty("documents", [doc(4)], reason="test")

    async def swap() -> None:
        await rig.route(phase=Phase.NEW_PRIMARY, primary="new")

    begin = rig.ledger.begin_copy

    async def swap_first(*args: Any, **kwargs: Any) -> Any:
        rig.ledger.begin_copy = begin
        await swap()
        return await begin(*args, **kwargs)

    rig.ledger.begin_copy = swap_first
    await _settled_and_equal(rig)
    assert (await rig.records("old", "documents"))[doc(4)].fields["content"] == "written live"


async def test_a_missing_parent_is_repaired_before_its_child(rig: Rig) -> None:
    await rig.fill(9)
    await rig.ledger.mark_dirty("documents", [doc(1)], reason="test")
    job = await rig.run(JobKind.REPAIR)
    assert (job.state, await rig.dirty()) == (JobState.DONE, set())
    assert doc(1) in await rig.records("new", "documents")
    assert ("rust", "serde") in await rig.records("new", "sources")


async def test_children_on_the_secondary_go_before_the_parent_that_the_primary_lacks(
    rig: Rig,
) -> None:
    await rig.fill(25, on="new", crates=("gone",))
    await rig.ledger.mark_dirty("sources", [("rust", "gone")], reason="test")
    job = await rig.run(JobKind.REPAIR)
    assert (job.state, await rig.dirty()) == (JobState.DONE, set())
    assert not await rig.records("new", "documents")
    assert not await rig.records("new", "sources")


async def test_a_key_that_one_store_cannot_hold_is_not_repaired_and_not_kept_dirty(
    rig: Rig,
) -> None:
    foreign: Key = ("birdeye", "api", "a.html")
    await rig.ledger.mark_dirty("documents", [foreign], reason="test")
    job = await rig.run(JobKind.REPAIR)
    assert (job.state, await rig.dirty()) == (JobState.DONE, set())


async def test_repair_reaches_every_key_however_many_cannot_be_repaired(rig: Rig) -> None:
    await rig.fill(40)
    await rig.put(source(), on="new")
    stuck = [("rust", "no such crate", f"{n}") for n in range(30)]

    async def broken(collection: str, keys: list[Key], **kwargs: Any) -> Any:
        records = await rig.old.get(collection, keys, **kwargs)
        for key in keys:
            if key in stuck:
                write = document(str(key[2]), name="no such crate", packed=None)
                records[key] = type(next(iter(sample.values())))(
                    collection="documents", key=key, fields=write.fields
                )
        return records

    sample = await rig.records("old", "documents")
    rig.stores["old"] = Wrapped(rig.old, get=broken)
    await rig.ledger.mark_dirty("documents", stuck, reason="first")
    rig.clock.passed_s += 1
    await rig.ledger.mark_dirty("documents", [doc(n) for n in range(40)], reason="later")
    job = await rig.run(JobKind.REPAIR)
    assert job.state is JobState.DONE
    assert await rig.dirty() == {("documents", key) for key in stuck}
    assert (job.summary["repaired"], job.summary["left"]) == (40, 30)
    assert len(await rig.ledger.dead_letters()) == 30
