"""Compiling collections: the doc-server preset, overriding it, and every cross reference."""

# ruff: noqa: E501  (a table of cases reads best with one case on a line)

from __future__ import annotations

import datetime as dt

import pytest

from proxy.config.crosscheck import one_sided_fields
from proxy.config.loader import Config, load_text
from proxy.errors import ConfigInvalid
from proxy.layouts import ColumnKind, IndexSpec, Packed
from proxy.model import DefaultKind, FieldType, Metric, ParentSpec

HEAD = "migration: m\nold: {engine: memory}\nnew: {engine: memory}\nledger: {engine: memory}\n"
PRESET = HEAD + "preset: doc-server\n"
GOOD = """\
collections:
  things:
    key: [id]
    fields: {id: {type: text}, body: {type: text}, n: {type: int, default: 3}}
    vector: {dim: 4}
    old: {table: a, columns: {id: id, body: body, n: n, v: {vector: true}}}
    new: {table: b, columns: {id: id, body: body, n: n, v: {vector: true}}}
"""


def loaded(text: str) -> Config:
    return load_text(text, "c.yaml", {})


def refused(text: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        load_text(text, "c.yaml", {})
    return "\n".join(str(violation) for violation in caught.value.violations)


class TestDocServerPreset:
    def test_documents_have_the_decided_logical_schema(self) -> None:
        spec = loaded(PRESET).old.collections["documents"]
        assert spec.key == ("doc_type", "source_name", "doc_path")
        assert spec.vector is not None
        assert (spec.vector.dim, spec.vector.metric, spec.vector.required) == (
            3072,
            Metric.COSINE,
            False,
        )
        assert spec.parent == ParentSpec(collection="sources", fields=("doc_type", "source_name"))
        created, original = spec.by_name["created_at"], spec.by_name["original_id"]
        assert (created.default, created.keep) == (DefaultKind.NOW, True)
        assert (original.default, original.keep) == (DefaultKind.SEQUENCE, True)
        assert spec.by_name["updated_at"].generated
        assert spec.by_name["doc_type"].required

    def test_old_documents_imply_rust_and_look_the_crate_up(self) -> None:
        layout = loaded(PRESET).old.layouts["documents"]
        columns = {column.name: column for column in layout.columns}
        assert layout.constants == {"doc_type": "rust"}
        assert columns["crate_id"].kind is ColumnKind.PARENT_ID
        assert columns["crate_id"].lookup_match == {"name": "source_name"}
        assert (columns["crate_id"].lookup_table, columns["crate_id"].lookup_id) == ("crates", "id")
        assert columns["created_at"].naive_utc
        assert columns["id"].field == "original_id"
        assert columns["embedding"].kind is ColumnKind.VECTOR
        assert layout.sequences == {"original_id": "doc_embeddings_id_seq"}
        assert layout.index is None

    def test_new_documents_pack_metadata_and_are_indexed_by_halfvec(self) -> None:
        layout = loaded(PRESET).new.layouts["documents"]
        metadata = next(column for column in layout.columns if column.name == "metadata")
        assert set(metadata.packed) == {
            Packed(field="original_id", name="original_id"),
            Packed(field="source_name", name="crate_name"),
        }
        assert metadata.rest == "metadata"
        assert layout.check_parent
        assert layout.index == IndexSpec(name="documents_embedding_hnsw")

    def test_sources_pack_their_counts_and_rename_last_updated(self) -> None:
        config = loaded(PRESET)
        new = {column.name: column for column in config.new.layouts["sources"].columns}
        assert {item.name: item.field for item in new["config"].packed} == {
            "version": "version",
            "total_docs": "total_docs",
            "total_tokens": "total_tokens",
        }
        assert new["last_populated"].field == "last_updated"
        assert config.old.layouts["sources"].table == "crates"

    def test_the_fields_of_one_side_are_listed(self) -> None:
        config = loaded(PRESET)
        found = {
            (item.collection, item.field, item.store)
            for item in one_sided_fields(config.old, config.new)
        }
        assert found == {
            ("documents", "metadata", "new"),
            ("documents", "updated_at", "new"),
            ("sources", "enabled", "new"),
            ("sources", "last_checked", "new"),
            ("sources", "config", "new"),
            ("sources", "created_at", "new"),
            ("sources", "updated_at", "new"),
        }

    def test_the_moved_tables_are_one_to_one(self) -> None:
        config = loaded(PRESET)
        for name in ("crate_configs", "population_jobs"):
            assert config.old.layouts[name] == config.new.layouts[name]
        jobs = config.old.collections["population_jobs"]
        assert jobs.by_name["status"].choices == ("pending", "running", "completed", "failed")
        assert jobs.parent == ParentSpec(collection="crate_configs", fields=("crate_config_id",))
        assert (
            config.old.collections["crate_configs"].by_name["features"].type is FieldType.TEXT_LIST
        )


class TestOverride:
    def test_mappings_merge_values_replace_and_null_removes(self) -> None:
        config = loaded(
            PRESET
            + """\
collections:
  documents:
    vector: {dim: 384}
    fields: {token_count: {required: true}, note: {type: text}}
    new: {columns: {note: note}, index: {m: 32}}
  population_jobs: null
"""
        )
        documents = config.new.collections["documents"]
        assert documents.vector is not None
        assert (documents.vector.dim, documents.vector.metric) == (384, Metric.COSINE)
        assert documents.by_name["token_count"].required
        assert documents.by_name["token_count"].type is FieldType.INT
        assert "note" in config.new.layouts["documents"].stored_fields()
        assert "population_jobs" not in config.new.collections
        index = config.new.layouts["documents"].index
        assert index is not None
        assert (index.name, index.m) == ("documents_embedding_hnsw", 32)

    def test_a_column_definition_is_replaced_whole(self) -> None:
        config = loaded(
            PRESET
            + "collections: {documents: {new: {columns: {created_at: {field: created_at}}}}}\n"
        )
        columns = {column.name: column for column in config.new.layouts["documents"].columns}
        assert not columns["created_at"].naive_utc

    def test_a_collection_of_ones_own_is_added(self) -> None:
        config = loaded(PRESET + GOOD)
        assert set(config.old.collections) > {"things", "documents"}

    def test_an_error_in_an_override_has_the_users_line_and_one_in_the_preset_the_presets(
        self,
    ) -> None:
        text = refused(PRESET + "collections:\n  documents:\n    vector: {dim: 0}\n")
        assert "c.yaml:8 (collections.documents.vector.dim)" in text
        text = refused(PRESET + "collections:\n  sources: null\n")
        assert "preset doc-server:" in text
        assert "(collections.documents.parent.collection): expected a collection" in text


def test_defaults_take_their_meaning_from_the_type() -> None:
    fields = """\
    fields:
      id: {type: text}
      body: {type: text, default: now}
      n: {type: int, default: 3}
      at: {type: timestamp, default: "2024-01-02T03:04:05+01:00"}
      tags: {type: text_list, default: [a, b]}
      ratio: {type: float, default: 1}
      on: {type: bool, default: true}
      extra: {type: json, default: {a: 1}}
"""
    text = HEAD + GOOD.replace(GOOD.splitlines()[3] + "\n", fields)
    columns = "at: at, tags: tags, ratio: ratio, on: on, extra: extra, "
    spec = loaded(text.replace("columns: {", "columns: {" + columns)).old.collections["things"]
    constants = {
        item.name: item.constant for item in spec.fields if item.default is DefaultKind.CONSTANT
    }
    assert constants == {
        "body": "now",
        "n": 3,
        "at": dt.datetime(2024, 1, 2, 2, 4, 5, tzinfo=dt.UTC),
        "tags": ["a", "b"],
        "ratio": 1.0,
        "on": True,
        "extra": {"a": 1},
    }


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("key: [id]", "key: [idd]", 'c.yaml:7 (collections.things.key): expected a field of things (did you mean "id"?)'),
        ("key: [id]", "key: [id, id]", "expected each key field once"),
        ("key: [id]", "key: []", "(collections.things.key): expected"),
        ("id: {type: text}", "id: {type: bool}", "expected key fields of type text or int"),
        ("body: {type: text}", "body: {type: text, generated: true, required: true}", "without required, keep or default"),
        ("body: {type: text}", "body: {type: int, length_max: 3}", "length_max and choices on a text field only"),
        ("body: {type: text}", "body: {type: text, choices: [a], default: b}", "expected one of a, got 'b'"),
        ("body: {type: text}", "body: {type: text}, vector: {type: text}", 'another name ("vector"'),
        ("body: {type: text}", "body: {type: text}, lost: {type: text}", "(collections.things.fields.lost): expected a column of at least one store"),
        ("body: {type: text}", "Body: {type: text}", "expected a name of lower-case letters"),
        ("default: 3", "default: three", "expected a int value or \"sequence\", got 'three'"),
        ("default: 3", "default: sequence", 'a sequence for "n"'),
        ("vector: {dim: 4}", "vector: {dim: 0}", "(collections.things.vector.dim): expected"),
        ("    vector: {dim: 4}\n", "", "a vector of the collection, or no vector column"),
        ("table: a, columns: {id: id", "table: a, columns: {id: body", 'a column or a constant for the key field "id"'),
        ("table: a, columns: {id: id", "table: a, columns: {id: id, id2: id", 'one place for "id", got 2 (id, id2; null removes'),
        ("table: a, columns: {id: id", "table: a, columns: {id: id, x: nope", 'expected a field of things'),
        ("table: a, columns: {id: id", "table: a, columns: {id: id, x: {}", "exactly one of field, vector: true, packed"),
        ("table: a, columns: {id: id", "table: a, columns: {id: id, x: {field: n, vector: true}", "got field, vector"),
        ("table: a, columns: {id: id", "table: a, columns: {id: id, p: {rest: body}", "rest as a json field, got text"),
        ("table: a, columns: {id: id", "table: a, columns: {id: id, p: {packed: {x: n, y: n}}", 'one place for "n"'),
        ("table: a, columns: {id: id", "table: a, columns: {id: {field: id, naive_utc: true}", "naive_utc on a timestamp field only"),
        ("table: a, columns: {id: id", "table: a, columns: {id: id, w: {vector: true}", "one vector column, got w, v"),
        ("table: a, columns: {id: id", "table: a, columns: {id: id, f: {parent_id: {table: t, match: {x: id}}}", "a parent of the collection, or no parent_id"),
        ("table: a, ", "table: a, constants: {nope: 1}, ", "(collections.things.old.constants.nope): expected a field"),
        ("table: a, ", "table: a, constants: {n: x}, ", "(collections.things.old.constants.n): expected a int value"),
        ("table: a, ", "table: a, sequences: {n: s}, ", '"default: sequence" of the field "n"'),
        ("table: a, ", "table: a, sequences: {nope: s}, ", "expected a field of things"),
        ("table: a, ", "table: a, check_parent: true, ", "a parent of the collection, or no check_parent"),
        ("table: a, ", "table: x.y.z, ", '"schema.name"'),
        ("table: a, ", f"table: {'x' * 64}, ", "a name of 1 to 63 bytes"),
        ("v: {vector: true}}}\n    new", "v: {vector: true}}, index: {name: i, cast: byte}}\n    new", "'halfvec' or 'vector'"),
        (", v: {vector: true}}}\n    new", "}, index: {name: i}}\n    new", "an index only where a vector column is"),
        ("vector: {dim: 4}", "vector: {dim: 4}\n    parent: {collection: thing, fields: [id]}", 'expected a collection (did you mean "things"?)'),
        ("vector: {dim: 4}", "vector: {dim: 4}\n    parent: {collection: things, fields: [id]}", "expected no circle, got things -> things"),
        ("vector: {dim: 4}", "vector: {dim: 4}\n    parent: {collection: things, fields: [n]}", 'a field of type text for "id", got "n" (int)'),
        ("vector: {dim: 4}", "vector: {dim: 4}\n    parent: {collection: things, fields: [id, n]}", "one field for each of things's key"),
        ("vector: {dim: 4}", "vector: {dim: 4}\n    parent: {collection: things, fields: [nope]}", "expected a field of things"),
    ],
)  # fmt: skip  # a case on a line
def test_a_broken_reference_is_named(before: str, after: str, expected: str) -> None:
    assert before in GOOD
    assert expected in refused(HEAD + GOOD.replace(before, after, 1))


