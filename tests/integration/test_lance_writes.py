"""One writer commits for many: order, outcomes, failures, deadlines, parents, and the end of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import LanceSettings
from proxy.errors import Ambiguous, Corrupt, Unavailable
from proxy.ledger.types import Phase
from proxy.model import Applied, Key, Record, Write, WriteOp, WriteResult
from proxy.query import ListQuery
from proxy.stores.lancedb import LanceStore
from proxy.stores.lancedb.group import Changes
from proxy.stores.memory import MemoryStore
from tests.lance import Gate, gone, item, lance, schema, shelf
from tests.rig import Faulty, context, replica


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LanceStore]:
    made = lance(tmp_path)
    await made.open()
    yield made
    await made.close()


async def apply(store: LanceStore, *writes: Write, deadline_s: float = 20) -> list[Applied]:
    results = await store.apply(writes, atomic=False, deadline_s=deadline_s)
    return [result.applied for result in results]


async def get(store: LanceStore, key: str, collection: str = "items") -> Record | None:
    found = await store.get(collection, [(key,)], vectors=True, deadline_s=20)
    return found.get((key,))


async def version(store: LanceStore, collection: str = "items") -> int:
    return int(await store.database.table(collection).handle.version())


async def behind_a_gate(
    store: LanceStore, step: str = "merge"
) -> tuple[Gate, asyncio.Task[object]]:
    """Let a first write reach its commit, and stop there."""
    gate = Gate(store, step)
    first: asyncio.Task[object] = asyncio.create_task(apply(store, item("first")))
    await asyncio.wait_for(gate.reached.wait(), 20)
    return gate, first


async def test_one_commit_serves_all_that_wait(store: LanceStore) -> None:
    gate, first = await behind_a_gate(store)
    others = [asyncio.create_task(apply(store, item(f"k{n}", number=n))) for n in range(64)]
    await until(lambda: store.stats()["queued_rows"] == 64)
    before = await version(store)
    gate.opened.set()
    assert await asyncio.gather(*others) == [[Applied.DONE]] * 64
    await first
    assert await version(store) <= before + 2
    listed = await store.list_keys(ListQuery(collection="items"), deadline_s=20)
    assert len(listed) == 65


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that other tasks bring about."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def test_writes_of_one_key_in_one_group_keep_their_order(store: LanceStore) -> None:
    gate, first = await behind_a_gate(store)
    asked = [
        item("x", title="one"),
        item("x", op=WriteOp.INSERT, title="never"),
        Write(
            op=WriteOp.PATCH, collection="items", key=("x",), fields={"count": 9}, set_vector=False
        ),
        gone("items", "x"),
        gone("items", "x"),
        Write(
            op=WriteOp.PATCH, collection="items", key=("x",), fields={"count": 1}, set_vector=False
        ),
        item("x", op=WriteOp.INSERT, title="two"),
        item("x", title="three", number=3),
    ]

    def queued(rows: int) -> Callable[[], bool]:
        return lambda: store.stats()["queued_rows"] == rows

    tasks = []
    for number, write in enumerate(asked, start=1):
        tasks.append(asyncio.create_task(store.apply([write], atomic=False, deadline_s=20)))
        await until(queued(number))
    gate.opened.set()
    results = [result for (result,) in await asyncio.gather(*tasks)]
    assert [result.applied.value for result in results] == [
        *("done", "exists", "done", "done", "not_found", "not_found", "done", "done"),
    ]
    patched = results[2].record
    assert patched is not None
    assert (patched.fields["title"], patched.fields["count"]) == ("one", 9)
    record = await get(store, "x")
    assert record is not None
    assert record.fields["title"] == "three"
    await first


async def test_a_waiting_write_is_withdrawn_and_a_begun_one_runs_to_its_end(
    store: LanceStore,
) -> None:
    gate, first = await behind_a_gate(store)
    with pytest.raises(Unavailable, match="did not come to the write"):
        await apply(store, item("late"), deadline_s=0.05)
    waiting = asyncio.create_task(apply(store, item("cancelled")))
    await until(lambda: store.stats()["queued_rows"] == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert store.stats()["queued_rows"] == 0
    first.cancel()  # it has begun: whoever asked is gone, the write goes on
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.opened.set()
    assert await apply(store, item("after")) == [Applied.DONE]
    assert await get(store, "first") is not None
    assert await get(store, "late") is None
    assert await get(store, "cancelled") is None


async def test_a_begun_write_past_its_deadline_may_have_been_applied(store: LanceStore) -> None:
    gate = Gate(store, "merge")
    with pytest.raises(Ambiguous) as caught:
        await apply(store, item("slow"), deadline_s=0.1)
    assert caught.value.timed_out
    gate.opened.set()
    assert await apply(store, item("next")) == [Applied.DONE]
    assert await get(store, "slow") is not None


async def test_what_waits_is_bounded(tmp_path: Path) -> None:
    store = lance(tmp_path, settings=LanceSettings(flush_ms=0, queue_rows_max=10))
    await store.open()
    gate, first = await behind_a_gate(store)
    full = asyncio.create_task(apply(store, *(item(f"k{n}") for n in range(10))))
    await until(lambda: store.stats()["queued_rows"] == 10)
    with pytest.raises(Unavailable, match="10 rows wait"):
        await apply(store, item("too much"), deadline_s=0.05)
    gate.opened.set()
    assert await full == [Applied.DONE] * 10
    await first
    assert await apply(store, *(item(f"m{n}") for n in range(30))) == [Applied.DONE] * 30
    await store.close()


async def test_closing_writes_what_waits_and_then_refuses(store: LanceStore) -> None:
    gate, first = await behind_a_gate(store)
    waiting = asyncio.create_task(apply(store, item("waiting")))
    await until(lambda: store.stats()["queued_rows"] == 1)
    closing = asyncio.create_task(store.close())
    gate.opened.set()
    await closing
    assert await waiting == [Applied.DONE]
    await first
    for ask in (apply(store, item("x")), get(store, "x"), store.ping(deadline_s=5)):
        with pytest.raises(Unavailable, match="closed"):
            await ask
    await store.close()


async def test_no_delete_is_told_before_its_own_commit_nor_done_before_the_merge(
    store: LanceStore,
) -> None:
    await apply(store, item("old"))
    gate = Gate(store, "delete")
    both = asyncio.create_task(apply(store, item("new"), gone("items", "old")))
    await asyncio.wait_for(gate.reached.wait(), 20)
    # A crash here would leave this: the merge is there, the delete is not, and nobody was told.
    assert await get(store, "new") is not None
    assert await get(store, "old") is not None
    assert not both.done()
    gate.opened.set()
    assert await both == [Applied.DONE, Applied.DONE]
    assert await get(store, "old") is None


async def test_a_failed_commit_fails_its_own_writes_and_no_others(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apply(store, shelf("a"), item("old"), item("kept"))
    writer = store.writers["items"]
    merge = writer.merge

    async def broken(collection: str, changes: Changes) -> None:
        if collection == "items":
            raise OSError("lance error: the disk is on fire")
        await merge(collection, changes)

    gate, first = await behind_a_gate(store)
    calls = [[shelf("b")], [item("x")], [gone("items", "old")], [gone("items", "none")]]
    tasks = [asyncio.create_task(store.apply(c, atomic=False, deadline_s=20)) for c in calls]
    await until(lambda: store.stats()["queued_rows"] == len(calls))
    gate.opened.set()
    await first
    monkeypatch.setattr(writer, "merge", broken)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    parent, child, delete, nothing = answers
    assert isinstance(parent, list)
    assert isinstance(child, Ambiguous)
    assert "on fire" in str(child)
    assert isinstance(delete, Unavailable)  # it comes after the merge, so it was not tried
    assert isinstance(nothing, list)
    monkeypatch.setattr(writer, "merge", merge)
    assert await get(store, "old") is not None
    assert await apply(store, item("x"), gone("items", "old")) == [Applied.DONE, Applied.DONE]


@pytest.mark.parametrize("fails", ["merge", "delete"])
async def test_what_rests_on_a_commit_that_failed_is_not_told(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A write that was judged by what others of its group were to do has no outcome either."""
    await apply(store, shelf("full"), item("old", shelf="full"), shelf("bare"))

    async def broken(collection: str, what: object) -> None:
        raise OSError("lance error: the disk is on fire")

    gate, first = await behind_a_gate(store, "merge")
    calls = {
        "merge": [[item("x", shelf="bare")], [gone("shelves", "bare")]],
        "delete": [
            [gone("items", "old"), gone("shelves", "full")],
            [item("x", shelf="full")],
            [item("y"), item("z", shelf="full")],
        ],
    }[fails]
    tasks = [asyncio.create_task(store.apply(c, atomic=False, deadline_s=20)) for c in calls]
    await until(lambda: store.stats()["queued_rows"] == sum(map(len, calls)))
    gate.opened.set()
    await first
    monkeypatch.setattr(store.writers["items"], fails, broken)
    doubtful, undone, *partly = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(doubtful, Ambiguous)
    # Nobody deleted the shelf, or put anything on it: "no such shelf" would be no answer.
    assert isinstance(undone, Unavailable)
    assert all(isinstance(answer, Ambiguous) for answer in partly)
    monkeypatch.undo()
    assert await get(store, "y") is not None or fails == "merge"
    assert await apply(store, gone("items", "old"), gone("shelves", "bare")) == [Applied.DONE] * 2


