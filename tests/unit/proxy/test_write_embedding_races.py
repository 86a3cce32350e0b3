"""Records that others change while they are written: the vector is of the text beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from proxy.errors import Ambiguous, Reason, Rejected, Unavailable
from proxy.ledger.types import Phase
from proxy.model import Expected, Write, WriteOp
from tests.embedding import FakeEmbedder
from tests.rig import Faulty, Rig, context, faulty_stores, replica
from tests.unit.proxy.test_write_embedding import (
    DOWN,
    KEY,
    SOON,
    embedder,
    other,
    running,
    stored,
    vectors,
)
from tests.work_items import (
    COLLECTION,
    TWO_SPACES,
    asked,
    config,
    patch,
    schemas,
    text_of,
    upsert,
    vector,
)


@pytest.fixture
async def made() -> FakeEmbedder:
    return embedder()


class Between:
    """A store that lets somebody in once, between a read of records and the write that follows."""

    def __init__(self, inner: Faulty) -> None:
        self._inner = inner
        self.meanwhile: list[Write] = []
        self.forever: list[Write] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def apply(self, writes: Sequence[Write], *, atomic: bool, deadline_s: float) -> Any:
        intruders, self.meanwhile = self.meanwhile, []
        for intruder in [*intruders, *self.forever[:1]]:
            await self._inner.apply([intruder], atomic=False, deadline_s=deadline_s)
        self.forever = self.forever[1:]
        return await self._inner.apply(writes, atomic=atomic, deadline_s=deadline_s)


@asynccontextmanager
async def interrupted(made: FakeEmbedder, overlay: str = "") -> AsyncIterator[tuple[Rig, Between]]:
    """A replica whose primary is changed by others just before its writes."""
    stores: dict[str, Any] = dict(faulty_stores(schemas(overlay)))
    between = stores["old"] = Between(stores["old"])
    specs = config(overlay).collections
    async with replica(None, stores, writes=SOON, embedder=made, specs=specs) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await rig.plane.write(upsert(title="A", description="B"), context())
        yield rig, between


def elsewhere(text: str, **fields: str) -> Write:
    """Return what another replica's patch writes to the primary."""
    return Write(
        op=WriteOp.PATCH, collection=COLLECTION, key=KEY, fields=fields, vector=vector(text)
    )


@pytest.mark.parametrize("op", [WriteOp.PATCH, WriteOp.UPSERT])
async def test_a_text_that_another_replica_changed_in_between_is_embedded_again(
    made: FakeEmbedder, op: WriteOp
) -> None:
    async with interrupted(made) as (rig, between):
        between.meanwhile = [elsewhere("A2 B", title="A2")]
        ack = await rig.plane.write(asked(op, 1, description="C"), context())
        old, new = await stored(rig, "old"), await stored(rig, "new")
        assert (old.fields["title"], old.fields["description"]) == ("A2", "C")
        assert old.vector == vector("A2 C"), "not the vector of A C"
        if op is WriteOp.PATCH:
            assert ack.record is not None
            assert ack.record.vector == old.vector
            assert new.fields["title"] == "A2"
        assert new.vector == old.vector


@pytest.mark.parametrize("op", [WriteOp.PATCH, WriteOp.UPSERT])
async def test_the_secondarys_own_vector_follows_the_text_that_the_primary_holds(
    made: FakeEmbedder, op: WriteOp
) -> None:
    async with interrupted(made, TWO_SPACES) as (rig, between):
        between.meanwhile = [elsewhere("A2 B", title="A2")]
        await rig.plane.write(asked(op, 1, description="C"), context())
        assert await vectors(rig) == (vector("A2 C"), other("A2 C"))


async def test_a_record_that_appears_before_its_patch_gets_the_vector_of_its_text(
    made: FakeEmbedder,
) -> None:
    async with interrupted(made) as (rig, between):
        born = asked(WriteOp.INSERT, 2, title="New", description="D")
        between.meanwhile = [replace(born, vector=vector("New D"))]
        await rig.plane.write(patch(2, description="C"), context())
        assert await vectors(rig, 2) == (vector("New C"), vector("New C"))


@pytest.mark.parametrize("op", [WriteOp.PATCH, WriteOp.UPSERT])
async def test_a_record_that_keeps_changing_refuses_the_write_and_nothing_is_written(
    made: FakeEmbedder, op: WriteOp
) -> None:
    async with interrupted(made) as (rig, between):
        between.forever = [elsewhere(f"{n} B", title=str(n)) for n in range(20)]
        secondary = await stored(rig, "new")
        with pytest.raises(Unavailable, match="keeps changing under this write; nothing was"):
            await rig.plane.write(asked(op, 1, description="C"), context("again"))
        last = 19 - len(between.forever)
        old = await stored(rig, "old")
        assert (old.fields["title"], old.fields["description"]) == (str(last), "B")
        assert old.vector == vector(f"{last} B")
        assert await stored(rig, "new") == secondary
        assert await rig.dirty(COLLECTION) == set()
        between.forever = []
        await rig.plane.write(asked(op, 1, description="C"), context("again"))
        assert (await stored(rig, "old")).vector == vector(f"{last} C")


