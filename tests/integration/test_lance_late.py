"""A commit that outlasts its deadline: nothing is repaired before it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import ReconcileSettings, WriteSettings
from proxy.errors import Ambiguous, Corrupt, Rejected, Unavailable
from proxy.layouts import Column, Layout, StoreSchema
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import JobKind, JobState, Phase
from proxy.model import CollectionSpec, FieldSpec, FieldType, Write, WriteOp, WriteResult
from proxy.query import KeyRange
from proxy.stores.lancedb import LanceStore
from proxy.stores.lancedb.store import of_several
from proxy.stores.memory import MemoryStore
from reconcile.jobs import Reconciler, Tools
from tests.lance import Gate, item, lance, schema
from tests.rig import Faulty, context, replica

ALL = KeyRange()
DOWN = Unavailable("not begun", where="new")
REFUSED = Rejected("not one of these")
BEGUN = Ambiguous("begun", where="new")
BROKEN = Corrupt("a key twice")
DONE: list[WriteResult] = []


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LanceStore]:
    made = lance(tmp_path)
    await made.open()
    yield made
    await made.close()


def two_families() -> StoreSchema:
    """Return the schema with a collection that nothing binds to the others."""
    made = schema()
    notes = CollectionSpec(
        name="notes", key=("note",), fields=(FieldSpec(name="note", type=FieldType.TEXT),)
    )
    layout = Layout(collection="notes", table="note", columns=(Column(name="note", field="note"),))
    return StoreSchema(
        collections={**made.collections, "notes": notes},
        layouts={**made.layouts, "notes": layout},
    )


@pytest.mark.parametrize("first", ["notes", "items"])
async def test_a_batch_that_one_of_two_writers_has_begun_is_not_told_as_undone(
    tmp_path: Path, first: str
) -> None:
    store = lance(tmp_path, data=two_families())
    await store.open()
    note, other = (Write(op=WriteOp.UPSERT, collection="notes", key=(name,)) for name in ("a", "b"))
    notes, items = Gate(store, "merge", "notes"), Gate(store, "merge", "items")
    before = asyncio.create_task(store.apply([other], atomic=False, deadline_s=20))
    await asyncio.wait_for(notes.reached.wait(), 20)
    batch = [note, item("k")] if first == "notes" else [item("k"), note]
    with pytest.raises(Ambiguous):
        await store.apply(batch, atomic=False, deadline_s=0.5)
    assert items.reached.is_set()
    notes.opened.set()
    items.opened.set()
    await before
    await store.close()


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([DOWN, DOWN], Unavailable),
        ([DOWN, REFUSED], Unavailable),
        ([REFUSED, DOWN], Rejected),
        ([DONE, DOWN], Ambiguous),
        ([REFUSED, DONE], Ambiguous),
        ([DOWN, BEGUN], Ambiguous),
        ([DOWN, BROKEN], Corrupt),
        ([BROKEN, BEGUN], Ambiguous),
        ([DOWN, asyncio.CancelledError()], asyncio.CancelledError),
    ],
)
def test_what_several_writers_say_together_is_what_is_certain_of_all(
    answers: list[list[WriteResult] | BaseException], told: type[BaseException]
) -> None:
    assert type(of_several("new", answers)) is told


async def ask_all(store: LanceStore, deadline_s: float) -> list[BaseException | None]:
    """Read as the reconciler does, in each way; return what each raised."""

    async def page() -> None:
        async with store.page("items", ALL, limit=9, order="C", deadline_s=deadline_s) as found:
            assert found.keys

    fields = ("title",)
    asked = (
        page(),
        store.landed("items", deadline_s=deadline_s),
        store.range_keys("items", ALL, order="C", deadline_s=deadline_s),
        store.digest("items", ALL, fields=fields, order="C", deadline_s=deadline_s),
        store.key_digests("items", ALL, fields=fields, order="C", deadline_s=deadline_s),
    )
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return [answer if isinstance(answer, BaseException) else None for answer in answers]


async def test_the_reconcilers_reads_wait_for_a_write_that_was_given_up_and_others_do_not(
    store: LanceStore,
) -> None:
    await store.apply([item("k", title="before")], atomic=False, deadline_s=20)
    gate = Gate(store, "merge")
    write = store.apply([item("k", title="after")], atomic=False, deadline_s=1.0)
    writing = asyncio.create_task(write)
    await gate.reached.wait()
    assert await ask_all(store, 20) == [None] * 5  # somebody still waits for it
    with pytest.raises(Ambiguous):
        await writing
    for error in await ask_all(store, 0.1):
        assert isinstance(error, Unavailable)
        assert "still has a write of shelves, items that was given up" in str(error)
    found = await store.get("items", [("k",)], vectors=False, deadline_s=20)
    assert found["k",].fields["title"] == "before"
    waiting = asyncio.create_task(ask_all(store, 20))
    gate.opened.set()
    assert await waiting == [None] * 5
    found = await store.get("items", [("k",)], vectors=False, deadline_s=20)
    assert found["k",].fields["title"] == "after"


async def test_a_write_that_a_caller_left_behind_is_waited_for_too(store: LanceStore) -> None:
    await store.apply([item("k", title="before")], atomic=False, deadline_s=20)
    gate = Gate(store, "merge")
    write = store.apply([item("k", title="after")], atomic=False, deadline_s=20)
    writing = asyncio.create_task(write)
    await gate.reached.wait()
    writing.cancel()
    await asyncio.wait([writing])
    with pytest.raises(Unavailable, match="was given up"):
        await store.landed("items", deadline_s=0.1)
    gate.opened.set()
    await store.landed("items", deadline_s=20)


async def test_a_commit_that_lands_long_after_its_deadline_is_never_lost_on_the_other_store(
    store: LanceStore,
) -> None:
    clock = SystemClock()
    old = MemoryStore("old", schema(), clock)
    ledger = MemoryLedger(clock)
    writes = WriteSettings(primary_deadline_s=1.0, late_write_s=0.0)
    sides = {"old": Faulty(old), "new": Faulty(store)}
    async with replica(ledger, sides, writes=writes) as rig:
        for phase in (Phase.DUAL_WRITE, Phase.SHADOW):
            await rig.go(phase)
        await rig.go(Phase.RAMP, percent=100)
        await rig.go(Phase.NEW_PRIMARY, primary="new", percent=100)
        await rig.plane.write(item("k", title="before"), context())
        await rig.settled()
        assert not await rig.dirty("items")
        gate = Gate(store, "merge")
        with pytest.raises(Ambiguous):
            await rig.plane.write(item("k", title="after"), context())
        await rig.settled()
        assert await rig.dirty("items") == {("k",)}

        tools = Tools(clock=clock)
        reconciler = Reconciler(
            {"old": old, "new": store}, ledger, ReconcileSettings(), owner="me", tools=tools
        )
        repair = asyncio.create_task(reconciler.run_once(JobKind.REPAIR, {}))
        await asyncio.wait([repair], timeout=0.5)
        assert not repair.done()
        assert await rig.dirty("items") == {("k",)}
        gate.opened.set()
        job = await asyncio.wait_for(repair, 30)
        assert job.state is JobState.DONE
        for side in ("old", "new"):
            stored = await rig.stored(side, ("k",), "items")
            assert stored is not None
            assert stored.fields["title"] == "after"
        assert not await rig.dirty("items")