async def test_a_child_and_the_delete_of_its_parent_never_both_succeed(store: LanceStore) -> None:
    for round_ in range(12):
        name = f"s{round_}"
        await apply(store, shelf(name))
        child, parent = await asyncio.gather(
            apply(store, item(f"i{round_}", shelf=name)), apply(store, gone("shelves", name))
        )
        allowed = (
            ([Applied.DONE], [Applied.HAS_CHILDREN]),
            ([Applied.PARENT_MISSING], [Applied.DONE]),
        )
        assert (child, parent) in allowed
        assert (await get(store, name, "shelves") is None) == (parent == [Applied.DONE])


async def test_parents_and_children_of_one_group_are_judged_in_order(store: LanceStore) -> None:
    assert await apply(
        store,
        item("c", shelf="s"),
        shelf("s"),
        item("c", shelf="s"),
        gone("shelves", "s"),
        gone("items", "c"),
        gone("shelves", "s"),
        item("d", shelf="s"),
    ) == [
        Applied.PARENT_MISSING,
        *(Applied.DONE, Applied.DONE, Applied.HAS_CHILDREN, Applied.DONE, Applied.DONE),
        Applied.PARENT_MISSING,
    ]
    moved = Write(
        op=WriteOp.PATCH, collection="items", key=("e",), fields={"shelf": "t"}, set_vector=False
    )
    assert await apply(store, shelf("s"), item("e", shelf="s"), moved, shelf("t"), moved) == [
        *(Applied.DONE, Applied.DONE, Applied.PARENT_MISSING, Applied.DONE, Applied.DONE),
    ]
    assert await apply(store, gone("shelves", "s"), gone("shelves", "t")) == [
        Applied.DONE,
        Applied.HAS_CHILDREN,
    ]


