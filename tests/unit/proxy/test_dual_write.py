"""The write path keeps rules W1 to W8, whatever the stores, the ledger and the client do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.config.settings import WriteSettings
from proxy.errors import Ambiguous, Reason, Rejected, Unavailable
from proxy.ledger.types import Phase
from proxy.model import Key, Write, WriteOp
from proxy.query import SearchMode
from proxy.stores.base import Capabilities
from tests.rig import Rig, context, faulty_stores, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")
OTHER: Key = ("rust", "serde", "b")
DOWN = Unavailable("gone", where="store")


async def test_old_only_writes_the_old_store_alone_and_no_intent() -> None:
    async with replica() as rig:
        await with_source(rig)
        await rig.plane.write(upsert(KEY), context())
        assert await rig.stored("old", KEY) is not None
        assert await rig.stored("new", KEY) is None
        assert await rig.ledger.unsettled() == 0


async def test_a_dual_write_is_the_same_on_both_and_clean(rig: Rig) -> None:
    ack = await rig.plane.write(upsert(KEY), context())
    assert not ack.secondary_pending
    old, new = await rig.stored("old", KEY), await rig.stored("new", KEY)
    assert old is not None
    assert new is not None
    for name in ("content", "created_at", "original_id", "token_count"):
        assert old.fields[name] == new.fields[name], name
    assert await rig.dirty() == set()


async def test_an_upsert_keeps_what_was_decided_when_the_record_was_made(rig: Rig) -> None:
    await rig.plane.write(upsert(KEY, token_count=5), context())
    first = await rig.stored("new", KEY)
    await rig.plane.write(upsert(KEY, "changed"), context())
    for side in ("old", "new"):
        again = await rig.stored(side, KEY)
        assert first is not None
        assert again is not None
        assert again.fields["content"] == "changed"
        assert again.fields["token_count"] == 5, "a field that was not given stays"
        assert again.fields["original_id"] == first.fields["original_id"]
        assert again.fields["created_at"] == first.fields["created_at"]


async def test_an_upsert_keeps_a_field_left_out_and_nulls_one_given_as_null(rig: Rig) -> None:
    await rig.plane.write(upsert(KEY), context())
    for side in ("old", "new"):
        made = await rig.stored(side, KEY)
        assert made is not None
        assert made.fields["token_count"] is None, "a field left out of a new record"
    await rig.plane.write(upsert(KEY, token_count=5), context())
    cases: list[tuple[dict[str, Any], int | None]] = [({}, 5), ({"token_count": None}, None)]
    for given, expected in cases:
        await rig.plane.write(upsert(KEY, **given), context())
        for side in ("old", "new"):
            stored = await rig.stored(side, KEY)
            assert stored is not None
            assert stored.fields["token_count"] == expected
    assert await rig.dirty() == set()


async def test_a_failing_secondary_never_fails_a_write(rig: Rig) -> None:
    rig.stores["new"].fail_apply = DOWN
    ack = await rig.plane.write(upsert(KEY), context())
    assert ack.secondary_pending
    assert await rig.dirty() == {KEY}


async def test_the_breaker_stops_calling_a_secondary_that_keeps_failing() -> None:
    async with replica(writes=WriteSettings(breaker_failures=3, breaker_open_s=300)) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        rig.stores["new"].fail_apply = DOWN
        for n in range(6):
            rig.stores["new"].entered.clear()
            await rig.plane.write(upsert(("rust", "serde", str(n))), context())
        assert not rig.stores["new"].entered.is_set()
        assert len(await rig.dirty()) == 6, "the ledger took over"


async def test_a_slow_secondary_costs_its_deadline_and_no_more() -> None:
    settings = WriteSettings(secondary_deadline_s=0.05, late_write_s=0.01)
    async with replica(writes=settings) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        rig.stores["new"].gate = asyncio.Event()
        ack = await asyncio.wait_for(rig.plane.write(upsert(KEY), context()), timeout=5)
        assert ack.secondary_pending
        assert await rig.dirty() == {KEY}


async def test_a_refusal_of_the_primary_is_the_answer_and_leaves_both_equal(rig: Rig) -> None:
    orphan = upsert(("rust", "nobody", "a"))
    with pytest.raises(Rejected) as caught:
        await rig.plane.write(orphan, context())
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    assert await rig.dirty() == set(), "both refused alike"


async def test_a_primary_that_refuses_what_the_secondary_took_is_dirty(rig: Rig) -> None:
    await rig.plane.write(upsert(KEY), context())
    await rig.stores["new"].apply(
        [Write(op=WriteOp.DELETE, collection="documents", key=KEY)], atomic=True, deadline_s=5
    )
    insert = Write(op=WriteOp.INSERT, collection="documents", key=KEY, fields={"content": "x"})
    with pytest.raises(Rejected) as caught:
        await rig.plane.write(insert, context())
    assert caught.value.reason is Reason.ALREADY_EXISTS
    assert await rig.dirty() == {KEY}


@pytest.mark.parametrize("timed_out", [True, False])
async def test_an_unknown_outcome_is_told_and_dirty(rig: Rig, timed_out: bool) -> None:
    rig.stores["old"].fail_apply = Ambiguous("who knows", where="old", timed_out=timed_out)
    with pytest.raises(Ambiguous) as caught:
        await rig.plane.write(upsert(KEY), context())
    assert caught.value.timed_out is timed_out
    assert await rig.dirty() == {KEY}


async def test_a_key_stays_unsettled_while_a_write_given_up_may_still_land() -> None:
    async with replica(writes=WriteSettings(late_write_s=0.2)) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        rig.stores["new"].fail_apply = Ambiguous("who knows", where="new")
        await rig.plane.write(upsert(KEY), context())
        await rig.settle.flush()
        assert await rig.ledger.unsettled() == 1, "no copier may touch it yet (step 2)"
        assert await rig.ledger.dirty_counts() == {}
        assert await rig.dirty() == {KEY}


async def test_a_cancelled_client_does_not_stop_its_write(rig: Rig) -> None:
    for store in rig.stores.values():
        store.gate = asyncio.Event()
        store.entered.clear()
    calling = asyncio.create_task(rig.plane.write(upsert(KEY), context()))
    await asyncio.gather(*(store.entered.wait() for store in rig.stores.values()))
    calling.cancel()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()
    for store in rig.stores.values():
        assert store.gate is not None
        store.gate.set()
    assert await rig.writer.drain(timeout_s=5) == 0
    assert await rig.stored("old", KEY) == await rig.stored("old", KEY)
    assert await rig.stored("old", KEY) is not None
    assert await rig.stored("new", KEY) is not None
    assert await rig.dirty() == set()


async def test_a_client_out_of_time_hears_so_and_the_write_ends(rig: Rig) -> None:
    gate = rig.stores["old"].gate = asyncio.Event()
    with pytest.raises(Ambiguous) as caught:
        await rig.plane.write(upsert(KEY), context(deadline_s=0.02))
    assert caught.value.timed_out
    gate.set()
    await rig.writer.drain(timeout_s=5)
    assert await rig.stored("old", KEY) is not None


async def test_writes_of_one_key_are_applied_in_one_order_on_both(rig: Rig) -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(30):
            group.create_task(rig.plane.write(upsert(KEY, str(n)), context()))
    old, new = await rig.stored("old", KEY), await rig.stored("new", KEY)
    assert old is not None
    assert new is not None
    assert old.fields["content"] == new.fields["content"]
    assert await rig.dirty() == set()


async def test_two_replicas_that_overlap_on_a_key_leave_it_dirty() -> None:
    stores = faulty_stores()
    async with replica(stores=stores) as one, replica(one.ledger, stores) as two:
        await one.go(Phase.DUAL_WRITE)
        await with_source(one)
        await one.settle.flush()
        gate = stores["old"].gate = asyncio.Event()
        stores["old"].entered.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(one.plane.write(upsert(KEY, "1"), context()))
            await stores["old"].entered.wait()
            stores["old"].entered.clear()
            group.create_task(two.plane.write(upsert(KEY, "2"), context()))
            await stores["old"].entered.wait()
            gate.set()
        await one.settle.flush()
        assert await two.dirty() == {KEY}


async def test_a_patch_changes_what_it_names_and_reaches_the_secondary_whole(rig: Rig) -> None:
    await rig.plane.write(upsert(KEY, "before", token_count=3), context())
    patch = Write(
        op=WriteOp.PATCH,
        collection="documents",
        key=KEY,
        fields={"content": "after"},
        set_vector=False,
    )
    ack = await rig.plane.write(patch, context())
    assert ack.record is not None
    assert ack.record.fields["token_count"] == 3
    for side in ("old", "new"):
        record = await rig.stored(side, KEY)
        assert record is not None
        assert (record.fields["content"], record.fields["token_count"]) == ("after", 3)
    assert await rig.dirty() == set()


async def test_a_patch_of_nothing_changes_nothing_anywhere(rig: Rig) -> None:
    patch = Write(
        op=WriteOp.PATCH, collection="documents", key=KEY, fields={"content": "x"}, set_vector=False
    )
    with pytest.raises(Rejected) as caught:
        await rig.plane.write(patch, context())
    assert caught.value.reason is Reason.NOT_FOUND
    assert await rig.stored("new", KEY) is None
    assert await rig.dirty() == set()


async def test_a_batch_gives_each_item_its_own_outcome(rig: Rig) -> None:
    await rig.plane.write(upsert(KEY), context())
    insert = Write(op=WriteOp.INSERT, collection="documents", key=KEY, fields={"content": "x"})
    items = await rig.plane.batch([insert, upsert(OTHER)], atomic=False, context=context())
    assert isinstance(items[0].error, Rejected)
    assert items[1].ack is not None
    assert await rig.stored("new", OTHER) is not None
    assert await rig.dirty() == set()


async def test_an_atomic_batch_is_all_or_nothing_and_names_the_culprit(rig: Rig) -> None:
    await rig.plane.write(upsert(KEY), context())
    insert = Write(op=WriteOp.INSERT, collection="documents", key=KEY, fields={"content": "x"})
    with pytest.raises(Rejected) as caught:
        await rig.plane.batch([upsert(OTHER), insert], atomic=True, context=context())
    assert caught.value.reason is Reason.ALREADY_EXISTS
    assert await rig.stored("old", OTHER) is None
    assert await rig.stored("new", OTHER) is None
    assert await rig.dirty() == set()


async def test_a_store_without_transactions_refuses_an_atomic_batch_before_anything_is_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = frozenset({SearchMode.VECTOR})
    plain = Capabilities(transactions=False, search_modes=modes)
    monkeypatch.setattr(rig.stores["old"], "capabilities", plain, raising=False)
    with pytest.raises(Rejected, match="no transactions") as caught:
        await rig.plane.batch([upsert(KEY), upsert(OTHER)], atomic=True, context=context())
    assert caught.value.reason is Reason.UNIMPLEMENTED
    assert await rig.stored("old", KEY) is None
    assert await rig.stored("new", KEY) is None
    assert await rig.dirty() == set()
    items = await rig.plane.batch([upsert(KEY), upsert(OTHER)], atomic=False, context=context())
    assert all(item.ack is not None for item in items)
    assert (await rig.plane.batch([upsert(KEY)], atomic=True, context=context()))[0].ack


async def test_an_atomic_batch_that_was_answered_is_answered_again_by_a_store_without_transactions(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W7 holds across a swap of the primary: a retry is no new batch."""
    writes, named = [upsert(KEY), upsert(OTHER)], context(idempotency_key="batch")
    first = await rig.plane.batch(writes, atomic=True, context=named)
    await rig.settled()
    plain = Capabilities(transactions=False, search_modes=frozenset({SearchMode.VECTOR}))
    monkeypatch.setattr(rig.stores["old"], "capabilities", plain, raising=False)
    again = await rig.plane.batch(writes, atomic=True, context=named)
    assert all(item.ack is not None for item in [*first, *again])
    with pytest.raises(Rejected, match="no transactions"):
        await rig.plane.batch(writes, atomic=True, context=context(idempotency_key="another"))


