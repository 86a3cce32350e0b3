"""Values in PostgreSQL: as the layouts say, odd rows, texts that cannot be sent, collations."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from proxy.canonical import record_digest
from proxy.errors import Corrupt, Rejected
from proxy.model import Applied, Write, WriteOp
from proxy.query import (
    Compare,
    CompareOp,
    KeyRange,
    Like,
    ListQuery,
    Order,
)
from proxy.stores.postgres import PostgresStore
from proxy.stores.postgres.catalog import collation_token
from tests.doc_server import WHEN, create_tables, delete, document, patch, schemas, source
from tests.integration.databases import FIELDS, Databases, done


async def test_layouts_store_what_they_say(both: Databases) -> None:
    await done(both.old, source(), document(number=17))
    await done(both.new, source(), document(number=17, metadata={"format": "html"}))
    (row,) = both.sql(
        "old",
        "SELECT d.crate_name, d.id, d.created_at, c.name FROM doc_embeddings d"
        " JOIN crates c ON c.id = d.crate_id",
    )
    assert row == ("serde", 17, WHEN.replace(tzinfo=None), "serde")
    (row,) = both.sql("new", "SELECT doc_type, source_name, metadata, created_at FROM documents")
    assert row == (
        "rust",
        "serde",
        {"format": "html", "crate_name": "serde", "original_id": 17},
        WHEN.replace(tzinfo=None),
    )
    (row,) = both.sql("new", "SELECT config, last_populated FROM document_sources")
    assert row[0] == {"version": "1.0", "total_docs": 0, "total_tokens": 0}
    assert row[1] == WHEN


async def test_naive_timestamps_are_utc_whatever_the_database_says(
    new_database: Callable[[], str],
) -> None:
    dsn = new_database()
    create_tables(dsn, "old")
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Tokyo'").format(
                sql.Identifier(str(name))
            )
        )
    store = PostgresStore("old", dsn, schemas()["old"])
    await store.open()
    await done(store, source(), document())
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT created_at FROM doc_embeddings").fetchone()
    assert row == (WHEN.replace(tzinfo=None),)
    (record,) = await store.list_records(ListQuery(collection="documents"), deadline_s=5)
    assert record.fields["created_at"] == WHEN
    earlier = Compare(field="created_at", op=CompareOp.LT, value=WHEN + dt.timedelta(hours=1))
    assert await store.list_keys(ListQuery(collection="documents", filter=earlier), deadline_s=5)
    await store.close()


async def test_names_in_packed_json_that_nobody_owns_survive_an_update(both: Databases) -> None:
    await done(both.new, source(), document())
    both.sql("new", "UPDATE document_sources SET config = config || '{\"stranger\": [1.50]}'")
    await done(both.new, source(version="2"))
    await done(both.new, patch("sources", source().key, total_docs=5))
    (row,) = both.sql("new", "SELECT config::text FROM document_sources")
    expected = '{"version": "2", "stranger": [1.50], "total_docs": 5, "total_tokens": 0}'
    assert row == (expected,)


async def test_json_numbers_are_copied_as_they_were_written(both: Databases) -> None:
    both.sql(
        "new",
        """INSERT INTO document_sources (doc_type, source_name, config) VALUES ('a', 'a',
        '{"x": 1.10, "y": [1e3, 0.10, 123456789012345678901234567890.5], "version": "1"}')""",
    )
    found = await both.new.get("sources", [("a", "a")], vectors=True, deadline_s=5)
    record = found["a", "a"]
    copy = Write(op=WriteOp.UPSERT, collection="sources", key=("b", "b"), fields=record.fields)
    await done(both.new, replace(copy, fields={**record.fields, "last_updated": None}))
    left, right = (
        row[0]
        for row in both.sql(
            "new",
            "SELECT (config - 'total_docs' - 'total_tokens')::text FROM document_sources",
        )
    )
    assert left == right
    digests = await both.new.key_digests(
        "sources", KeyRange(), fields=["config"], order="C", deadline_s=5
    )
    spec = schemas()["new"].collections["sources"]
    assert digests[0].digest == record_digest(spec, record, ["config"])


async def test_a_row_that_cannot_be_decoded_is_named(both: Databases) -> None:
    await done(both.new, source(), source("tokio"), document())
    both.sql(
        "new",
        "UPDATE document_sources SET config = '{\"version\": [1]}' WHERE source_name = 'serde'",
    )
    for vectors in (True, False):
        with pytest.raises(Corrupt, match=r'\["rust","serde"\].*config.version'):
            await both.new.get("sources", [source().key], vectors=vectors, deadline_s=5)
    found = await both.new.get("sources", [source("tokio").key], vectors=True, deadline_s=5)
    assert found
    both.sql("new", "UPDATE documents SET created_at = 'infinity'")
    with pytest.raises(Corrupt, match=r"'rust', 'serde', 'serde/index.html'.*documents"):
        await both.new.list_records(ListQuery(collection="documents"), deadline_s=5)
    async with both.new.page("documents", KeyRange(), limit=5, order="C", deadline_s=5) as page:
        assert len(page.keys) == 1
        with pytest.raises(Corrupt, match="cannot be read"):
            await page.records(frozenset())
    both.sql("new", "UPDATE document_sources SET config = '[]' WHERE source_name = 'tokio'")
    with pytest.raises(Corrupt, match="not a JSON object"):
        await both.new.get("sources", [source("tokio").key], vectors=True, deadline_s=5)


async def test_input_is_never_part_of_a_statement(both: Databases) -> None:
    evil = "'; DROP TABLE documents; -- $1 %s %(x)s \" \\"
    await done(both.new, source(evil), document(evil, name=evil, content=evil))
    for filter in (
        Compare(field="content", op=CompareOp.EQ, value=evil),
        Compare(field="source_name", op=CompareOp.GE, value=evil),
        Like(field="doc_path", pattern="%DROP TABLE%"),
    ):
        found = await both.new.list_records(
            ListQuery(collection="documents", filter=filter, order=(Order(field="content"),)),
            deadline_s=5,
        )
        assert [record.fields["content"] for record in found] == [evil]
    target = await both.new.bulk_target("documents", FIELDS)
    assert target is not None
    span = KeyRange(after=("rust", evil, ""), upto=("rust", evil, evil + "z"))
    async with both.new.page("documents", span, limit=5, order="C", deadline_s=5) as page:
        assert len(page.keys) == 1
        sizes = [len(chunk) async for chunk in page.bulk(frozenset([("rust", evil, "x")]), target)]
    assert sum(sizes) > 12_000


async def test_a_value_that_cannot_be_sent_is_rejected(
    both: Databases,
) -> None:
    await done(both.new, source(), document())
    for text in ("a\0b", "\ud800"):
        key = ("rust", "serde", text)
        for keys in ([key], [key, document().key]):
            with pytest.raises(Rejected, match="cannot be asked"):
                await both.new.get("documents", keys, vectors=True, deadline_s=5)
        filter = Compare(field="content", op=CompareOp.EQ, value=text)
        with pytest.raises(Rejected, match="cannot be asked"):
            await both.new.list_keys(ListQuery(collection="documents", filter=filter), deadline_s=5)
        (result,) = await both.new.apply([delete("documents", key)], atomic=False, deadline_s=5)
        assert result.applied is Applied.REFUSED
    assert both.new.stats()["pool_busy"] == 0


async def test_texts_are_ordered_by_bytes_in_a_database_of_another_collation(
    both: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreign(order: str, encoding: str) -> str:
        return f"i|en|153.14|{encoding}" if order else ""

    monkeypatch.setattr("proxy.stores.postgres.catalog.collation_token", foreign)
    store = PostgresStore("new", both.dsns["new"], schemas()["new"])
    await store.open()
    paths = ["a", "B", "b", "A", "ä", "z", "Z", "-", "_"]
    await done(store, source())
    await done(store, *(document(p, number=n, packed=None) for n, p in enumerate(paths, 1)))
    native = await store.key_order("documents")
    assert native == "i|en|153.14|UTF8"
    by_bytes = sorted(paths, key=str.encode)
    keys = await store.list_keys(ListQuery(collection="documents"), deadline_s=5)
    assert [key[2] for key in keys] == by_bytes
    for order in ("C", native):
        seen: list[object] = []
        for span in await store.split("documents", rows_per_range=2, order=order):
            found = await store.range_keys("documents", span, order=order, deadline_s=5)
            seen += [key[2] for key in found]
            digest = await store.digest("documents", span, fields=FIELDS, order=order, deadline_s=5)
            assert digest.rows == len(found)
        assert seen == by_bytes
    with pytest.raises(Rejected, match="cannot order"):
        await store.split("documents", rows_per_range=2, order="i|de|153.14|UTF8")
    await store.close()


def test_only_the_order_of_bytes_is_called_c() -> None:
    for order in ("c|C|", "c|POSIX|", "c|C.UTF-8|", "b|C.UTF-8|1", "d|C|"):
        assert collation_token(order, "UTF8") == "C"
    for order in ("c|en_US.UTF-8|2.36", "i|en|153.14", "b|other|1"):
        assert collation_token(order, "UTF8") != "C"
    assert collation_token("c|C|", "LATIN1") != "C"
    assert collation_token("", "UTF8") == ""


async def test_unconvertible_knows_the_columns(both: Databases) -> None:
    await done(both.new, source(), document())
    found = await both.new.get("documents", [document().key], vectors=True, deadline_s=5)
    record = found[document().key]
    for fields, word in (
        ({"content": "a\0b"}, "NUL"),
        ({"content": "\ud800"}, "content"),
        ({"token_count": 2**31}, "integer"),
        ({"metadata": {"deep": ["\0"]}}, "NUL"),
    ):
        bad = replace(record, fields={**record.fields, **fields})
        assert word in await both.new.unconvertible(bad), fields
        write = Write(op=WriteOp.UPSERT, collection="documents", key=record.key, fields=bad.fields)
        for batch in ([write], [source(), write]):
            results = await both.new.apply(batch, atomic=False, deadline_s=5)
            assert results[-1].applied is Applied.REFUSED, fields
            assert word in results[-1].detail, fields
    assert "NUL" in await both.new.unconvertible(replace(record, key=("rust", "serde", "\0")))
    assert await both.new.unconvertible(record) == ""