async def test_an_embedder_that_dies_between_refuses_the_write_and_nothing_is_written(
    made: FakeEmbedder,
) -> None:
    async with interrupted(made) as (rig, between):
        between.meanwhile = [elsewhere("A2 B", title="A2")]
        original = made.documents

        async def once(model: str, texts: Sequence[str], *, deadline_s: float) -> list[bytes]:
            if "A2 C" in texts:
                raise DOWN
            return await original(model, texts, deadline_s=deadline_s)

        made.documents = once  # type: ignore[method-assign]  # dies at a text
        with pytest.raises(Unavailable, match="embedder is down"):
            await rig.plane.write(patch(description="C"), context())
        assert (await stored(rig, "old")).vector == vector("A2 B")
        assert await rig.dirty(COLLECTION) == set()


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_batch_whose_record_changed_in_between_is_applied_in_its_order(
    made: FakeEmbedder, atomic: bool
) -> None:
    async with interrupted(made) as (rig, between):
        between.meanwhile = [elsewhere("A2 B", title="A2")]
        batch = [
            upsert(2, title="E", description="F"),
            patch(description="C"),
            patch(title="A3"),
            upsert(title="A4", description="D"),
            patch(description="G"),
            patch(2, description="H"),
        ]
        items = await rig.plane.batch(batch, atomic=atomic, context=context())
        assert [item.error for item in items] == [None] * len(batch)
        for number, text in ((1, "A4 G"), (2, "E H")):
            assert text_of((await stored(rig, "old", number)).fields) == text
            assert await vectors(rig, number) == (vector(text), vector(text))
        assert await rig.dirty(COLLECTION) == set()


async def test_a_batch_goes_no_further_than_a_write_that_may_still_land(
    made: FakeEmbedder,
) -> None:
    async with interrupted(made) as (rig, between):
        apply, lost = between.apply, Ambiguous("The answer is lost.", where="old")

        async def losing(writes: Sequence[Write], **options: Any) -> Any:
            await apply(writes, **options)
            raise lost

        between.apply = losing  # type: ignore[method-assign]  # loses its answer
        batch = [patch(description="C"), patch(title="A2")]
        first, second = await rig.plane.batch(batch, atomic=False, context=context())
        assert first.error is lost
        assert isinstance(second.error, Unavailable)
        assert "was not sent: nobody knows" in second.error.message
        assert (await stored(rig, "old")).vector == vector("A C")
        assert await rig.dirty(COLLECTION) == {KEY}


async def test_an_upsert_of_a_record_that_was_made_or_deleted_in_between_is_made_anew(
    made: FakeEmbedder,
) -> None:
    async with interrupted(made) as (rig, between):
        born = asked(WriteOp.INSERT, 2, title="New", description="D")
        between.meanwhile = [replace(born, vector=vector("New D"), set_vector=True)]
        await rig.plane.write(asked(WriteOp.UPSERT, 2, description="C"), context())
        assert (await stored(rig, "old", 2)).vector == vector("New C")
        between.meanwhile = [Write(op=WriteOp.DELETE, collection=COLLECTION, key=KEY)]
        await rig.plane.write(upsert(title="Z"), context())
        assert (await stored(rig, "old")).vector == vector("Z")


async def test_what_is_expected_of_the_primary_is_not_expected_of_the_secondary(
    made: FakeEmbedder,
) -> None:
    async with running(made) as (rig,):
        await rig.plane.write(upsert(title="A", description="B"), context())
        for op in (WriteOp.UPSERT, WriteOp.PATCH):
            await rig.plane.write(asked(op, 1, title=op.value), context())
            assert rig.stores["old"].applied[-1].expected == Expected(fields={"description": "B"})
            assert rig.stores["new"].applied[-1].expected is None


async def test_a_record_deleted_in_between_is_not_found(made: FakeEmbedder) -> None:
    async with interrupted(made) as (rig, between):
        between.meanwhile = [Write(op=WriteOp.DELETE, collection=COLLECTION, key=KEY)]
        with pytest.raises(Rejected) as caught:
            await rig.plane.write(patch(description="C"), context())
        assert caught.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize("seed", range(5))
async def test_writers_on_two_replicas_leave_the_vector_of_the_text_that_is_there(
    made: FakeEmbedder, seed: int
) -> None:
    async with running(made, replicas=2) as rigs:
        await rigs[0].plane.write(upsert(title="A", description="B"), context())
        print("seed", seed)
        async with asyncio.TaskGroup() as group:
            for n in range(8):
                fields = {"title": f"t{seed}{n}"} if n % 2 else {"description": f"d{seed}{n}"}
                write = asked(WriteOp.PATCH if n % 3 else WriteOp.UPSERT, 1, **fields)
                group.create_task(rigs[(n + seed) % 2].plane.write(write, context()))
        old = await stored(rigs[0], "old")
        assert old.vector == vector(f"{old.fields['title']} {old.fields['description']}")
        new = await stored(rigs[0], "new")
        for rig in rigs:
            await rig.settled()
        if dict(new.fields) != dict(old.fields) or new.vector != old.vector:
            assert await rigs[0].dirty(COLLECTION) == {KEY}
