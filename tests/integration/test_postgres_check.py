"""The schema check names every difference between the layouts and the database, with a hint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from proxy.layouts import StoreSchema
from proxy.model import Applied
from proxy.query import KeyRange
from proxy.stores.postgres import PostgresStore
from tests.doc_server import create_tables, document, schemas, source


async def problems(dsn: str, side: str, schema: StoreSchema | None = None) -> list[str]:
    """Open a store on the database and return what its check says."""
    store = PostgresStore(side, dsn, schema or schemas()[side], pool_min=1, pool_max=1)
    await store.open()
    try:
        found = await store.check()
    finally:
        await store.close()
    assert all(problem.store == side and problem.hint for problem in found), found
    return [f"{problem.what} -> {problem.hint}" for problem in found]


@pytest.fixture
def broken(new_database: Callable[[], str]) -> Callable[[str, str], str]:
    def make(side: str, statements: str) -> str:
        dsn = new_database()
        create_tables(dsn, side)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(statements.encode())
        return dsn

    return make


async def test_an_empty_database_lacks_everything_at_once(new_database: Callable[[], str]) -> None:
    found = await problems(new_database(), "old")
    text = "\n".join(found)
    assert "extension vector is missing -> run CREATE EXTENSION vector" in text
    for table in ("crates", "doc_embeddings", "crate_configs", "population_jobs"):
        assert f"the table {table} of" in text
    for sequence in ("doc_embeddings_id_seq", "crate_configs_id_seq", "population_jobs_id_seq"):
        assert f"the sequence {sequence} does not exist" in text
    assert len(found) == 8


@pytest.mark.parametrize(
    ("side", "statements", "expected"),
    [
        (
            "new",
            "ALTER TABLE documents DROP COLUMN embedding",
            ["documents has no column embedding -> it has content, created_at"],
        ),
        (
            "new",
            "ALTER TABLE documents ALTER COLUMN embedding TYPE vector(384)",
            ["documents.embedding is vector(384) -> documents has 3072 dimensions"],
        ),
        (
            "new",
            "ALTER TABLE documents ALTER COLUMN embedding TYPE halfvec(3072)",
            ["documents.embedding is halfvec(3072), not a vector"],
        ),
        (
            "new",
            "ALTER TABLE documents DROP CONSTRAINT documents_doc_type_source_name_doc_path_key",
            ["documents has no unique constraint on (doc_type, source_name, doc_path)"],
        ),
        (
            "new",
            "DROP INDEX idx_documents_metadata;"
            " ALTER TABLE documents ALTER COLUMN metadata DROP DEFAULT,"
            " ALTER COLUMN metadata TYPE text",
            ["documents.metadata is text, not jsonb"],
        ),
        (
            "new",
            "ALTER TABLE documents ALTER COLUMN created_at TYPE timestamptz",
            ["documents.created_at is a timestamp with time zone -> remove naive_utc"],
        ),
        (
            "new",
            "ALTER TABLE document_sources ALTER COLUMN last_checked TYPE timestamp",
            ["document_sources.last_checked is a timestamp without time zone -> say naive_utc"],
        ),
        (
            "new",
            "ALTER TABLE documents ALTER COLUMN token_count TYPE text",
            ["documents.token_count is text, which cannot hold the int token_count"],
        ),
        (
            "new",
            "ALTER TABLE documents ADD COLUMN tenant text NOT NULL",
            ["documents.tenant may not be null, has no default and is not in the layout"],
        ),
        (
            "new",
            "ALTER TABLE documents ALTER COLUMN source_name DROP NOT NULL",
            ["documents.source_name is part of the key and may be null"],
        ),
        (
            "new",
            "ALTER TABLE documents DROP COLUMN token_count;"
            " ALTER TABLE documents ADD token_count int GENERATED ALWAYS AS (1) STORED",
            ["documents.token_count is computed by the database -> say generated: true"],
        ),
        (
            "old",
            "ALTER TABLE crates RENAME COLUMN name TO title",
            [
                "crates has no column name -> it has id",
                "crates.title may not be null, has no default and is not in the layout",
                "crates has no column name -> correct parent_id of doc_embeddings.crate_id",
            ],
        ),
        (
            "old",
            "ALTER SEQUENCE doc_embeddings_id_seq RENAME TO other_seq;"
            " ALTER TABLE population_jobs RENAME TO jobs",
            [
                "the table population_jobs of population_jobs does not exist -> create it",
                "the sequence doc_embeddings_id_seq does not exist",
            ],
        ),
    ],
)
async def test_each_difference_is_named(
    broken: Callable[[str, str], str], side: str, statements: str, expected: list[str]
) -> None:
    found = await problems(broken(side, statements), side)
    for words in expected:
        assert any(words in line for line in found), found
    assert len(found) == len(expected), found


async def test_a_right_that_is_missing_is_named(
    broken: Callable[[str, str], str], pg_admin: str
) -> None:
    dsn = broken(
        "new",
        "CREATE ROLE reader_of_documents LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public"
        " TO reader_of_documents; GRANT INSERT, UPDATE, DELETE ON document_sources, crate_configs,"
        " population_jobs TO reader_of_documents",
    )
    try:
        found = await problems(f"{dsn} user=reader_of_documents", "new")
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("DROP OWNED BY reader_of_documents; DROP ROLE reader_of_documents")
    assert found == [
        "INSERT, UPDATE, DELETE on documents is not allowed ->"
        " GRANT INSERT, UPDATE, DELETE to the role"
    ]


async def test_a_qualified_and_a_quoted_name_are_found(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    create_tables(dsn, "new")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Odd Place"')
        connection.execute('ALTER TABLE documents SET SCHEMA "Odd Place"')
        connection.execute('ALTER TABLE "Odd Place".documents RENAME TO "Docs %s"')
    schema = schemas()["new"]
    moved = replace(
        schema.layouts["documents"],
        table="Odd Place.Docs %s",
        sequences={"original_id": "Odd Place.documents_id_seq"},
    )
    schema = replace(schema, layouts={**schema.layouts, "documents": moved})
    assert await problems(dsn, "new", schema) == []
    store = PostgresStore("new", dsn, schema)
    await store.open()
    results = await store.apply([source(), document()], atomic=True, deadline_s=5)
    assert {result.applied for result in results} == {Applied.DONE}
    assert await store.range_keys("documents", KeyRange(), order="C", deadline_s=5)
    await store.align_sequences()
    assert await store.next_ids("documents", "original_id", 1) == [2]
    await store.build_index("documents")
    (state,) = await store.index_states()
    assert state.ready
    await store.close()
