"""The demo's independent check must convict a spoiled row, whatever was spoiled, and name it."""

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest

from proxy.demo.checks import compare, lost_writes
from proxy.demo.damage import check_kinds
from proxy.demo.doc_server.contents import read_contents
from proxy.demo.doc_server.corpus import Document
from proxy.demo.doc_server.damage import inflict
from proxy.demo.doc_server.load import create_schemas, load_old
from proxy.demo.doc_server.plan import image_of, key_of
from proxy.demo.oracle import Expectation, text_name
from proxy.errors import Rejected
from proxy.model import Key


@dataclass(frozen=True)
class Stores:
    """Both databases, equal, and what they were loaded with."""

    old: str
    new: str
    documents: list[Document]


def documents() -> list[Document]:
    vector = b"\x00\x00\x80\x3f" + b"\x00" * 4 * 3071
    return [
        Document(
            crate=f"crate-{number % 3}",
            version="1.0",
            path=f"page-{number}.html",
            content=f"text {number}",
            token_count=number,
            vector=vector,
        )
        for number in range(60)
    ]


@pytest.fixture
def stores(new_database: Callable[[], str]) -> Stores:
    """Return an old database and a new one that a plain SQL script filled from it."""
    old, new = new_database(), new_database()
    create_schemas(old, new)
    load_old(old, documents())
    copy_by_hand(old, new)
    return Stores(old=old, new=new, documents=documents())


def copy_by_hand(old: str, new: str) -> None:
    """Move everything without Crossfade, so that the check is checked by something else."""
    with psycopg.connect(old) as source, psycopg.connect(new) as target:
        for row in source.execute("SELECT * FROM crates").fetchall():
            target.execute(
                "INSERT INTO document_sources (source_name, config, last_populated) VALUES (%s,"
                " jsonb_build_object('version', %s::text, 'total_docs', %s::int,"
                " 'total_tokens', %s::int), %s::timestamp AT TIME ZONE 'UTC')",
                (row[1], row[2], row[4], row[5], row[3]),
            )
        for row in source.execute(
            "SELECT crate_name, doc_path, content, embedding::text, token_count, created_at, id"
            " FROM doc_embeddings"
        ).fetchall():
            target.execute(
                "INSERT INTO documents (source_name, doc_path, content, embedding, token_count,"
                " created_at, metadata) VALUES (%s, %s, %s, %s, %s, %s,"
                " jsonb_build_object('original_id', %s::int, 'crate_name', %s::text))",
                (*row, row[0]),
            )
        for table in ("crate_configs", "population_jobs"):
            for row in source.execute(f"SELECT * FROM {table}").fetchall():
                marks = ", ".join(["%s"] * len(row))
                target.execute(f"INSERT INTO {table} VALUES ({marks})", row)


def test_equal_stores_have_no_difference(stores: Stores) -> None:
    matched, differences = compare(read_contents(stores.old, stores.new), primary="new")
    assert differences == []
    assert matched == read_contents(stores.old, stores.new).rows("old") > 60


def test_each_kind_of_damage_is_named_by_key_and_kind(stores: Stores) -> None:
    quiet = [key_of(document) for document in stores.documents]
    spoiled = inflict(stores.old, ("changed", "removed", "added", "changed"), quiet)
    _, differences = compare(read_contents(stores.old, stores.new), primary="new")
    assert {(item.key, item.kind) for item in differences} == {
        (item.key, item.outcome) for item in spoiled
    }
    assert {item.collection for item in differences} == {"documents"}


def test_an_unknown_kind_of_damage_is_refused() -> None:
    with pytest.raises(Rejected, match="expected changed or removed or added"):
        check_kinds(("changed", "exploded"))


@pytest.mark.parametrize(
    ("statement", "collection", "fields"),
    [
        (
            "UPDATE documents SET embedding = NULL WHERE doc_path = 'page-1.html'",
            "documents",
            ("vector",),
        ),
        (
            "UPDATE documents SET created_at = created_at + interval '1 microsecond'"
            " WHERE doc_path = 'page-1.html'",
            "documents",
            ("created_at",),
        ),
        (
            "UPDATE documents SET metadata = metadata - 'crate_name'"
            " WHERE doc_path = 'page-1.html'",
            "documents",
            ("crate_name",),
        ),
        (
            "UPDATE document_sources SET config = config || '{\"version\": null}'"
            " WHERE source_name = 'crate-1'",
            "sources",
            ("version",),
        ),
        ("UPDATE crate_configs SET features = '{}' WHERE id = 1", "crate_configs", ("features",)),
        (
            "UPDATE population_jobs SET error_message = '' WHERE id = 1",
            "population_jobs",
            ("error_message",),
        ),
    ],
)
def test_a_difference_in_any_field_is_found(
    stores: Stores, statement: str, collection: str, fields: tuple[str, ...]
) -> None:
    with psycopg.connect(stores.new) as connection:
        assert connection.execute(statement.encode()).rowcount == 1
    _, (difference,) = compare(read_contents(stores.old, stores.new), primary="old")
    assert (difference.collection, difference.kind) == (collection, "mismatched")
    assert difference.fields == fields


def test_a_vector_that_differs_in_one_bit_is_found(stores: Stores) -> None:
    with psycopg.connect(stores.new) as connection:
        connection.execute(
            "UPDATE documents SET embedding = (SELECT array_agg(CASE WHEN i = 3072"
            " THEN '1e-38'::real ELSE v END ORDER BY i)::vector FROM"
            " unnest(embedding::real[]) WITH ORDINALITY AS u(v, i)) WHERE doc_path = 'page-9.html'"
        )
    _, (difference,) = compare(read_contents(stores.old, stores.new), primary="old")
    assert (difference.key[-1], difference.fields) == ("page-9.html", ("vector",))


def test_an_acknowledged_write_that_a_store_lacks_is_lost(stores: Stores) -> None:
    kept, gone = stores.documents[0], stores.documents[1]
    absent: Key = ("rust", "crate-0", "never.html")
    expected = [
        Expectation(collection="documents", key=key_of(kept), images=(image_of(kept),)),
        Expectation(
            collection="documents",
            key=key_of(gone),
            images=({"content": text_name("a newer text")},),
        ),
        Expectation(collection="documents", key=absent, images=(None,)),
    ]
    lost = lost_writes(read_contents(stores.old, stores.new), expected)
    assert [(item.key, item.store) for item in lost] == [
        (key_of(gone), "old"),
        (key_of(gone), "new"),
    ]