async def test_as_primary_it_deletes_a_parent_after_its_children(store: LanceStore) -> None:
    other = MemoryStore("old", schema(), SystemClock())
    async with replica(None, {"old": Faulty(other), "new": Faulty(store)}) as rig:
        await rig.go(Phase.NEW_PRIMARY, primary="new")
        for write in (shelf("s"), item("a", shelf="s"), item("b", shelf="s")):
            await rig.plane.write(write, context())
        assert (await rig.plane.write(gone("shelves", "s"), context("k"))).existed
        for side in ("old", "new"):
            assert await rig.stored(side, ("s",), "shelves") is None
            assert await rig.stored(side, ("a",), "items") is None
        assert await rig.dirty("items") == set()


async def test_a_key_that_is_there_twice_is_found_out_by_the_counters(store: LanceStore) -> None:
    await apply(store, item("x"))
    handle = store.database.table("items").handle
    await handle.add(await handle.query().to_arrow())
    with pytest.raises(Corrupt, match="updated 2"):
        await apply(store, item("x", title="again"))
    with pytest.raises(Corrupt, match="removed 2"):
        await apply(store, gone("items", "x"))
    assert await apply(store, item("x"), item("y")) == [Applied.DONE] * 2


async def test_a_defect_in_the_writer_is_told_and_does_not_end_it(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(writes: Sequence[Write]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store.writers["items"], "read", broken)
    with pytest.raises(Ambiguous, match="ZeroDivisionError"):
        await apply(store, item("x"))
    monkeypatch.undo()
    assert await apply(store, item("x")) == [Applied.DONE]


async def test_bulk_rows_wait_their_turn_and_come_all_or_none(store: LanceStore) -> None:
    from proxy.stores.arrow import ArrowPlan
    from tests.chunks import encode_records

    fields = sorted(store.schema.stored_value_fields("items"))
    target = await store.bulk_target("items", fields)
    assert target is not None
    assert isinstance(target.plan, ArrowPlan)
    spec = store.schema.collections["items"]
    rows = [
        Record(collection="items", key=write.key, fields=write.fields, vector=write.vector)
        for write in (item(f"k{n}", number=n) for n in range(20))
    ]
    chunks = [encode_records(spec, target.plan, rows[at : at + 7]) for at in (0, 7, 14)]

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    before = await version(store)
    assert await store.bulk_load("items", target, stream(), deadline_s=20) == 20
    assert await version(store) == before + 1
    found = await store.get("items", [row.key for row in rows], vectors=True, deadline_s=20)
    for row in rows:
        assert found[row.key].vector == row.vector
        assert dict(found[row.key].fields) == dict(row.fields)


async def test_results_of_a_large_batch_come_in_its_order(store: LanceStore) -> None:
    writes: list[Write] = []
    expected: list[Applied] = []
    for number in range(1500):
        key: Key = (f"k{number % 700}",)
        fresh = number < 700
        writes.append(item(str(key[0]), op=WriteOp.INSERT, number=number % 5))
        expected.append(Applied.DONE if fresh else Applied.EXISTS)
    results: list[WriteResult] = await store.apply(writes, atomic=False, deadline_s=20)
    assert [result.applied for result in results] == expected
    assert await store.row_estimate("items") == 700
