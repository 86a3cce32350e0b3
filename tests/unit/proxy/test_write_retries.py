"""A write that is retried, given up or answered early is done once and told truly."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.config.settings import WriteSettings
from proxy.errors import Ambiguous, Corrupt, CrossfadeError, Reason, Rejected, Unavailable
from proxy.ledger.types import Phase
from proxy.model import Key, Write, WriteOp
from proxy.query import ListQuery
from tests.rig import Rig, context, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")
OTHER: Key = ("rust", "serde", "b")
DOWN = Unavailable("gone", where="store")


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
async def test_a_write_whose_client_gave_up_before_it_began_is_dropped(rig: Rig, how: str) -> None:
    gate = rig.stores["old"].gate = asyncio.Event()
    rig.stores["old"].entered.clear()
    first = asyncio.create_task(rig.plane.write(upsert(KEY, "first"), context()))
    await rig.stores["old"].entered.wait()
    deadline_s = 10.0 if how == "cancelled" else 0.02
    second = asyncio.create_task(
        rig.plane.write(upsert(KEY, "second"), context(deadline_s=deadline_s))
    )
    while rig.writer.in_flight < 2:
        await asyncio.sleep(0)
    if how == "cancelled":
        second.cancel()
    expected = asyncio.CancelledError if how == "cancelled" else Unavailable
    with pytest.raises(expected):
        await second
    gate.set()
    await first
    await rig.writer.drain(timeout_s=5)
    stored = await rig.stored("old", KEY)
    assert stored is not None
    assert stored.fields["content"] == "first"
    assert len(rig.stores["new"].applied) == 2, "the source and the first write"


@pytest.mark.parametrize("op", [WriteOp.UPSERT, WriteOp.PATCH])
async def test_a_secondary_slower_than_the_client_waits_does_not_fail_the_write(
    rig: Rig, op: WriteOp
) -> None:
    await rig.plane.write(upsert(KEY), context())
    gate = rig.stores["new"].gate = asyncio.Event()
    write = replace(upsert(KEY, "changed"), op=op)
    ack = await rig.plane.write(write, context(deadline_s=0.3))
    assert ack.secondary_pending
    assert await rig.ledger.fenced("documents", [KEY]) == {KEY}
    gate.set()
    await rig.writer.drain(timeout_s=5)
    assert await rig.dirty() == set()
    stored = await rig.stored("new", KEY)
    assert stored is not None
    assert stored.fields["content"] == "changed"


async def test_ack_primary_accepts_a_retried_insert_that_was_applied() -> None:
    async with replica(writes=WriteSettings(ack="primary", late_write_s=0.01)) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        inner = rig.stores["old"]
        await inner.apply([insert_of("x")], atomic=True, deadline_s=5)
        inner.fail_apply = Ambiguous("lost", where="old")
        with pytest.raises(Ambiguous):
            await rig.plane.write(insert_of("x"), context("k"))
        await rig.writer.drain(timeout_s=5)
        await rig.settled()
        inner.fail_apply = None
        assert (await rig.plane.write(insert_of("x"), context("k"))).key == KEY


async def test_ack_primary_answers_every_item_of_a_batch() -> None:
    async with replica(writes=WriteSettings(ack="primary")) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        refused = upsert(KEY, metadata={"a": 1})
        items = await rig.plane.batch([refused, upsert(OTHER)], atomic=False, context=context())
        assert isinstance(items[0].error, Rejected)
        assert items[1].ack is not None
        await rig.writer.drain(timeout_s=5)


async def test_ack_primary_answers_before_the_secondary_and_fences_until_then() -> None:
    async with replica(writes=WriteSettings(ack="primary")) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        await rig.writer.drain(timeout_s=5)
        gate = rig.stores["new"].gate = asyncio.Event()
        ack = await rig.plane.write(upsert(KEY), context())
        assert ack.secondary_pending
        assert await rig.ledger.fenced("documents", [KEY]) == {KEY}
        gate.set()
        await rig.writer.drain(timeout_s=5)
        assert await rig.dirty() == set()
        assert await rig.stored("new", KEY) is not None


async def test_a_retry_with_its_idempotency_key_is_answered_from_the_record(rig: Rig) -> None:
    insert = Write(op=WriteOp.INSERT, collection="documents", key=KEY, fields={"content": "x"})
    first = await rig.plane.write(insert, context("k"))
    await rig.settle.flush()
    second = await rig.plane.write(insert, context("k"))
    assert not first.replayed
    assert second.replayed
    assert second.key == KEY


async def test_a_retry_after_an_unknown_outcome_is_safe(rig: Rig) -> None:
    insert = Write(op=WriteOp.INSERT, collection="documents", key=KEY, fields={"content": "x"})
    inner = rig.stores["old"]
    await inner.apply([insert], atomic=True, deadline_s=5)
    inner.fail_apply = Ambiguous("applied, but the answer was lost", where="old")
    with pytest.raises(Ambiguous):
        await rig.plane.write(insert, context("k"))
    await rig.settled()
    inner.fail_apply = None
    ack = await rig.plane.write(insert, context("k"))
    assert ack.key == KEY


def insert_of(content: str) -> Write:
    return Write(op=WriteOp.INSERT, collection="documents", key=KEY, fields={"content": content})


@pytest.mark.parametrize("failure", [DOWN, Ambiguous("lost", where="old")])
async def test_a_retried_insert_does_not_take_the_record_of_another_for_its_own(
    rig: Rig, failure: CrossfadeError
) -> None:
    rig.stores["old"].fail_apply = failure
    with pytest.raises(type(failure)):
        await rig.plane.write(insert_of("mine"), context("k"))
    await rig.settled()
    rig.stores["old"].fail_apply = None
    await rig.plane.write(upsert(KEY, "another's"), context())
    with pytest.raises(Rejected) as caught:
        await rig.plane.write(insert_of("mine"), context("k"))
    assert caught.value.reason is Reason.ALREADY_EXISTS
    kept = await rig.stored("old", KEY)
    assert kept is not None
    assert kept.fields["content"] == "another's"


async def test_a_retry_of_what_was_certainly_not_applied_is_a_first_try(rig: Rig) -> None:
    await rig.plane.write(upsert(KEY, "another's"), context())
    with pytest.raises(Rejected):
        await rig.plane.write(insert_of("mine"), context("k"))
    await rig.settled()
    assert await rig.ledger.recall("k#0") is None


async def test_a_retry_that_failed_does_not_forget_that_the_first_try_may_have_worked(
    rig: Rig,
) -> None:
    inner = rig.stores["old"]
    await inner.apply([insert_of("x")], atomic=True, deadline_s=5)
    for failure in (Ambiguous("lost", where="old"), DOWN):
        inner.fail_apply = failure
        with pytest.raises(type(failure)):
            await rig.plane.write(insert_of("x"), context("k"))
        await rig.settled()
    inner.fail_apply = None
    assert (await rig.plane.write(insert_of("x"), context("k"))).key == KEY


async def test_a_retry_after_a_commit_that_counted_wrong_finds_its_own_record(rig: Rig) -> None:
    """A store finds out what it calls Corrupt after it has committed, too."""
    inner = rig.stores["old"]
    await inner.apply([insert_of("x")], atomic=True, deadline_s=5)
    inner.fail_apply = Corrupt("a merge of 1 record updated 2")
    with pytest.raises(Corrupt):
        await rig.plane.write(insert_of("x"), context("k"))
    assert await rig.dirty() == {KEY}
    inner.fail_apply = None
    assert (await rig.plane.write(insert_of("x"), context("k"))).key == KEY


async def test_a_retried_insert_that_cannot_be_proven_says_neither_yes_nor_no(rig: Rig) -> None:
    inner = rig.stores["old"]
    await inner.apply([insert_of("x")], atomic=True, deadline_s=5)
    inner.fail_apply = Ambiguous("lost", where="old")
    with pytest.raises(Ambiguous):
        await rig.plane.write(insert_of("x"), context("k"))
    await rig.settled()
    inner.fail_apply, inner.fail_reads = None, DOWN
    with pytest.raises(Unavailable, match="whose it is"):
        await rig.plane.write(insert_of("x"), context("k"))


async def test_allocated_keys_survive_a_retry(rig: Rig) -> None:
    insert = Write(
        op=WriteOp.INSERT,
        collection="crate_configs",
        key=(),
        fields={"name": "serde"},
        set_vector=False,
    )
    rig.stores["old"].fail_apply = Ambiguous("lost", where="old")
    with pytest.raises(Ambiguous):
        await rig.plane.write(insert, context("k"))
    await rig.settled()
    rig.stores["old"].fail_apply = None
    first_key = (await rig.dirty("crate_configs")).pop()
    ack = await rig.plane.write(insert, context("k"))
    assert ack.key == first_key, "the retry did not make a second record"


async def test_two_inserts_at_once_under_one_idempotency_key_make_one_record(rig: Rig) -> None:
    insert = Write(
        op=WriteOp.INSERT,
        collection="crate_configs",
        key=(),
        fields={"name": "serde"},
        set_vector=False,
    )
    # The first keeps a flush of the ledger under way, so that the other two share the next one.
    outcomes = await asyncio.gather(
        rig.plane.write(upsert(KEY), context()),
        *(rig.plane.write(insert, context("k")) for _ in range(2)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(error, Unavailable) for error in refused)
    keys = {write.key for write in rig.stores["old"].applied if write.collection == "crate_configs"}
    assert len(keys) == 1


async def test_a_retried_delete_of_a_source_spares_one_that_was_made_since(rig: Rig) -> None:
    delete = Write(op=WriteOp.DELETE, collection="sources", key=("rust", "serde"))
    await rig.plane.write(upsert(KEY), context())
    assert (await rig.plane.write(delete, context("k"))).existed
    await rig.settled()
    await with_source(rig)
    await rig.plane.write(upsert(OTHER), context())
    again = await rig.plane.write(delete, context("k"))
    assert again.replayed
    assert again.existed
    for side in ("old", "new"):
        assert await rig.stored(side, ("rust", "serde"), "sources") is not None
        assert await rig.stored(side, OTHER) is not None


async def test_a_delete_of_a_source_goes_on_when_a_document_comes_between(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = Write(op=WriteOp.DELETE, collection="sources", key=("rust", "serde"))
    await rig.plane.write(upsert(KEY), context())
    real = rig.stores["old"].list_keys

    async def too_early(query: ListQuery, *, deadline_s: float) -> list[Key]:
        monkeypatch.setattr(rig.stores["old"], "list_keys", real)
        return []

    monkeypatch.setattr(rig.stores["old"], "list_keys", too_early, raising=False)
    assert (await rig.plane.write(delete, context("k"))).existed
    assert await rig.stored("new", KEY) is None