def test_an_index_may_not_have_more_dimensions_than_pgvector_can_index() -> None:
    text = (HEAD + GOOD.replace("dim: 4", "dim: 3072")).replace(
        "table: b,", "table: b, index: {name: i},"
    )
    text = text.replace("new: {engine: memory}", "new: {engine: postgresql, dsn: dbname=n}")
    assert loaded(text).new.layouts["things"].index is not None
    assert "at most 2000 dimensions" in refused(text.replace("name: i", "name: i, cast: vector"))
    assert "at most 4000 dimensions" in refused(text.replace("dim: 3072", "dim: 4001"))


def test_two_collections_may_not_share_a_table() -> None:
    second = GOOD.split("\n", 1)[1].replace("things", "others").replace("table: b", "table: c")
    assert 'a table of its own (things has it), got "a"' in refused(HEAD + GOOD + second)


def test_a_broken_collection_does_not_hide_the_problems_of_another() -> None:
    second = GOOD.split("\n", 1)[1].replace("things", "others").replace("key: [id]", "key: [x]")
    child = "    parent: {collection: things, fields: [id]}\n"
    text = refused(HEAD + GOOD.replace("dim: 4", "dim: x") + second + child)
    assert "(collections.things.vector.dim): expected a whole number" in text
    assert "(collections.others.key): expected a field of others" in text
    assert "parent" not in text


def test_a_field_that_only_the_old_store_has_is_warned_about() -> None:
    config = loaded(
        HEAD
        + GOOD.replace(
            "body: body, n: n, v: {vector: true}}}\n    new",
            "body: body, n: n, v: {vector: true}}}\n    new",
        ).replace("table: b, columns: {id: id, body: body, ", "table: b, columns: {id: id, ")
    )
    assert (
        "things.body is stored by the old store only: it is lost after new_only" in config.warnings
    )
