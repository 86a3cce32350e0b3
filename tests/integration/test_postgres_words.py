"""Searches by words in PostgreSQL: its language, its index, and what the index must not do."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from proxy.layouts import StoreSchema
from proxy.model import KeywordSpec
from proxy.query import SearchMode, SearchQuery
from proxy.stores.postgres import PostgresStore
from proxy.stores.postgres.keyword import sendable, words_sql
from proxy.words import holds, parse, positions, tokens
from tests import work_items
from tests.doc_server import create_tables, document, schemas, schemas_with_words, source

WORDS = SearchQuery(collection="documents", mode=SearchMode.KEYWORD, text="kernel")
NAME = "crossfade_documents_words"


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    made = new_database()
    create_tables(made, "new")
    return made


def with_words(keyword: KeywordSpec) -> StoreSchema:
    """Return the new store's schema with documents searched so."""
    schema = schemas()["new"]
    spec = replace(schema.collections["documents"], keyword=keyword)
    return replace(schema, collections={**schema.collections, "documents": spec})


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[PostgresStore]:
    made = PostgresStore("new", dsn, schemas_with_words()["new"], pool_min=1, pool_max=3)
    await made.open()
    yield made
    await made.close()


async def fill(store: PostgresStore, count: int) -> None:
    writes = [source()]
    for number in range(count):
        text = "The kernels were scheduling" if number == 7 else f"page {number} of a long book"
        writes.append(document(f"d{number}", number=number, packed=None, content=text))
    for result in await store.apply(writes, atomic=True, deadline_s=30):
        assert result.applied.value == "done", result


async def found(store: PostgresStore, text: str) -> list[object]:
    result = await store.search(replace(WORDS, text=text), deadline_s=10)
    return [hit.record.key[2] for hit in result.hits]


async def test_words_are_stemmed_by_the_language(store: PostgresStore, dsn: str) -> None:
    await fill(store, 10)
    assert await found(store, "schedule the kernel") == ["d7"]
    simple = PostgresStore(
        "new", dsn, with_words(KeywordSpec(fields=("content",), language="simple"))
    )
    await simple.open()
    try:
        assert await found(simple, "kernel") == []
        assert await found(simple, "kernels") == ["d7"]
    finally:
        await simple.close()


async def test_the_index_of_words_serves_a_search(store: PostgresStore, dsn: str) -> None:
    await fill(store, 3000)
    await store.build_index("documents")
    assert await found(store, "kernel") == ["d7"]
    table = store._tables["documents"]
    assert table.spec.keyword is not None
    words = words_sql(table, table.spec.keyword)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan; ANALYZE documents")
        connection.execute(
            f"PREPARE sought(text) AS SELECT 1 FROM {table.relation}"
            f" WHERE {words} @@ websearch_to_tsquery('english'::regconfig, $1)"
        )
        plan = connection.execute("EXPLAIN EXECUTE sought('kernel')").fetchall()
    assert NAME in str(plan)


async def test_an_index_of_other_words_is_told_apart_and_built_anew(
    store: PostgresStore, dsn: str
) -> None:
    await fill(store, 3)
    await store.build_index("documents")
    other = PostgresStore(
        "new", dsn, with_words(KeywordSpec(fields=("content", "doc_path"), language="english"))
    )
    await other.open()
    try:
        (state,) = [item for item in await other.index_states() if item.name == NAME]
        assert (state.exists, state.ready, state.optional) == (True, False, True)
        assert "other fields" in state.detail
        await other.build_index("documents")
        (state,) = [item for item in await other.index_states() if item.name == NAME]
        assert state.ready
        assert await found(other, "d2") == ["d2"]
    finally:
        await other.close()


async def test_the_nearest_neighbour_index_is_the_one_that_a_migration_waits_for(
    store: PostgresStore,
) -> None:
    states = {item.name: item for item in await store.index_states()}
    assert [name for name, item in states.items() if not item.optional] == [
        "documents_embedding_hnsw"
    ]
    assert {name for name, item in states.items() if item.optional} == {
        NAME,
        "crossfade_document_sources_words",
    }


async def test_a_language_that_the_database_lacks_is_named_at_the_start(dsn: str) -> None:
    store = PostgresStore(
        "new", dsn, with_words(KeywordSpec(fields=("content",), language="klingon"))
    )
    await store.open()
    try:
        (problem,) = await store.check()
        assert "klingon" in str(problem)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("a -b --c", "a -b --c"),
        ("---a", "-a"),
        ("----a", "--a"),
        ("-" * 9999, "-"),
        ("a\0b", "a b"),
        ("\ud800", "?"),
    ],
)
def test_what_is_sent_means_the_same_and_can_be_sent(text: str, sent: str) -> None:
    assert sendable(text) == sent


# A minus inside a word is not among them: PostgreSQL keeps well-known as a word of its own too.
PIECES = ("a", "b", "c", "or", "OR", " -", '"', " ", " ", " ", "!", "&", "|", "(", ")")


def test_every_store_reads_a_text_as_postgresql_does(pg_admin: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    asked = ["".join(rng.choices(PIECES, k=rng.randint(1, 10))) for _ in range(3000)]
    texts = [" ".join(rng.choices(("a", "b", "c", "or"), k=rng.randint(0, 4))) for _ in asked]
    with psycopg.connect(pg_admin) as connection:
        rows = connection.execute(
            "SELECT websearch_to_tsquery('simple', q)::text,"
            " to_tsvector('simple', t) @@ websearch_to_tsquery('simple', q)"
            " FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS u(q, t, n) ORDER BY n",
            [asked, texts],
        ).fetchall()
    for query, text, (understood, matched) in zip(asked, texts, rows, strict=True):
        tree = parse(query)
        found = tree is not None and holds(tree, positions(tokens(text)))
        assert found == matched, (query, text, tree, understood)


async def test_the_index_that_the_readme_shows_for_an_old_store_serves_it(
    new_database: Callable[[], str],
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (statement,) = re.findall(r"^```sql\n(CREATE INDEX.*?)^```", readme, re.MULTILINE | re.DOTALL)
    dsn = new_database()
    work_items.create_tables(dsn)
    schema = work_items.schemas()["old"]
    store = PostgresStore("old", dsn, schema, pool_min=1, pool_max=2)
    await store.open()
    table = store._tables[work_items.COLLECTION]
    await store.close()
    assert table.spec.keyword is not None
    words = words_sql(table, table.spec.keyword)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            f"EXPLAIN SELECT 1 FROM {table.relation}"
            f" WHERE {words} @@ websearch_to_tsquery('english'::regconfig, 'a1')".encode()
        ).fetchall()
    assert "Bitmap Index Scan" in str(plan), plan
