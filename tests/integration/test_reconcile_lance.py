"""The reconciler between PostgreSQL and LanceDB, both ways, vectors copied and embedded anew."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.clock import SystemClock
from proxy.config.settings import ReconcileSettings, StoreSettings
from proxy.layouts import StoreSchema
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import EventDraft, IntentDraft, Job, JobKind, JobState, Phase, Settlement
from proxy.model import Key, Record, Write, WriteOp
from proxy.query import KeyRange
from proxy.stores.base import Store
from proxy.stores.lancedb.store import LanceStore
from proxy.stores.postgres import PostgresStore
from reconcile.jobs import Reconciler, Tools
from reconcile.snapshot import Step
from tests.embedding import FakeEmbedder, vector_of
from tests.unit.reconcile.support import Killed, Mortal
from tests.work_items import (
    COLLECTION,
    DIM,
    MODEL,
    OTHER_DIM,
    OTHER_MODEL,
    TWO_SPACES,
    create_tables,
    fields,
    item,
    key,
    schemas,
    text_of,
)

ITEMS = 150
ONE_SPACE = ""


@dataclass
class Migration:
    """PostgreSQL and LanceDB in phase dual_write; `primary` says which is which."""

    postgres: PostgresStore
    lance: LanceStore
    ledger: MemoryLedger
    embedder: FakeEmbedder
    dsn: str
    overlay: str

    @property
    def stores(self) -> dict[str, Store]:
        return {"old": self.postgres, "new": self.lance}

    def reconciler(self, *, ledger: Any = None, tools: Tools | None = None) -> Reconciler:
        settings = ReconcileSettings(batch_rows=40, range_rows=60, lease_s=5)
        tools = replace(tools or Tools(), embedder=self.embedder)
        return Reconciler(self.stores, ledger or self.ledger, settings, owner="runner", tools=tools)

    async def run(self, kind: JobKind, **params: Any) -> Job:
        job = await self.reconciler().run_once(kind, params)
        assert job.state is JobState.DONE, job.error
        return job

    async def route(self, phase: Phase, primary: str) -> None:
        now = await self.ledger.routing()
        routing = await self.ledger.change_routing(
            now.epoch,
            replace(now, phase=phase, primary=primary),
            EventDraft(kind="test", actor="test"),
            note="dual_write" if now.phase is Phase.OLD_ONLY else "swap",
        )
        await self.ledger.renew_replica("r1", acked_epoch=routing.epoch, lease_s=300)

    async def write(self, *writes: Write) -> None:
        """Do live dual writes, each store with its own vector."""
        routing = await self.ledger.routing()
        drafts = [IntentDraft(collection=w.collection, key=w.key, op=w.op.value) for w in writes]
        intents = await self.ledger.append(drafts, epoch=routing.epoch, replica_id="r1")
        for name in ("old", "new"):
            own = [self.fitted(write, name) for write in writes]
            await self.stores[name].apply(own, atomic=False, deadline_s=10)
        await self.ledger.settle([Settlement(intent=intent, clean=True) for intent in intents])

    def fitted(self, write: Write, name: str) -> Write:
        if write.op is WriteOp.DELETE or not write.set_vector:
            return write
        return replace(write, vector=self.vector(name, text_of(write.fields)))

    def vector(self, name: str, text: str) -> bytes | None:
        """Return the vector that a store should hold of a text."""
        if not text:
            return None
        if name == "new" and self.overlay == TWO_SPACES:
            return vector_of(OTHER_MODEL, text, OTHER_DIM)
        return vector_of(MODEL, text, DIM)

    async def fill(self, name: str, writes: Sequence[Write]) -> None:
        """Put records into one store alone."""
        own = [self.fitted(write, name) for write in writes]
        results = await self.stores[name].apply(own, atomic=False, deadline_s=20)
        assert {result.applied.value for result in results} <= {"done"}, results

    async def records(self, name: str) -> dict[Key, Record]:
        store = self.stores[name]
        keys = await store.range_keys(COLLECTION, KeyRange(), order="C", deadline_s=10)
        return await store.get(COLLECTION, keys, vectors=True, deadline_s=10)

    async def same(self) -> None:
        """Both stores hold the same records, each with its own vector."""
        old, new = await self.records("old"), await self.records("new")
        assert old.keys() == new.keys()
        for name, side in (("old", old), ("new", new)):
            for record in side.values():
                assert record.vector == self.vector(name, text_of(record.fields)), (name, record)
        assert {k: r.fields for k, r in old.items()} == {k: r.fields for k, r in new.items()}

    async def found(self, job: Job) -> dict[Key, tuple[str, tuple[str, ...]]]:
        differences = await self.ledger.differences(job.job_id)
        return {one.key: (one.kind, one.fields) for one in differences}

    def sql(self, statement: str, *values: Any) -> None:
        """Go behind the proxy's back."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode(), values)


