"""What is particular to PostgreSQL: round trips, races, its schema, indexes, bulk copies."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from proxy.errors import Corrupt, Reason, Rejected, Unavailable
from proxy.model import Applied, Write, WriteOp
from proxy.query import (
    Compare,
    CompareOp,
    CountQuery,
    IsNull,
    KeyRange,
    ListQuery,
    SearchQuery,
)
from proxy.stores.postgres import PostgresStore
from proxy.stores.postgres.connection import Connection
from tests.doc_server import WHEN, create_tables, delete, document, patch, schemas, source, vector
from tests.integration.databases import FIELDS, Databases, done


@pytest.mark.parametrize("side", ["old", "new"])
async def test_one_upsert_is_one_round_trip(
    both: Databases, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = {"old": both.old, "new": both.new}[side]
    await done(store, source())
    for _ in range(2):
        await done(store, document())
        await store.get("documents", [document().key], vectors=True, deadline_s=5)
    waits = 0
    wait = Connection.wait

    async def counting(self: Connection, *args: Any, **more: Any) -> Any:
        nonlocal waits
        waits += 1
        return await wait(self, *args, **more)

    monkeypatch.setattr(Connection, "wait", counting)
    await done(store, document(content="again"))
    assert waits == 1
    await store.get("documents", [document().key], vectors=True, deadline_s=5)
    assert waits == 2


async def test_a_missing_table_is_corrupt_with_a_hint_and_served_once_it_is_there(
    both: Databases,
) -> None:
    both.sql("old", "ALTER TABLE population_jobs RENAME TO elsewhere")
    query = CountQuery(collection="population_jobs")
    with pytest.raises(Corrupt, match="crossfade plan"):
        await both.old.count(query, deadline_s=5)
    fresh = PostgresStore("old", both.dsns["old"], schemas()["old"])
    await fresh.open()
    with pytest.raises(Corrupt, match="population_jobs"):
        await fresh.count(query, deadline_s=5)
    both.sql("old", "ALTER TABLE elsewhere RENAME TO population_jobs")
    assert (await fresh.count(query, deadline_s=5))[0].count == 0
    await fresh.close()


async def test_a_column_that_changes_its_type_is_served_again_after_one_failure(
    both: Databases,
) -> None:
    await done(both.old, source(), document())
    key = document().key
    assert await both.old.get("documents", [key], vectors=True, deadline_s=5)
    both.sql("old", "ALTER TABLE doc_embeddings ALTER COLUMN content TYPE varchar")
    with pytest.raises(Unavailable, match="cached plan"):
        await both.old.get("documents", [key], vectors=True, deadline_s=5)
    assert await both.old.get("documents", [key], vectors=True, deadline_s=5)
    await done(both.old, document(content="y"))


async def test_a_cascade_in_the_schema_never_takes_children_along(both: Databases) -> None:
    await done(both.old, source())
    both.sql(
        "old",
        "INSERT INTO doc_embeddings (crate_id, crate_name, doc_path, content)"
        " SELECT id, 'another name', 'p', 'x' FROM crates",
    )
    (result,) = await both.old.apply([delete("sources", source().key)], atomic=False, deadline_s=5)
    assert result.applied is Applied.HAS_CHILDREN
    assert both.sql("old", "SELECT count(*) FROM doc_embeddings") == [(1,)]


@pytest.mark.parametrize("side", ["old", "new"])
async def test_a_race_of_child_and_parent_leaves_no_orphan(both: Databases, side: str) -> None:
    store = {"old": both.old, "new": both.new}[side]
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(1, 40):
        await done(store, source())
        write = document(f"p{number}", number=number, packed=None)
        steps = [
            store.apply([write], atomic=False, deadline_s=10),
            store.apply([delete("sources", source().key)], atomic=False, deadline_s=10),
        ]
        rng.shuffle(steps)
        await asyncio.gather(*steps)
        keys = await store.list_keys(ListQuery(collection="documents"), deadline_s=5)
        parents = await store.list_keys(ListQuery(collection="sources"), deadline_s=5)
        assert not keys or parents, f"an orphan in round {number}"
        for key in keys:
            await done(store, delete("documents", key))


async def test_a_parent_outside_the_key_is_checked_where_the_schema_has_no_foreign_key(
    both: Databases,
) -> None:
    both.sql(
        "new", "ALTER TABLE population_jobs DROP CONSTRAINT population_jobs_crate_config_id_fkey"
    )
    schema = schemas()["new"]
    checked = replace(schema.layouts["population_jobs"], check_parent=True)
    schema = replace(schema, layouts={**schema.layouts, "population_jobs": checked})
    store = PostgresStore("new", both.dsns["new"], schema)
    await store.open()

    async def apply(write: Write) -> Applied:
        (result,) = await store.apply([write], atomic=False, deadline_s=5)
        return result.applied

    def job(op: WriteOp, parent: int | None) -> Write:
        fields = {"crate_config_id": parent, "status": "pending"}
        return Write(op=op, collection="population_jobs", key=(1,), fields=fields)

    configs = [
        Write(op=WriteOp.INSERT, collection="crate_configs", key=(n,), fields={"name": f"c{n}"})
        for n in (1, 2)
    ]
    await done(store, *configs)
    assert await apply(job(WriteOp.INSERT, 7)) is Applied.PARENT_MISSING
    assert await apply(job(WriteOp.UPSERT, 7)) is Applied.PARENT_MISSING
    assert await apply(job(WriteOp.INSERT, None)) is Applied.DONE
    assert await apply(patch("population_jobs", (1,), crate_config_id=7)) is Applied.PARENT_MISSING
    assert await apply(patch("population_jobs", (1,), crate_config_id=1)) is Applied.DONE
    assert await apply(patch("population_jobs", (1,), status="running")) is Applied.DONE
    assert await apply(delete("crate_configs", (1,))) is Applied.HAS_CHILDREN
    assert await apply(job(WriteOp.UPSERT, 2)) is Applied.DONE
    assert await apply(delete("crate_configs", (1,))) is Applied.DONE
    assert await apply(patch("population_jobs", (1,), crate_config_id=None)) is Applied.DONE
    await store.close()


async def test_a_filtered_search_is_exact_and_a_wide_one_uses_the_index(
    new_database: Callable[[], str],
) -> None:
    dsn = new_database()
    create_tables(dsn, "new")
    schema = schemas()["new"]
    layout = schema.layouts["documents"]
    assert layout.index is not None
    small = replace(layout, index=replace(layout.index, exact_rows_max=20, ef_search=40))
    schema = replace(schema, layouts={**schema.layouts, "documents": small})
    store = PostgresStore("new", dsn, schema, pool_min=1, pool_max=1)
    await store.open()
    await done(store, source("serde"), source("tokio"))
    await done(
        store,
        *(document(f"p{n}", name="serde" if n % 10 else "tokio", number=n) for n in range(1, 101)),
    )
    (before,) = await store.index_states()
    assert not before.ready
    assert "not built" in before.detail
    query = SearchQuery(collection="documents", vector=vector(50), limit=10)
    assert not (await store.search(query, deadline_s=5)).indexed
    await store.build_index("documents")
    for collection in ("sources", "crate_configs"):
        await store.build_index(collection)
    found = await store.search(query, deadline_s=5)
    assert found.indexed
    assert found.hits[0].record.key == ("rust", "tokio", "p50")
    assert found.hits[0].distance == pytest.approx(0, abs=1e-6)
    tokio = Compare(field="source_name", op=CompareOp.EQ, value="tokio")
    serde = Compare(field="source_name", op=CompareOp.EQ, value="serde")
    narrow = await store.search(replace(query, filter=tokio), deadline_s=5)
    assert not narrow.indexed
    assert {hit.record.key[1] for hit in narrow.hits} == {"tokio"}
    assert len(narrow.hits) == 10
    wide = await store.search(replace(query, filter=serde, limit=30), deadline_s=5)
    assert wide.indexed
    exact = await store.search(replace(query, filter=serde, limit=30, exact=True), deadline_s=5)
    assert {hit.record.key for hit in wide.hits} == {hit.record.key for hit in exact.hits}
    forced = await store.search(replace(query, filter=tokio, exact=False), deadline_s=5)
    assert forced.indexed
    assert [hit.record.key for hit in forced.hits] == [hit.record.key for hit in narrow.hits]
    none = replace(query, filter=IsNull(field="content"))
    assert (await store.search(none, deadline_s=5)).hits == ()
    await store.close()


async def test_an_interrupted_index_build_is_seen_and_built_again(both: Databases) -> None:
    await done(both.new, source(), document())
    both.sql("new", "INSERT INTO documents (source_name, doc_path, content) VALUES ('x', 'x', 'x')")
    with psycopg.connect(both.dsns["new"], autocommit=True) as connection:
        connection.execute("SET statement_timeout = '400ms'")
        with psycopg.connect(both.dsns["new"]) as blocker:
            blocker.execute("SELECT pg_current_xact_id()")
            blocker.execute("UPDATE documents SET content = 'y'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(
                    "CREATE INDEX CONCURRENTLY documents_embedding_hnsw ON documents"
                    " USING hnsw ((embedding::halfvec(3072)) halfvec_cosine_ops)"
                )
    (state,) = await both.new.index_states()
    assert state.exists
    assert not state.ready
    assert "interrupted" in state.detail
    await both.new.build_index("documents")
    (state,) = await both.new.index_states()
    assert state.ready
    both.sql("new", "DROP INDEX documents_embedding_hnsw")
    both.sql("new", "CREATE INDEX documents_embedding_hnsw ON documents (token_count)")
    (state,) = await both.new.index_states()
    assert not state.ready
    assert "another index has this name" in state.detail


async def copy_all(both: Databases, limit: int = 3) -> int:
    """Copy every document old -> new by pages and bulk loads."""
    target = await both.new.bulk_target("documents", FIELDS)
    assert target is not None
    after, rows = None, 0
    while True:
        span = KeyRange(after=after)
        async with both.old.page("documents", span, limit=limit, order="C", deadline_s=9) as page:
            if page.keys:
                rows += await both.new.bulk_load(
                    "documents", target, page.bulk(frozenset(), target), deadline_s=9
                )
                after = page.keys[-1]
            if len(page.keys) < limit:
                return rows


async def test_a_bulk_copy_from_old_to_new_is_the_same_by_digest(both: Databases) -> None:
    await done(both.old, source("serde"), source("Ünïcode"))
    for number in range(1, 11):
        name = "serde" if number % 2 else "Ünïcode"
        packed = None if number == 4 else vector(number)
        tokens = None if number == 5 else number
        await done(
            both.old,
            document(
                f"p/{number}",
                name=name,
                number=number * 7,
                packed=packed,
                token_count=tokens,
                content="x" * number * 5000 + "'\\\n\t\u0001",
                created_at=WHEN + dt.timedelta(microseconds=number),
            ),
        )
    assert await copy_all(both) == 10
    sums = [
        await store.digest("documents", KeyRange(), fields=FIELDS, order="C", deadline_s=9)
        for store in (both.old, both.new)
    ]
    assert sums[0] == sums[1]
    assert sums[0].rows == 10
    (row,) = both.sql("new", "SELECT metadata FROM documents WHERE doc_path = 'p/2'")
    assert row == ({"crate_name": "Ünïcode", "original_id": 14},)
    record = (
        await both.new.get("documents", [("rust", "serde", "p/1")], vectors=True, deadline_s=5)
    )["rust", "serde", "p/1"]
    assert record.fields["metadata"] == {}
    with pytest.raises(Rejected) as caught:
        await copy_all(both)
    assert caught.value.reason is Reason.ALREADY_EXISTS
    await both.new.align_sequences()
    (number_after,) = await both.new.next_ids("documents", "original_id", 1)
    assert number_after > 70


async def test_a_bulk_load_that_is_refused_loads_nothing_and_says_why(both: Databases) -> None:
    both.sql("new", "ALTER TABLE documents ALTER COLUMN token_count SET NOT NULL")
    await done(
        both.old, source(), document("a", number=1), document("b", number=2, token_count=None)
    )
    with pytest.raises(Rejected, match="token_count") as caught:
        await copy_all(both)
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    assert both.sql("new", "SELECT count(*) FROM documents") == [(0,)]
    await done(both.new, source())


async def test_a_bulk_load_whose_source_fails_loads_nothing(both: Databases) -> None:
    await done(both.old, source(), document("a", number=1))
    target = await both.new.bulk_target("documents", FIELDS)
    assert target is not None

    async def broken() -> AsyncIterator[bytes]:
        async with both.old.page("documents", KeyRange(), limit=5, order="C", deadline_s=5) as page:
            async for chunk in page.bulk(frozenset(), target):
                yield chunk[:100]
        raise Corrupt("the source went away")

    with pytest.raises(Corrupt, match="went away"):
        await both.new.bulk_load("documents", target, broken(), deadline_s=5)
    assert both.sql("new", "SELECT count(*) FROM documents") == [(0,)]
    await done(both.new, source())
