"""Vectors of another model are made from texts: by backfill, repair and drain, judged by verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.cli.local import vectorless
from proxy.config.settings import ReconcileSettings
from proxy.errors import CrossfadeError, Reason, Rejected, Unavailable
from proxy.layouts import StoreSchema
from proxy.ledger.types import Job, JobKind, JobState, Phase
from proxy.model import Key, VectorSpec, Write
from reconcile.made import sampled
from reconcile.repair import Repair
from reconcile.snapshot import Step
from tests.embedding import FakeEmbedder, vector_of
from tests.unit.reconcile.support import Killed, Mortal, Rig
from tests.work_items import (
    COLLECTION,
    DIM,
    MODEL,
    OTHER_DIM,
    OTHER_MODEL,
    TWO_SPACES,
    fields,
    item,
    key,
    schemas,
    text_of,
)

DIMS = {MODEL: DIM, OTHER_MODEL: OTHER_DIM}


class Moody(FakeEmbedder):
    """Fails in turn with what it is given, and always over some texts."""

    def __init__(self) -> None:
        super().__init__(DIMS)
        self.errors: list[CrossfadeError] = []
        self.hopeless: set[str] = set()
        self.answers: dict[str, bytes] = {}

    async def documents(
        self, model: str, texts: Sequence[str], *, deadline_s: float
    ) -> list[bytes]:
        if self.errors:
            raise self.errors.pop(0)
        if self.hopeless.intersection(texts):
            raise Rejected("no token of it is known")
        made = await super().documents(model, texts, deadline_s=deadline_s)
        return [self.answers.get(text, vector) for text, vector in zip(texts, made, strict=True)]


@pytest.fixture
def embedder() -> Moody:
    return Moody()


@pytest.fixture
async def rig(embedder: Moody) -> Rig:
    settings = ReconcileSettings(batch_rows=20, range_rows=50, workers=2)
    rig = await Rig(settings=settings, schemas=schemas(TWO_SPACES), embedder=embedder).start()
    await rig.put(*(item(number) for number in range(60)), on="old")
    return rig


def made(number: int, **given: Any) -> bytes:
    """Return the vector that the new store should hold."""
    return vector_of(OTHER_MODEL, text_of(fields(number, **given)), OTHER_DIM)


async def new_vectors(rig: Rig) -> dict[Key, bytes | None]:
    records = await rig.records("new", COLLECTION)
    return {found: record.vector for found, record in records.items()}


async def differences(rig: Rig, job: Job) -> dict[Key, tuple[str, tuple[str, ...]]]:
    found = await rig.ledger.differences(job.job_id)
    return {one.key: (one.kind, one.fields) for one in found}


def about(job: Job) -> Any:
    collections = job.summary["collections"]
    assert isinstance(collections, Mapping)
    return collections[COLLECTION]


def changed(schema: StoreSchema, vector: VectorSpec | None) -> StoreSchema:
    spec = replace(schema.collections[COLLECTION], vector=vector)
    return replace(schema, collections={COLLECTION: spec})


async def test_backfill_embeds_each_text_once_by_the_new_stores_model(
    rig: Rig, embedder: Moody
) -> None:
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert await new_vectors(rig) == {key(number): made(number) for number in range(60)}
    assert sorted(embedder.texts) == sorted(
        (OTHER_MODEL, text_of(fields(number))) for number in range(60)
    )
    assert about(job)["vectors"] == f"embedded by {OTHER_MODEL}"
    verified = await rig.run(JobKind.VERIFY)
    assert (verified.summary["matched"], verified.summary["clean"]) == (60, True)
    assert about(verified)["vectors"] == f"embedded by {OTHER_MODEL}"


async def test_a_second_backfill_embeds_nothing(rig: Rig, embedder: Moody) -> None:
    await rig.run(JobKind.BACKFILL)
    embedder.texts.clear()
    job = await rig.run(JobKind.BACKFILL)
    assert (job.summary["unchanged"], embedder.texts) == (60, [])


async def test_the_plan_says_where_vectors_come_from(rig: Rig) -> None:
    (planned,) = (await rig.reconciler().plan()).collections
    assert (planned.vectors, planned.path) == (f"embedded by {OTHER_MODEL}", "record")
    rig.stores["old"] = rig.new
    (copied,) = (await rig.reconciler().plan()).collections
    assert (copied.vectors, copied.path) == ("copied", "bulk")


async def test_a_dry_run_embeds_nothing_and_finds_no_fault_with_other_dimensions(
    rig: Rig, embedder: Moody
) -> None:
    job = await rig.run(JobKind.BACKFILL, dry_run=True, full=True)
    assert job.state is JobState.DONE, job.error
    assert about(job)["vectors"] == f"embedded by {OTHER_MODEL}"
    assert (job.summary["unconvertible"], about(job)["checked"]) == (0, 60)
    assert embedder.texts == []


async def test_an_empty_text_has_a_null_vector(rig: Rig) -> None:
    await rig.put(item(70, title="", description=None), on="old")
    job = await rig.run(JobKind.BACKFILL)
    assert job.summary["dead_letters"] == 0
    assert (await new_vectors(rig))[key(70)] is None
    verified = await rig.run(JobKind.VERIFY)
    assert (verified.summary["matched"], verified.summary["clean"]) == (61, True)


async def test_an_empty_text_is_a_dead_letter_where_vectors_are_required(embedder: Moody) -> None:
    both = schemas(TWO_SPACES)
    vector = both["new"].collections[COLLECTION].vector
    assert vector is not None
    both["new"] = changed(both["new"], replace(vector, required=True))
    rig = await Rig(schemas=both, embedder=embedder).start()
    await rig.put(item(1), item(2, title="", description=" "), on="old")
    dry = await rig.run(JobKind.BACKFILL, dry_run=True, full=True)
    assert dry.summary["unconvertible"] == 1
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    (letter,) = await rig.ledger.dead_letters()
    assert (letter.key, "text it is made from is empty" in letter.reason) == (key(2), True)
    assert set(await new_vectors(rig)) == {key(1)}


async def test_a_text_that_cannot_be_embedded_is_a_dead_letter_and_no_other(
    rig: Rig, embedder: Moody
) -> None:
    embedder.hopeless = {text_of(fields(number)) for number in (7, 31)}
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    letters = {letter.key: letter.reason for letter in await rig.ledger.dead_letters()}
    assert set(letters) == {key(7), key(31)}
    assert all(f"cannot be embedded by {OTHER_MODEL}: no token" in why for why in letters.values())
    assert len(await new_vectors(rig)) == 58
    embedder.hopeless.clear()
    rig.clock.passed_s += 60
    await rig.run(JobKind.REPAIR)
    assert await rig.ledger.dead_letters() == []
    assert (await new_vectors(rig))[key(7)] == made(7)


@pytest.mark.parametrize(
    ("useless", "named"),
    [(bytes(4 * OTHER_DIM), "zero vector"), (b"\0\0\xc0\x7f" * OTHER_DIM, "not finite")],
)
async def test_a_useless_vector_is_never_stored(
    rig: Rig, embedder: Moody, useless: bytes, named: str
) -> None:
    embedder.answers[text_of(fields(3))] = useless
    await rig.run(JobKind.BACKFILL)
    (letter,) = await rig.ledger.dead_letters()
    assert (letter.key, named in letter.reason) == (key(3), True)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the worker died", where="embedder"),
        Rejected("too many texts wait", reason=Reason.RESOURCE_EXHAUSTED),
    ],
)
async def test_an_embedder_in_trouble_is_asked_again(
    rig: Rig, embedder: Moody, error: CrossfadeError
) -> None:
    embedder.errors = [error] * 3
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert job.summary["dead_letters"] == 0
    assert len(await new_vectors(rig)) == 60
    assert rig.open_snapshots() == 0


async def test_an_embedder_that_stays_away_fails_the_job_which_goes_on_later(
    rig: Rig, embedder: Moody
) -> None:
    embedder.fail = Unavailable("the worker died", where="embedder")
    job = await rig.run(JobKind.BACKFILL)
    assert (job.state, "the worker died" in job.error) == (JobState.FAILED, True)
    assert await rig.ledger.dead_letters() == []
    embedder.fail = None
    again = await rig.run(JobKind.BACKFILL)
    assert (again.job_id, again.state) == (job.job_id, JobState.DONE)
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True


@pytest.mark.parametrize("kind", [JobKind.BACKFILL, JobKind.VERIFY])
async def test_without_an_embedder_nothing_is_begun(rig: Rig, kind: JobKind) -> None:
    rig.embedder = None
    job = await rig.run(kind)
    assert (job.state, "no embedder" in job.error) == (JobState.FAILED, True)
    assert await new_vectors(rig) == {}
    assert await rig.ledger.dead_letters() == []
    assert await rig.ledger.ranges(job.job_id) == []


async def test_without_an_embedder_dirty_keys_stay_dirty(rig: Rig) -> None:
    rig.embedder = None
    await rig.ledger.mark_dirty(COLLECTION, [key(1)], reason="test")
    job = await rig.run(JobKind.REPAIR)
    assert job.state is JobState.FAILED
    assert await rig.dirty() == {(COLLECTION, key(1))}
    assert await rig.ledger.dead_letters() == []


async def test_vectors_that_nobody_can_make_are_refused_before_a_backfill_begins(
    rig: Rig, embedder: Moody
) -> None:
    both = schemas(TWO_SPACES)
    both["new"] = changed(both["new"], VectorSpec(dim=OTHER_DIM, given=False))
    rig = await Rig(schemas=both, embedder=embedder).start()
    await rig.put(item(1), on="old")
    job = await rig.run(JobKind.BACKFILL)
    assert (job.state, "Nobody can make" in job.error) == (JobState.FAILED, True)
    assert await rig.ledger.ranges(job.job_id) == []
    (planned,) = (await rig.reconciler().plan()).collections
    assert planned.vectors == "none: nobody can make them"


async def test_a_store_without_vectors_gets_none(embedder: Moody) -> None:
    both = schemas(TWO_SPACES)
    layout = both["new"].layouts[COLLECTION]
    columns = tuple(column for column in layout.columns if column.kind.value != "vector")
    both["new"] = replace(
        changed(both["new"], None), layouts={COLLECTION: replace(layout, columns=columns)}
    )
    rig = await Rig(schemas=both, embedder=None).start()
    await rig.put(*(item(number) for number in range(5)), on="old")
    job = await rig.run(JobKind.BACKFILL)
    assert (job.summary["copied"], about(job)["vectors"]) == (5, "none")
    assert set((await new_vectors(rig)).values()) == {None}
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True


async def damage(rig: Rig, number: int, vector: bytes | None, **given: Any) -> None:
    write = item(number, packed=vector, **given)
    await rig.put(write, on="new")


async def test_verify_names_exactly_the_records_whose_vectors_are_wrong(
    rig: Rig, embedder: Moody
) -> None:
    rig.settings = ReconcileSettings(batch_rows=20, range_rows=15, workers=1)  # all are sampled
    await rig.put(item(70, title="", description=""), on="old")
    await rig.run(JobKind.BACKFILL)
    await damage(rig, 5, None)
    await damage(rig, 6, made(7))
    await damage(rig, 8, made(8), status="lost")
    await damage(rig, 70, made(1), title="", description="")
    await damage(rig, 99, made(99))
    job = await rig.run(JobKind.VERIFY)
    assert await differences(rig, job) == {
        key(5): ("mismatched", ("vector",)),
        key(6): ("mismatched", ("vector",)),
        key(8): ("mismatched", ("status",)),
        key(70): ("mismatched", ("vector",)),
        key(99): ("extra", ()),
    }
    shown = [job.summary[name] for name in ("matched", "mismatched", "extra", "in_flight")]
    assert shown == [57, 4, 1, 0]
    await rig.run(JobKind.REPAIR)
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True
    vectors = await new_vectors(rig)
    assert (vectors[key(5)], vectors[key(6)], vectors[key(70)]) == (made(5), made(6), None)


async def test_verify_embeds_a_sample_alone_but_finds_every_null_vector(
    rig: Rig, embedder: Moody
) -> None:
    rig.settings = ReconcileSettings(batch_rows=100, range_rows=1000, workers=1)
    await rig.put(*(item(number) for number in range(60, 600)), on="old")
    await rig.run(JobKind.BACKFILL)
    embedder.texts.clear()
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True
    sampled = list(embedder.texts)
    assert 20 <= len(sampled) <= 60
    lacking = set(range(0, 600, 7))
    for number in lacking:
        await damage(rig, number, None)
    job = await rig.run(JobKind.VERIFY)
    assert set(await differences(rig, job)) == {key(number) for number in lacking}


async def test_each_verify_embeds_other_records_until_it_has_seen_every_one(
    rig: Rig, embedder: Moody
) -> None:
    rig.settings = ReconcileSettings(batch_rows=100, range_rows=1000, workers=1)
    await rig.run(JobKind.BACKFILL)
    seen: list[frozenset[tuple[str, str]]] = []
    for _ in range(30):  # by chance one of 60 keys would be left out once in 3,000
        embedder.texts.clear()
        await rig.run(JobKind.VERIFY)
        seen.append(frozenset(embedder.texts))
    assert {len(texts) for texts in seen} == {20}
    assert len(frozenset().union(*seen)) == 60


def test_a_job_that_is_taken_up_again_samples_the_same_records() -> None:
    keys = [key(number) for number in range(5000)]
    one = sampled(keys, job_id=7)
    assert len(one) == 50
    assert sampled(keys[::-1], job_id=7) == one
    assert set(sampled(keys, job_id=8)) != set(one)


async def test_a_vector_of_a_write_under_way_is_no_difference(rig: Rig) -> None:
    await rig.run(JobKind.BACKFILL)
    intent = await rig.begin_write(item(5))
    await damage(rig, 5, None)
    job = await rig.run(JobKind.VERIFY)
    assert (job.summary["clean"], job.summary["in_flight"]) == (True, 1)
    assert job.summary["matched"] == 59
    await rig.end_write(intent, clean=False)
    await rig.run(JobKind.REPAIR)
    assert (await new_vectors(rig))[key(5)] == made(5)


async def test_after_a_swap_the_old_stores_model_makes_its_vectors(rig: Rig) -> None:
    await rig.run(JobKind.BACKFILL)
    await rig.route(phase=Phase.NEW_PRIMARY, primary="new")
    write = item(5, title="A new title")
    await rig.put(replace(write, vector=made(5, title="A new title")), on="new")
    await rig.ledger.mark_dirty(COLLECTION, [key(5)], reason="test")
    bench = rig.reconciler().bench()
    await Repair(bench, job_id=0, check=lambda: None).until_clean((), rounds_max=3)
    (record,) = (await rig.old.get(COLLECTION, [key(5)], vectors=True, deadline_s=5)).values()
    assert record.vector == write.vector
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True
    await rig.route(phase=Phase.SHADOW, primary="old")
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True


@pytest.mark.parametrize("step", list(Step))
async def test_a_backfill_killed_while_it_embeds_goes_on_and_ends_equal(
    rig: Rig, step: Step
) -> None:
    mortal = Mortal(rig.ledger)

    async def die() -> None:
        mortal.die()
        raise Killed

    rig.at(step, _nothing, die)
    with pytest.raises((Killed, BaseExceptionGroup)):
        await rig.reconciler("first", ledger=mortal).run_once(JobKind.BACKFILL, {})
    rig.hooks.clear()
    rig.clock.passed_s += 120
    await rig.ledger.renew_replica("replica-1", acked_epoch=99, lease_s=1e9)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert await new_vectors(rig) == {key(number): made(number) for number in range(60)}
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True


async def _nothing() -> None:
    """Let the first batch pass."""


async def test_live_writes_beside_an_embedding_backfill_are_not_lost(rig: Rig) -> None:
    async def live() -> None:
        for number in (3, 40, 80):
            intent = await rig.begin_write(item(number))
            await rig.put(item(number, title="live"), on="old")
            await rig.put(live_new(number), on="new")
            await rig.end_write(intent)

    rig.at(Step.READ, _nothing, live)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    vectors = await new_vectors(rig)
    assert all(vectors[key(number)] == made(number, title="live") for number in (3, 40, 80))
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True


def live_new(number: int) -> Write:
    return item(number, packed=made(number, title="live"), title="live")


async def test_records_with_a_text_and_no_vector_are_counted_before_they_are_copied() -> None:
    """A copy leaves them so: whoever plans must know that text searches will not find them."""
    rig = await Rig(schemas=schemas(), embedder=FakeEmbedder(DIMS)).start()
    bare = [item(number, packed=None) for number in range(7)]
    silent = item(7, packed=None, title="", description=None)
    await rig.put(*bare, silent, *(item(number) for number in range(8, 60)), on="old")
    (planned,) = (await rig.reconciler().plan()).collections
    assert planned.vectors == "copied"
    assert (planned.looked_at, planned.no_vector) == (60, 7)
    assert "7 of 60 records" in vectorless(COLLECTION, planned.as_json(), "looked_at")
    trial = about(await rig.run(JobKind.BACKFILL, dry_run=True, full=True))
    assert (trial["checked"], trial["no_vector"]) == (60, 7)
    assert vectorless(COLLECTION, {"no_vector": 0, "checked": 60}, "checked") == ""


async def test_where_vectors_are_made_anew_none_is_lacking(rig: Rig) -> None:
    await rig.put(item(60, packed=None), on="old")
    (planned,) = (await rig.reconciler().plan()).collections
    assert (planned.looked_at, planned.no_vector) == (0, 0)