async def test_deleting_a_source_deletes_its_documents_on_both_stores(rig: Rig) -> None:
    for n in range(7):
        await rig.plane.write(upsert(("rust", "serde", str(n))), context())
    await with_source(rig, "tokio")
    await rig.plane.write(upsert(("rust", "tokio", "a")), context())
    delete = Write(op=WriteOp.DELETE, collection="sources", key=("rust", "serde"))
    assert (await rig.plane.write(delete, context())).existed
    for side in ("old", "new"):
        for n in range(7):
            assert await rig.stored(side, ("rust", "serde", str(n))) is None
        assert await rig.stored(side, ("rust", "tokio", "a")) is not None
    assert await rig.dirty() == set()
    assert await rig.dirty("sources") == set()


async def test_delete_where_deletes_each_key_that_matched(rig: Rig) -> None:
    from proxy.query import Compare, CompareOp

    for n in range(5):
        await rig.plane.write(upsert(("rust", "serde", str(n)), token_count=n), context())
    few = Compare(field="token_count", op=CompareOp.LT, value=3)
    assert await rig.plane.delete_where("documents", few, context=context()) == 3
    for side in ("old", "new"):
        assert await rig.stored(side, ("rust", "serde", "2")) is None
        assert await rig.stored(side, ("rust", "serde", "3")) is not None


