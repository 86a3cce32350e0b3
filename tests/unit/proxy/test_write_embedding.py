"""Writes get their vectors in the proxy: once, for both stores, and never a silent wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from proxy.config.settings import WriteSettings
from proxy.errors import Reason, Rejected, Unavailable
from proxy.ledger.types import Phase
from proxy.model import Key, Record, Write, WriteOp
from tests.embedding import FakeEmbedder, vector_of
from tests.rig import Rig, context, faulty_stores, replica
from tests.work_items import (
    COLLECTION,
    DIM,
    MODEL,
    OTHER_DIM,
    OTHER_MODEL,
    TWO_SPACES,
    asked,
    config,
    key,
    patch,
    schemas,
    upsert,
    vector,
)

KEY: Key = key(1)
SOON = WriteSettings(late_write_s=0.01, secondary_deadline_s=0.2)
FULL = Rejected("Too many texts wait.", reason=Reason.RESOURCE_EXHAUSTED)
DOWN = Unavailable("The embedder is down.", where="embedder")


def embedder() -> FakeEmbedder:
    return FakeEmbedder({MODEL: DIM, OTHER_MODEL: OTHER_DIM})


@asynccontextmanager
async def running(
    made: FakeEmbedder,
    *,
    overlay: str = "",
    phase: Phase = Phase.DUAL_WRITE,
    replicas: int = 1,
    writes: WriteSettings = SOON,
) -> AsyncIterator[list[Rig]]:
    """Run replicas over one ledger and one pair of stores."""
    stores = faulty_stores(schemas(overlay))
    ledger: Any = None
    async with AsyncExitStack() as stack:
        rigs: list[Rig] = []
        for _ in range(replicas):
            rig = await stack.enter_async_context(
                replica(
                    ledger,
                    stores,
                    writes=writes,
                    embedder=made,
                    specs=config(overlay).collections,
                )
            )
            ledger = rig.ledger
            rigs.append(rig)
        if phase is not Phase.OLD_ONLY:
            primary = "new" if phase in (Phase.NEW_PRIMARY, Phase.NEW_ONLY) else "old"
            await rigs[0].go(phase, primary=primary)
        yield rigs


@pytest.fixture
async def made() -> FakeEmbedder:
    return embedder()


@pytest.fixture
async def rig(made: FakeEmbedder) -> AsyncIterator[Rig]:
    async with running(made) as rigs:
        yield rigs[0]


@pytest.fixture
async def apart(made: FakeEmbedder) -> AsyncIterator[Rig]:
    """A replica whose two stores embed by different models."""
    async with running(made, overlay=TWO_SPACES) as rigs:
        yield rigs[0]


async def stored(rig: Rig, side: str, number: int = 1) -> Record:
    found = await rig.stored(side, key(number), COLLECTION)
    assert found is not None, f"{side} has no item {number}"
    return found


async def vectors(rig: Rig, number: int = 1) -> tuple[bytes | None, bytes | None]:
    return (await stored(rig, "old", number)).vector, (await stored(rig, "new", number)).vector


async def test_a_text_is_embedded_once_and_both_stores_get_the_same_bytes(
    rig: Rig, made: FakeEmbedder
) -> None:
    await rig.plane.write(upsert(title="Plan", description="the cutover"), context())
    assert await vectors(rig) == (vector("Plan the cutover"), vector("Plan the cutover"))
    assert made.texts == [(MODEL, "Plan the cutover")]
    assert await rig.dirty(COLLECTION) == set()


async def test_a_null_field_counts_as_no_text_and_a_field_left_out_of_an_insert_too(
    rig: Rig,
) -> None:
    await rig.plane.write(asked(WriteOp.INSERT, 1, title="Plan"), context())
    await rig.plane.write(upsert(2, title="Plan", description=None), context())
    assert await vectors(rig, 1) == (vector("Plan"), vector("Plan"))
    assert await vectors(rig, 2) == (vector("Plan"), vector("Plan"))


async def test_an_empty_text_has_a_null_vector_and_the_model_is_not_asked(
    rig: Rig, made: FakeEmbedder
) -> None:
    await rig.plane.write(upsert(title="", description=""), context())
    assert await vectors(rig) == (None, None)
    assert made.texts == []


async def test_an_empty_text_is_refused_where_the_vector_is_required(made: FakeEmbedder) -> None:
    overlay = "collections: {work_items: {vector: {required: true}}}\n"
    async with running(made, overlay=overlay) as (rig,):
        with pytest.raises(Rejected) as caught:
            await rig.plane.write(upsert(title="", description=None), context())
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        assert [v.where for v in caught.value.violations] == ["fields.title", "fields.description"]
        await rig.plane.write(upsert(title="Plan", description=None), context())
        assert await vectors(rig) == (vector("Plan"), vector("Plan"))


async def test_a_vector_that_the_writer_brings_wins(rig: Rig, made: FakeEmbedder) -> None:
    given = vector("mine")
    write = Write(
        op=WriteOp.UPSERT, collection=COLLECTION, key=KEY, fields={"title": "T"}, vector=given
    )
    await rig.plane.write(write, context())
    assert await vectors(rig) == (given, given)
    await rig.plane.write(patch(status="done"), context())
    assert await vectors(rig) == (given, given), "a patch of another field keeps it"
    assert made.texts == []


async def test_a_write_that_changes_no_text_keeps_the_vector_and_asks_no_model(
    rig: Rig, made: FakeEmbedder
) -> None:
    await rig.plane.write(upsert(title="A", description="B"), context())
    made.fail = DOWN
    await rig.plane.write(patch(status="done"), context())
    await rig.plane.write(asked(WriteOp.UPSERT, 1, status="open"), context())
    native = Write(op=WriteOp.UPSERT, collection=COLLECTION, key=KEY, fields={"notes": "n"})
    await rig.plane.write(native, context())
    assert await vectors(rig) == (vector("A B"), vector("A B"))
    assert len(made.texts) == 1
    assert await rig.dirty(COLLECTION) == set()


async def test_a_record_without_its_vector_gets_it_by_its_own_text_written_again(rig: Rig) -> None:
    await rig.plane.write(upsert(title="A", description="B"), context())
    bare = Write(op=WriteOp.PATCH, collection=COLLECTION, key=KEY, fields={}, set_vector=True)
    await rig.plane.write(bare, context())
    assert await vectors(rig) == (None, None)
    await rig.plane.write(patch(title="A", description="B"), context())
    assert await vectors(rig) == (vector("A B"), vector("A B"))


@pytest.mark.parametrize("op", [WriteOp.PATCH, WriteOp.UPSERT])
async def test_a_part_of_the_text_is_completed_from_the_stored_record(
    rig: Rig, made: FakeEmbedder, op: WriteOp
) -> None:
    await rig.plane.write(upsert(title="A", description="B"), context())
    await rig.plane.write(asked(op, 1, description="C"), context())
    assert await vectors(rig) == (vector("A C"), vector("A C"))
    await rig.plane.write(asked(op, 1, title="D"), context())
    assert await vectors(rig) == (vector("D C"), vector("D C"))
    assert made.texts == [(MODEL, "A B"), (MODEL, "A C"), (MODEL, "D C")]
    assert await rig.dirty(COLLECTION) == set()


async def test_a_patch_of_a_record_that_is_not_there_is_not_found(rig: Rig) -> None:
    with pytest.raises(Rejected) as caught:
        await rig.plane.write(patch(title="T"), context())
    assert caught.value.reason is Reason.NOT_FOUND


async def test_a_batch_asks_the_model_once_and_follows_its_own_writes(
    rig: Rig, made: FakeEmbedder
) -> None:
    batch = [upsert(n, title=f"T{n}", description="d") for n in range(20)]
    items = await rig.plane.batch(batch, atomic=True, context=context())
    assert all(item.error is None for item in items)
    assert made.calls[MODEL] == 1
    assert await vectors(rig, 7) == (vector("T7 d"), vector("T7 d"))
    twice = [patch(3, title="X"), patch(3, description="Y"), upsert(4, title="Z")]
    for atomic in (False, True):
        items = await rig.plane.batch(twice, atomic=atomic, context=context())
        assert all(item.error is None for item in items)
        assert await vectors(rig, 3) == (vector("X Y"), vector("X Y"))
        assert await vectors(rig, 4) == (vector("Z d"), vector("Z d"))
    assert await rig.dirty(COLLECTION) == set()


@pytest.mark.parametrize("error", [FULL, DOWN])
async def test_a_failing_embedder_fails_the_write_and_nothing_is_written(
    rig: Rig, made: FakeEmbedder, error: Rejected | Unavailable
) -> None:
    made.fail = error
    with pytest.raises(type(error)) as caught:
        await rig.plane.write(upsert(title="A", description="B"), context())
    assert caught.value is error
    assert await rig.stored("old", KEY, COLLECTION) is None
    assert await rig.ledger.unsettled() == 0
    made.fail = None
    await rig.plane.write(upsert(title="A", description="B"), context())
    made.fail = error
    with pytest.raises(type(error)):
        await rig.plane.write(patch(title="C"), context())
    assert (await stored(rig, "old")).fields["title"] == "A"
    assert await rig.dirty(COLLECTION) == set()


async def test_in_a_batch_only_the_writes_that_need_the_model_fail(
    rig: Rig, made: FakeEmbedder
) -> None:
    await rig.plane.write(upsert(title="A", description="B"), context())
    made.fail = DOWN
    batch = [patch(status="done"), upsert(2, title="x", description="y"), patch(notes="n")]
    items = await rig.plane.batch(batch, atomic=False, context=context())
    assert [item.error is DOWN for item in items] == [False, True, False]
    with pytest.raises(Unavailable):
        await rig.plane.batch(batch, atomic=True, context=context())
    assert await rig.stored("old", key(2), COLLECTION) is None


async def test_a_retry_with_its_idempotency_key_is_the_same_request_whatever_was_embedded(
    rig: Rig, made: FakeEmbedder
) -> None:
    write = upsert(title="A", description="B")
    await rig.plane.write(write, context("once"))
    await rig.settled()
    ack = await rig.plane.write(write, context("once"))
    assert ack.replayed


@pytest.mark.parametrize(("phase", "side"), [(Phase.OLD_ONLY, "old"), (Phase.NEW_ONLY, "new")])
async def test_one_store_alone_is_embedded_for_too(
    made: FakeEmbedder, phase: Phase, side: str
) -> None:
    async with running(made, phase=phase) as (rig,):
        await rig.plane.write(upsert(title="A", description="B"), context())
        await rig.plane.write(patch(title="C"), context())
        assert (await stored(rig, side)).vector == vector("C B")
        other = "new" if side == "old" else "old"
        assert await rig.stored(other, KEY, COLLECTION) is None


# Two spaces: each store has vectors of a model of its own.


def other(text: str) -> bytes:
    return vector_of(OTHER_MODEL, text, OTHER_DIM)


async def test_in_two_spaces_each_store_gets_its_own_vector_of_the_same_text(apart: Rig) -> None:
    await apart.plane.write(upsert(title="A", description="B"), context())
    assert await vectors(apart) == (vector("A B"), other("A B"))
    await apart.plane.write(patch(description="C"), context())
    assert await vectors(apart) == (vector("A C"), other("A C"))
    await apart.plane.write(asked(WriteOp.UPSERT, 1, title="D"), context())
    assert await vectors(apart) == (vector("D C"), other("D C"))
    await apart.plane.write(patch(title="", description=None), context())
    assert await vectors(apart) == (None, None)
    assert await apart.dirty(COLLECTION) == set()


async def test_in_two_spaces_a_patch_of_another_field_leaves_both_vectors_right(
    apart: Rig,
) -> None:
    await apart.plane.write(upsert(title="A", description="B"), context())
    await apart.plane.write(patch(status="done"), context())
    assert await vectors(apart) == (vector("A B"), other("A B"))
    assert (await stored(apart, "new")).fields["status"] == "done"


class OneModelDown(FakeEmbedder):
    """Fails for one of its models alone."""

    def __init__(self, model: str) -> None:
        super().__init__({MODEL: DIM, OTHER_MODEL: OTHER_DIM})
        self.down = model

    async def documents(
        self, model: str, texts: Sequence[str], *, deadline_s: float
    ) -> list[bytes]:
        if model == self.down:
            raise DOWN
        return await super().documents(model, texts, deadline_s=deadline_s)


@pytest.mark.parametrize("write", [upsert(title="A", description="B"), patch(title="C")])
async def test_a_secondary_whose_vector_cannot_be_made_leaves_the_key_dirty_and_the_write_stands(
    write: Write,
) -> None:
    made = OneModelDown("")
    async with running(made, overlay=TWO_SPACES) as (rig,):
        await rig.plane.write(upsert(title="A", description="before"), context())
        made.down = OTHER_MODEL
        ack = await rig.plane.write(write, context())
        assert ack.secondary_pending
        assert await rig.dirty(COLLECTION) == {KEY}
        assert (await stored(rig, "old")).fields["title"] == write.fields["title"]


async def test_a_secondary_that_is_written_behind_gets_its_own_vector_there(
    made: FakeEmbedder,
) -> None:
    settings = WriteSettings(ack="primary", late_write_s=0.01)
    async with running(made, overlay=TWO_SPACES, writes=settings) as (rig,):
        gate = rig.stores["new"].gate = asyncio.Event()
        await rig.plane.write(upsert(title="A", description="B"), context())
        assert (await stored(rig, "old")).vector == vector("A B")
        gate.set()
        await rig.writer.drain(timeout_s=5)
        await rig.plane.write(patch(title="C"), context())
        await rig.writer.drain(timeout_s=5)
        assert await vectors(rig) == (vector("C B"), other("C B"))
        assert await rig.dirty(COLLECTION) == set()


async def test_a_model_that_failed_as_the_secondarys_is_asked_again_as_the_primarys() -> None:
    class Once(FakeEmbedder):
        failures = 1

        async def documents(
            self, model: str, texts: Sequence[str], *, deadline_s: float
        ) -> list[bytes]:
            if model == OTHER_MODEL and self.failures:
                self.failures -= 1
                raise DOWN
            return await super().documents(model, texts, deadline_s=deadline_s)

    once = Once({MODEL: DIM, OTHER_MODEL: OTHER_DIM})
    async with running(once, overlay=TWO_SPACES) as (rig,):
        once.hang()
        task = asyncio.create_task(rig.plane.write(upsert(title="A", description="B"), context()))
        async with asyncio.timeout(5):
            while not once.waiting:
                await asyncio.sleep(0)
            await rig.go(Phase.NEW_PRIMARY, primary="new")
        once.release()
        await task
        assert await vectors(rig) == (vector("A B"), other("A B"))


async def test_the_model_of_the_primary_is_the_one_that_a_write_needs() -> None:
    made = OneModelDown(MODEL)
    async with running(made, overlay=TWO_SPACES) as (rig,):
        with pytest.raises(Unavailable):
            await rig.plane.write(upsert(title="A", description="B"), context())
        await rig.go(Phase.NEW_PRIMARY, primary="new")
        ack = await rig.plane.write(upsert(title="A", description="B"), context())
        assert ack.secondary_pending
        assert (await stored(rig, "new")).vector == other("A B")


async def test_a_secondary_without_vectors_gets_the_fields_alone(made: FakeEmbedder) -> None:
    overlay = "collections: {work_items: {old: {columns: {embedding: null}}}}\n"
    async with running(made, overlay=overlay) as (rig,):
        await rig.plane.write(upsert(title="A", description="B"), context())
        assert await vectors(rig) == (None, vector("A B"))
        await rig.plane.write(patch(title="C"), context())
        assert await vectors(rig) == (None, vector("C B"))
        await rig.go(Phase.NEW_PRIMARY, primary="new")
        await rig.plane.write(patch(description="D"), context())
        assert await vectors(rig) == (None, vector("C D"))
        assert await rig.dirty(COLLECTION) == set()


async def test_an_old_store_whose_vectors_nobody_makes_keeps_those_it_has(
    made: FakeEmbedder,
) -> None:
    overlay = "collections: {work_items: {old: {embedding: null}}}\n"
    async with running(made, overlay=overlay) as (rig,):
        known = vector("by an application")
        await rig.stores["old"].apply(
            [
                Write(
                    op=WriteOp.UPSERT,
                    collection=COLLECTION,
                    key=KEY,
                    fields={"title": "A", "description": "B"},
                    vector=known,
                )
            ],
            atomic=True,
            deadline_s=5,
        )
        await rig.plane.write(patch(title="C"), context())
        assert await vectors(rig) == (known, vector("C B"))
        await rig.plane.write(upsert(2, title="E", description="F"), context())
        assert await vectors(rig, 2) == (None, vector("E F"))
        assert await rig.dirty(COLLECTION) == set()


# Waiting for a model.


async def test_a_swap_does_not_wait_for_a_model(rig: Rig, made: FakeEmbedder) -> None:
    await rig.plane.write(upsert(2, title="A", description="B"), context())
    made.hang()
    writes = [upsert(title="C", description="D"), patch(2, description="E")]
    tasks = [asyncio.create_task(rig.plane.write(write, context())) for write in writes]
    async with asyncio.timeout(5):
        while made.waiting < len(tasks):
            await asyncio.sleep(0)
        await rig.go(Phase.NEW_PRIMARY, primary="new")  # returns once every write is under it
    made.release()
    for task in tasks:
        await task
    assert await vectors(rig, 1) == (vector("C D"), vector("C D"))
    assert await vectors(rig, 2) == (vector("A E"), vector("A E"))


async def test_a_client_that_gives_up_while_its_text_waits_has_written_nothing(
    rig: Rig, made: FakeEmbedder
) -> None:
    made.hang()
    with pytest.raises(Unavailable, match="nothing was written"):
        await rig.plane.write(upsert(title="A", description="B"), context(deadline_s=0.05))
    made.release()
    await rig.writer.drain(timeout_s=5)
    assert await rig.stored("old", KEY, COLLECTION) is None


async def test_a_write_asked_for_before_the_phase_changed_is_embedded_for_the_other_store_too(
    made: FakeEmbedder,
) -> None:
    async with running(made, overlay=TWO_SPACES, phase=Phase.OLD_ONLY) as (rig,):
        made.hang()
        task = asyncio.create_task(rig.plane.write(upsert(title="A", description="B"), context()))
        async with asyncio.timeout(5):
            while not made.waiting:
                await asyncio.sleep(0)
            await rig.go(Phase.DUAL_WRITE)
        made.release()
        await task
        assert await vectors(rig) == (vector("A B"), other("A B"))


async def test_a_model_that_hangs_for_the_secondary_costs_its_deadline_and_no_more() -> None:
    class Slow(FakeEmbedder):
        async def documents(
            self, model: str, texts: Sequence[str], *, deadline_s: float
        ) -> list[bytes]:
            if model == OTHER_MODEL:
                await asyncio.Event().wait()
            return await super().documents(model, texts, deadline_s=deadline_s)

    settings = WriteSettings(late_write_s=0.01, secondary_deadline_s=0.05)
    slow = Slow({MODEL: DIM, OTHER_MODEL: OTHER_DIM})
    async with running(slow, overlay=TWO_SPACES, writes=settings) as (rig,):
        async with asyncio.timeout(3):
            ack = await rig.plane.write(upsert(title="A", description="B"), context())
        assert ack.secondary_pending
        assert await rig.dirty(COLLECTION) == {KEY}