def shorter(schema: StoreSchema) -> StoreSchema:
    """Return the schema of a store that takes notes of 200 characters at most."""
    spec = schema.collections[COLLECTION]
    items = (
        replace(field, length_max=200 if field.name == "notes" else field.length_max)
        for field in spec.fields
    )
    return replace(schema, collections={COLLECTION: replace(spec, fields=tuple(items))})


Maker = Callable[[str], Any]


@pytest.fixture
def migration_of(new_database: Callable[[], str], tmp_path: Path) -> Maker:
    @asynccontextmanager
    async def made(overlay: str) -> AsyncIterator[Migration]:
        dsn, both = new_database(), {**schemas(overlay)}
        both["new"] = shorter(both["new"])
        create_tables(dsn)
        place = StoreSettings(engine="lancedb", uri=str(tmp_path / "lance"))
        clock = SystemClock()
        migration = Migration(
            postgres=PostgresStore("old", dsn, both["old"], pool_min=1, pool_max=4),
            lance=LanceStore("new", place, both["new"], clock),
            ledger=MemoryLedger(clock),
            embedder=FakeEmbedder({MODEL: DIM, OTHER_MODEL: OTHER_DIM}),
            dsn=dsn,
            overlay=overlay,
        )
        try:
            for store in migration.stores.values():
                await store.open()
            register = migration.ledger.register_replica
            await register("r1", address="", lease_s=300, ledger_down="refuse")
            yield migration
        finally:
            for store in migration.stores.values():
                await store.close()

    return made


@pytest.fixture(params=[ONE_SPACE, TWO_SPACES], ids=["copied", "embedded"])
async def migration(request: pytest.FixtureRequest, migration_of: Maker) -> AsyncIterator[Any]:
    async with migration_of(request.param) as made:
        yield made


def history() -> list[Write]:
    """Return records with every trap of the applications' own scripts."""
    writes = [item(number) for number in range(ITEMS)]
    writes += [
        item(ITEMS + 0, progress=None, estimated_hours=None, assignee=None),
        item(ITEMS + 1, created_at=dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC)),
        item(ITEMS + 2, tags=[], dependencies=[], metadata=None, description=None),
        item(ITEMS + 3, metadata={"ä": [1, 2.5, None, {"b": ""}], "a'\"\\": True}, notes="'\n\t"),
        item(ITEMS + 4, title="  ", description=""),
        item(ITEMS + 5, description="x" * 100_000, order_index=2**31 - 1),
    ]
    return writes


COUNT = ITEMS + 6


async def test_history_goes_from_postgresql_to_lancedb_and_back(migration: Migration) -> None:
    await migration.fill("old", history())
    await migration.route(Phase.DUAL_WRITE, "old")
    job = await migration.run(JobKind.BACKFILL)
    assert (job.summary["copied"], job.summary["dead_letters"]) == (COUNT, 0)
    await migration.same()
    verified = await migration.run(JobKind.VERIFY)
    assert (verified.summary["matched"], verified.summary["clean"]) == (COUNT, True)
    embedded = {text for model, text in migration.embedder.texts if model == OTHER_MODEL}
    assert bool(embedded) == (migration.overlay == TWO_SPACES)

    await migration.write(item(3, title="changed"), item(999))
    await migration.route(Phase.NEW_PRIMARY, "new")
    await migration.fill("new", [item(5, title="only here"), item(998)])
    await migration.ledger.mark_dirty(COLLECTION, [key(5), key(998)], reason="test")
    await migration.run(JobKind.REPAIR)
    await migration.same()
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True
    await migration.route(Phase.SHADOW, "old")
    assert (await migration.run(JobKind.VERIFY)).summary["matched"] == COUNT + 2


async def test_history_goes_from_lancedb_to_postgresql(migration: Migration) -> None:
    await migration.fill("new", history())
    await migration.route(Phase.NEW_PRIMARY, "new")
    job = await migration.run(JobKind.BACKFILL)
    assert (job.summary["copied"], job.summary["dead_letters"]) == (COUNT, 0)
    await migration.same()
    verified = await migration.run(JobKind.VERIFY)
    assert (verified.summary["matched"], verified.summary["clean"]) == (COUNT, True)


