"""The reconciler between two real PostgreSQL databases, with the ledger in a third."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from proxy.config.settings import ReconcileSettings
from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.types import EventDraft, IntentDraft, Job, JobKind, JobState, Phase, Settlement
from proxy.model import Key, Write
from proxy.stores.postgres import PostgresStore
from reconcile.jobs import Reconciler, Tools
from reconcile.snapshot import Step
from tests.doc_server import create_tables, delete, document, schemas, source

CRATES = ("serde", "tokio", "Zebra", "ümläut 日本", "quote'\"\\back")
DOCS = 300


@dataclass
class Migration:
    """Two databases and a ledger, in phase dual_write, with one live replica."""

    old: PostgresStore
    new: PostgresStore
    ledger: PostgresLedger
    dsns: dict[str, str]

    def reconciler(
        self, owner: str = "runner", tools: Tools | None = None, **given: Any
    ) -> Reconciler:
        settings = ReconcileSettings.model_validate(
            {"batch_rows": 40, "range_rows": 90, "lease_s": 5, **given}
        )
        stores = {"old": self.old, "new": self.new}
        return Reconciler(stores, self.ledger, settings, owner=owner, tools=tools)

    async def run(self, kind: JobKind, **params: Any) -> Job:
        return await self.reconciler().run_once(kind, params)

    async def route(self, **changes: Any) -> None:
        now = await self.ledger.routing()
        routing = await self.ledger.change_routing(
            now.epoch,
            replace(now, **changes),
            EventDraft(kind="test", actor="test"),
            note="swap" if "primary" in changes else "dual_write",
        )
        await self.ledger.renew_replica("r1", acked_epoch=routing.epoch, lease_s=300)

    async def write(self, *writes: Write) -> None:
        """Do live dual writes."""
        epoch = (await self.ledger.routing()).epoch
        drafts = [IntentDraft(collection=w.collection, key=w.key, op=w.op.value) for w in writes]
        intents = await self.ledger.append(drafts, epoch=epoch, replica_id="r1")
        for store in (self.old, self.new):
            await store.apply(writes, atomic=False, deadline_s=10)
        await self.ledger.settle([Settlement(intent=intent, clean=True) for intent in intents])

    async def dirty(self) -> int:
        return sum((await self.ledger.dirty_counts()).values())

    def sql(self, side: str, statement: str) -> list[tuple[Any, ...]]:
        """Go behind the proxy's back."""
        with psycopg.connect(self.dsns[side], autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
async def migration(new_database: Callable[[], str]) -> AsyncIterator[Migration]:
    dsns = {side: new_database() for side in ("old", "new", "ledger")}
    for side in ("old", "new"):
        create_tables(dsns[side], side)
    made = Migration(
        old=PostgresStore("old", dsns["old"], schemas()["old"], pool_min=1, pool_max=3),
        new=PostgresStore("new", dsns["new"], schemas()["new"], pool_min=1, pool_max=3),
        ledger=PostgresLedger(dsns["ledger"], "m1"),
        dsns=dsns,
    )
    for part in (made.old, made.new, made.ledger):
        await part.open()
    await made.ledger.register_replica("r1", address="", lease_s=300, ledger_down="refuse")
    await made.route(phase=Phase.DUAL_WRITE)
    yield made
    for part in (made.old, made.new, made.ledger):
        await part.close()


async def fill(store: PostgresStore, count: int = DOCS) -> None:
    await store.apply([source(name) for name in CRATES], atomic=False, deadline_s=10)
    writes = [
        document(
            f"{number:05d}/ä b.html",
            name=CRATES[number % len(CRATES)],
            number=number + 1,
            packed=b"" if number % 3 else None,
            token_count=None if number % 7 == 0 else number,
        )
        for number in range(count)
    ]
    for start in range(0, count, 100):
        await store.apply(writes[start : start + 100], atomic=False, deadline_s=30)


def doc(number: int) -> Key:
    return ("rust", CRATES[number % len(CRATES)], f"{number:05d}/ä b.html")


async def found(migration: Migration, job: Job) -> dict[str, set[Key]]:
    kinds: dict[str, set[Key]] = {}
    for item in await migration.ledger.differences(job.job_id):
        kinds.setdefault(item.kind, set()).add(item.key)
    return kinds


async def test_history_is_copied_indexed_and_verified(migration: Migration) -> None:
    await fill(migration.old)
    plan = await migration.reconciler().plan()
    assert {item.collection: item.path for item in plan.collections}["documents"] == "bulk"
    job = await migration.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert job.summary["copied"] == DOCS + len(CRATES)
    assert all(state.ready for state in await migration.new.index_states())
    verified = await migration.run(JobKind.VERIFY)
    assert (verified.summary["matched"], verified.summary["clean"]) == (DOCS + len(CRATES), True)
    assert verified.summary["in_flight"] == 0
    again = await migration.run(JobKind.BACKFILL)
    assert (again.summary["copied"], again.summary["unchanged"]) == (0, DOCS + len(CRATES))
    assert await migration.dirty() == 0


async def test_damage_behind_the_proxys_back_is_named_and_repaired(migration: Migration) -> None:
    await fill(migration.old)
    await migration.run(JobKind.BACKFILL)
    other = "INSERT INTO documents (doc_type, source_name, doc_path, content)"
    migration.sql(
        "new", f"{other} SELECT 'birdeye', 'api', 'p' || n, 'x' FROM generate_series(1, 500) n"
    )
    migration.sql(
        "new", f"{other} SELECT 'zebra', 'api', 'p' || n, 'x' FROM generate_series(1, 500) n"
    )
    migration.sql("new", f"{other} VALUES ('rust', 'serde', 'planted', 'x')")
    path = "doc_path = '{:05d}/ä b.html'"
    migration.sql("new", "UPDATE documents SET content = content || '!' WHERE " + path.format(4))
    migration.sql("new", "UPDATE documents SET embedding = NULL WHERE " + path.format(7))
    migration.sql("new", "DELETE FROM documents WHERE " + path.format(150))
    migration.sql("old", "DELETE FROM doc_embeddings WHERE " + path.format(299))
    job = await migration.run(JobKind.VERIFY)
    assert await found(migration, job) == {
        "mismatched": {doc(4), doc(7)},
        "missing": {doc(150)},
        "extra": {doc(299), ("rust", "serde", "planted")},
    }
    repaired = await migration.run(JobKind.REPAIR)
    assert repaired.summary["repaired"] == 5
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True
    (foreign,) = migration.sql("new", "SELECT count(*) FROM documents WHERE doc_type <> 'rust'")
    assert foreign == (1000,)


async def test_after_the_swap_the_old_store_is_kept_from_the_new_one(migration: Migration) -> None:
    await fill(migration.old)
    await migration.run(JobKind.BACKFILL)
    await migration.route(phase=Phase.NEW_PRIMARY, primary="new")
    migration.sql("old", "DELETE FROM crates WHERE name = 'tokio'")  # the old cascade
    migration.sql("old", "UPDATE doc_embeddings SET token_count = -1 WHERE crate_name = 'serde'")
    job = await migration.run(JobKind.VERIFY)
    share = DOCS // len(CRATES)
    assert (job.summary["missing"], job.summary["mismatched"]) == (share + 1, share)
    repaired = await migration.run(JobKind.REPAIR)
    assert repaired.summary["left"] == 0
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True
    migration.sql("old", "DELETE FROM crates")
    job = await migration.run(JobKind.BACKFILL)
    assert (job.state, job.summary["copied"]) == (JobState.DONE, DOCS + len(CRATES))
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True


async def test_a_parent_that_is_gone_takes_its_children_along(migration: Migration) -> None:
    await fill(migration.old, 50)
    await migration.run(JobKind.BACKFILL)
    migration.sql("old", "DELETE FROM crates WHERE name = 'tokio'")
    job = await migration.run(JobKind.VERIFY)
    assert job.summary["extra"] == 11
    await migration.run(JobKind.REPAIR)
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True
    assert migration.sql("new", "SELECT 1 FROM documents WHERE source_name = 'tokio'") == []


async def test_a_row_the_new_schema_refuses_becomes_a_dead_letter(migration: Migration) -> None:
    await fill(migration.old, 60)
    migration.sql("new", "ALTER TABLE documents ADD CHECK (token_count IS DISTINCT FROM 33)")
    job = await migration.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    (letter,) = await migration.ledger.dead_letters()
    assert letter.key == doc(33)
    assert job.summary["dead_letters"] == 1
    assert migration.sql("new", "SELECT count(*) FROM documents") == [(59,)]
    migration.sql("new", "ALTER TABLE documents DROP CONSTRAINT documents_token_count_check")
    await migration.run(JobKind.REPAIR)
    assert await migration.ledger.dead_letters() == []
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True


async def test_backfill_under_live_writes_ends_equal(migration: Migration) -> None:
    await fill(migration.old, 240)
    stop = False

    async def live() -> int:
        number = 0
        while not stop:
            number += 1
            name = CRATES[number % len(CRATES)]
            fresh = document(f"live-{number:04d}", name=name, number=10_000 + number)
            changed = document(
                f"{number % 240:05d}/ä b.html",
                name=CRATES[(number % 240) % len(CRATES)],
                number=number % 240 + 1,
                content=f"changed {number}",
            )
            gone = delete("documents", doc((number * 7) % 240))
            await migration.write(source(name), fresh, changed, gone)
        return number

    writer = asyncio.ensure_future(live())
    job = await migration.run(JobKind.BACKFILL, workers=2)
    stop = True
    written = await writer
    assert job.state is JobState.DONE, job.error
    assert written > 0
    await migration.run(JobKind.REPAIR)
    assert await migration.dirty() == 0
    verified = await migration.run(JobKind.VERIFY)
    assert verified.summary["clean"] is True, verified.summary["samples"]
    assert verified.summary["in_flight"] == 0


@pytest.mark.parametrize("step", list(Step))
async def test_a_job_that_is_cut_off_at_any_step_is_finished_by_the_next_runner(
    migration: Migration, step: Step
) -> None:
    await fill(migration.old, 200)
    visits = 0
    hanging = asyncio.Event()

    async def reach(at: Step) -> None:
        nonlocal visits
        visits += at is step
        if at is step and visits == 3:
            hanging.set()
            await asyncio.Event().wait()

    first = migration.reconciler("first", Tools(reach=reach))
    task = asyncio.ensure_future(first.run_once(JobKind.BACKFILL, {}))
    await hanging.wait()
    await migration.write(delete("documents", doc(1)), document("late", number=5000))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    job = await migration.reconciler("second").run_once(JobKind.BACKFILL, {})
    assert job.state is JobState.DONE, job.error
    assert (await migration.run(JobKind.VERIFY)).summary["clean"] is True
    assert await migration.dirty() == 0
    open_snapshots = migration.sql("ledger", "SELECT count(*) FROM crossfade.copy_snapshots")
    assert open_snapshots == [(0,)]


async def test_one_connection_to_each_store_is_enough(new_database: Callable[[], str]) -> None:
    dsns = {side: new_database() for side in ("old", "new", "ledger")}
    for side in ("old", "new"):
        create_tables(dsns[side], side)
    stores = {
        side: PostgresStore(side, dsns[side], schemas()[side], pool_min=1, pool_max=1)
        for side in ("old", "new")
    }
    ledger = PostgresLedger(dsns["ledger"], "m1")
    migration = Migration(old=stores["old"], new=stores["new"], ledger=ledger, dsns=dsns)
    await asyncio.gather(stores["old"].open(), stores["new"].open(), ledger.open())
    try:
        await ledger.register_replica("r1", address="", lease_s=300, ledger_down="refuse")
        await migration.route(phase=Phase.DUAL_WRITE)
        await fill(stores["old"], 60)
        await fill(stores["new"], 30)
        async with asyncio.timeout(30):
            job = await migration.reconciler(workers=4).run_once(JobKind.BACKFILL, {})
            assert job.state is JobState.DONE, job.error
            job = await migration.reconciler(workers=4).run_once(JobKind.VERIFY, {})
            assert job.summary["clean"] is True
    finally:
        await asyncio.gather(stores["old"].close(), stores["new"].close(), ledger.close())