async def test_records_that_only_the_new_store_can_hold_wait_for_the_cutover(rig: Rig) -> None:
    bird = upsert(("birdeye", "docs", "a"))
    with pytest.raises(Rejected) as caught:
        await rig.plane.write(bird, context())
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    assert "one_sided_records" in str(caught.value)


async def test_by_configuration_such_records_live_on_the_new_store_alone() -> None:
    async with replica(writes=WriteSettings(one_sided_records="new_alone")) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await rig.plane.write(
            Write(op=WriteOp.UPSERT, collection="sources", key=("birdeye", "docs"), fields={}),
            context(),
        )
        await rig.plane.write(upsert(("birdeye", "docs", "a")), context())
        assert await rig.stored("new", ("birdeye", "docs", "a")) is not None
        assert await rig.dirty() == set()


async def test_each_store_numbers_the_records_that_it_answers_for() -> None:
    async with replica(writes=WriteSettings(one_sided_records="new_alone")) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        # The old store has been in use for years.
        await rig.stores["old"].next_ids("documents", "original_id", 1000)
        flask = Write(op=WriteOp.UPSERT, collection="sources", key=("python", "flask"), fields={})
        await rig.plane.write(flask, context())
        for key in (("python", "flask", "a"), KEY, ("python", "flask", "b"), OTHER):
            await rig.plane.write(upsert(key), context())
        for side, keys in (("old", (KEY, OTHER)), ("new", (("python", "flask", "a"),))):
            for key in keys:
                record = await rig.stored(side, key)
                assert record is not None
                number = record.fields["original_id"]
                assert isinstance(number, int)
                assert (number > 1000) == (side == "old")


async def test_a_field_the_primary_cannot_hold_is_refused_by_name(rig: Rig) -> None:
    with pytest.raises(Rejected, match="metadata"):
        await rig.plane.write(upsert(KEY, metadata={"a": 1}), context())


async def test_too_many_writes_in_flight_are_refused_not_queued() -> None:
    async with replica(writes=WriteSettings(in_flight_max=2)) as rig:
        await with_source(rig)
        gate = rig.stores["old"].gate = asyncio.Event()
        writing = [
            asyncio.create_task(rig.plane.write(upsert(key), context())) for key in (KEY, OTHER)
        ]
        while rig.writer.in_flight < 2:
            await asyncio.sleep(0)
        with pytest.raises(Rejected) as caught:
            await rig.plane.write(upsert(("rust", "serde", "c")), context())
        assert caught.value.reason is Reason.RESOURCE_EXHAUSTED
        gate.set()
        await asyncio.gather(*writing)