async def test_verify_names_exactly_the_damaged_records_and_repair_makes_them_equal(
    migration: Migration,
) -> None:
    await migration.fill("old", history())
    await migration.route(Phase.DUAL_WRITE, "old")
    await migration.run(JobKind.BACKFILL)
    wrong = migration.vector("new", "something else")
    await migration.lance.apply(
        [
            item(1, packed=migration.vector("new", text_of(fields(1))), status="lost"),
            item(2, packed=None),
            Write(op=WriteOp.DELETE, collection=COLLECTION, key=key(3)),
            item(900, packed=wrong),
        ],
        atomic=False,
        deadline_s=10,
    )
    migration.sql("UPDATE work_items SET progress = 0.125 WHERE id = %s", key(4)[0])
    job = await migration.run(JobKind.VERIFY)
    assert await migration.found(job) == {
        key(1): ("mismatched", ("status",)),
        key(2): ("mismatched", ("vector",)),
        key(3): ("missing", ()),
        key(4): ("mismatched", ("progress",)),
        key(900): ("extra", ()),
    }
    repaired = await migration.run(JobKind.REPAIR)
    assert repaired.summary["repaired"] == 5
    await migration.same()
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True


async def test_records_that_lancedb_cannot_hold_are_dead_letters_each_with_its_reason(
    migration: Migration,
) -> None:
    await migration.fill("old", history())
    migration.sql("ALTER TABLE work_items ALTER embedding TYPE vector")
    broken = {
        1: ("created_at = 'infinity'", "timestamp too large"),
        2: ("tags = ARRAY[['a', 'b'], ['c', 'd']]", "list"),
        5: ("notes = repeat('ä', 201)", "notes has 201 characters"),
    }
    if migration.overlay == ONE_SPACE:
        broken[3] = ("embedding = '[1,2,3]'", "3 dimensions")
    for number, (change, _) in broken.items():
        migration.sql(f"UPDATE work_items SET {change} WHERE id = %s", key(number)[0])
    migration.sql("UPDATE work_items SET progress = 'NaN' WHERE id = %s", key(4)[0])  # it fits
    expected = {key(number): reason for number, (_, reason) in broken.items()}
    await migration.route(Phase.DUAL_WRITE, "old")
    dry = await migration.run(JobKind.BACKFILL, dry_run=True, full=True)
    assert dry.summary["unconvertible"] == len(expected), str(dry.summary["collections"])
    job = await migration.run(JobKind.BACKFILL)
    letters = {letter.key: letter.reason for letter in await migration.ledger.dead_letters()}
    assert letters.keys() == expected.keys(), letters
    assert all(reason in letters[bad] for bad, reason in expected.items()), letters
    assert job.summary["dead_letters"] == len(expected)
    assert len(await migration.records("new")) == COUNT - len(expected)
    verified = await migration.run(JobKind.VERIFY)
    assert verified.summary["matched"] == COUNT - len(expected)
    assert verified.summary["in_flight"] == len(expected)  # dirty, so that they are repaired
    again = await migration.run(JobKind.BACKFILL)
    assert again.summary["dead_letters"] == len(expected)


@pytest.mark.parametrize("step", [Step.READ, Step.WRITTEN, Step.FINISHED])
async def test_a_killed_backfill_goes_on_and_ends_equal(migration: Migration, step: Step) -> None:
    await migration.fill("old", history())
    await migration.route(Phase.DUAL_WRITE, "old")
    mortal, visits = Mortal(migration.ledger), 0

    async def die(reached: Step) -> None:
        nonlocal visits
        visits += reached is step
        if visits == 2:
            mortal.die()
            raise Killed

    with pytest.raises((Killed, BaseExceptionGroup)):
        await migration.reconciler(ledger=mortal, tools=Tools(reach=die)).run_once(
            JobKind.BACKFILL, {}
        )
    for snapshot in list(migration.ledger.state.snapshots):
        del migration.ledger.state.snapshots[snapshot]
    for job in await migration.ledger.jobs():
        await migration.ledger.end_job(
            job.job_id, owner="runner", state=JobState.REQUESTED, summary={}, error=""
        )
    await migration.run(JobKind.BACKFILL)
    await migration.same()
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True


async def test_live_writes_beside_the_backfill_are_not_lost(migration: Migration) -> None:
    await migration.fill("old", history())
    await migration.route(Phase.DUAL_WRITE, "old")
    numbers = iter(range(1000))

    async def live(step: Step) -> None:
        number = next(numbers)
        await migration.write(
            item(number * 3, title=f"live {number}"),
            item(2000 + number),
            Write(op=WriteOp.DELETE, collection=COLLECTION, key=key(number * 3 + 1)),
        )

    await migration.reconciler(tools=Tools(reach=live)).run_once(JobKind.BACKFILL, {})
    await migration.run(JobKind.REPAIR)
    await migration.same()
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True
