"""Configuring vectors: what each store holds, what clients see, what each engine can do."""

# ruff: noqa: E501  (a table of cases reads best with one case on a line)

from __future__ import annotations

import pytest

from proxy.config.loader import Config, load_text
from proxy.errors import ConfigInvalid
from proxy.layouts import ColumnKind
from proxy.model import EmbeddingSpec, FieldType, KeywordSpec, Metric, VectorSpec

MEMORY = "migration: m\nold: {engine: memory}\nnew: {engine: memory}\nledger: {engine: memory}\n"
MIXED = "migration: m\nold: {engine: postgresql, dsn: dbname=o}\nnew: {engine: lancedb, uri: /data/x}\nledger: {dsn: dbname=l}\n"
GOOD = """\
collections:
  things:
    key: [id]
    fields:
      id: {type: text}
      title: {type: text}
      body: {type: text}
      tags: {type: text_list}
      extra: {type: json}
      made: {type: text, generated: true}
    vector: {dim: 4}
    embedding: {model: m, template: "{title} {body}"}
    keyword: {fields: [title, body], language: german}
    old: {table: a, columns: {id: id, title: title, body: body, tags: tags, extra: extra, made: made, v: {vector: true}}}
    new: {table: b, columns: {id: id, title: title, body: body, tags: tags, extra: extra, made: made, v: {vector: true}}}
"""
OLD = "    old: {table: a, "
NEW = "    new: {table: b, "
EMBEDDING = EmbeddingSpec(model="m", template="{title} {body}", fields=("title", "body"))


def loaded(text: str) -> Config:
    return load_text(text, "c.yaml", {})


def refused(text: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        load_text(text, "c.yaml", {})
    return "\n".join(str(violation) for violation in caught.value.violations)


def vectors(config: Config) -> list[VectorSpec | None]:
    """Return the vector of things as the old store, the new one and clients have it."""
    return [
        specs["things"].vector
        for specs in (config.old.collections, config.new.collections, config.collections)
    ]


def test_both_stores_and_clients_share_one_space_unless_it_is_said_otherwise() -> None:
    config = loaded(MEMORY + GOOD)
    expected = VectorSpec(dim=4, embedding=EMBEDDING)
    assert vectors(config) == [expected] * 3
    assert config.models == {"m"}
    for specs in (config.old.collections, config.new.collections, config.collections):
        assert specs["things"].keyword == KeywordSpec(fields=("title", "body"), language="german")


def test_without_embeddings_no_model_is_needed() -> None:
    config = loaded(
        MEMORY + GOOD.replace('    embedding: {model: m, template: "{title} {body}"}\n', "")
    )
    assert vectors(config) == [VectorSpec(dim=4)] * 3
    assert config.models == frozenset()


def test_a_store_may_have_another_model_and_dimension_and_then_no_client_gives_a_vector() -> None:
    own = 'vector: {dim: 8}, embedding: {model: n, template: "{body}"}, '
    config = loaded(MEMORY + GOOD.replace(NEW, NEW + own))
    old, new, client = vectors(config)
    assert old == VectorSpec(dim=4, embedding=EMBEDDING, given=False)
    assert new == VectorSpec(
        dim=8, embedding=EmbeddingSpec(model="n", template="{body}", fields=("body",)), given=False
    )
    assert client is not None
    assert not client.given
    assert config.models == {"m", "n"}
    assert not [warning for warning in config.warnings if "rollback" in warning]


def test_a_layout_without_a_vector_column_holds_none_and_clients_see_the_others() -> None:
    config = loaded(MEMORY + GOOD.replace(", v: {vector: true}}}\n    new", "}}\n    new"))
    expected = VectorSpec(dim=4, embedding=EMBEDDING)
    assert vectors(config) == [None, expected, expected]


def test_an_old_store_whose_vectors_nobody_can_make_is_warned_about() -> None:
    config = loaded(MEMORY + GOOD.replace(OLD, OLD + "embedding: null, "))
    old, new, client = vectors(config)
    assert old == VectorSpec(dim=4, given=False)
    assert new == VectorSpec(dim=4, embedding=EMBEDDING, given=False)
    assert client == new
    (warning,) = [warning for warning in config.warnings if "rollback" in warning]
    assert "things: vectors for the old store (4 dimensions, given by writers)" in warning
    assert "loses vector search" in warning


def test_settings_of_one_side_are_laid_over_the_common_ones() -> None:
    config = loaded(
        MEMORY
        + GOOD.replace(NEW, NEW + "vector: {required: true}, ").replace(
            "dim: 4", "dim: 4, metric: dot"
        )
    )
    old, new, client = vectors(config)
    assert old == VectorSpec(dim=4, metric=Metric.DOT, embedding=EMBEDDING)
    assert new == VectorSpec(dim=4, metric=Metric.DOT, required=True, embedding=EMBEDDING)
    assert client == new, "what one store needs, a client must bring"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("{title} {body}", "{titel}", 'c.yaml:16 (collections.things.embedding.template): expected a field of things (did you mean "title"?), got "titel"'),
        ("{title} {body}", "{title!r}", "expected a text with the names of fields in it, each as {name}, got '{title!r}'"),
        ("{title} {body}", "no field", "each as {name}, got 'no field' (at least one {field})"),
        ("{title} {body}", "{title", "each as {name}, got '{title'"),
        ("{title} {body}", "{made}", 'fields that writers give, none that a store makes, got "made"'),
        ("{title} {body}", "{extra}", 'fields of any type but json (its text is not the same in every store), got "extra"'),
        ("model: m, ", "", 'c.yaml:16 (collections.things.embedding.model): expected a value for "model"'),
        ("model: m", "model: ''", "(collections.things.embedding.model): expected"),
        ("fields: [title, body]", "fields: [title, bdy]", 'c.yaml:17 (collections.things.keyword.fields.1): expected a field of things (did you mean "body"?)'),
        ("fields: [title, body]", "fields: [tags]", 'expected a text field, got "tags" (text_list)'),
        ("fields: [title, body]", "fields: [title, title]", 'expected each field once, got "title"'),
        ("fields: [title, body]", "fields: []", "(collections.things.keyword.fields): expected"),
        ("language: german", "language: klingon", "c.yaml:17 (collections.things.keyword.language): expected 'arabic', 'danish'"),
        ("columns: {id: id, title: title, ", "columns: {id: id, ", 'fields that both stores hold (the text must be the same from either), got "title"'),
        ("columns: {id: id, title: title, ", "columns: {id: id, ", 'a field that both stores hold (either may be searched), got "title"'),
        (NEW, NEW + "embedding: null, ", "c.yaml:19 (collections.things.new.vector): expected an embedding, or the old store's vectors (4 dimensions, by m), got 4 dimensions, given by writers"),
        (NEW, NEW + "vector: {dim: 8}, embedding: null, ", "got 8 dimensions, given by writers"),
        (NEW, NEW + "vector: {metric: dot}, ", "c.yaml:19 (collections.things.new.vector.metric): expected cosine, as in the old store: both hold the same vectors, got dot"),
        (NEW, NEW + "vector: {dim: 0}, ", "(collections.things.new.vector.dim): expected"),
        (OLD, OLD + "vector: {required: true}, embedding: null, ", "c.yaml:18 (collections.things.old.vector.required): expected vectors that may be null"),
        (", v: {vector: true}}}\n    new: {table: b, ", "}}\n    new: {table: b, embedding: {model: x, template: '{body}'}, vector: {dim: 8}, index: {name: i, method: ivf_sq}, ", "'hnsw', 'ivfflat', 'ivf_flat' or 'ivf_pq'"),
        (", v: {vector: true}}}\n    new", "}, vector: {dim: 8}}\n    new", "c.yaml:18 (collections.things.old.vector): expected a vector column in this store, got none"),
        (", v: {vector: true}", "", "c.yaml:15 (collections.things.vector): expected a vector column in at least one store, got none"),
        (", v: {vector: true}", "", "c.yaml:16 (collections.things.embedding): expected a vector column in at least one store, got none"),
    ],
)  # fmt: skip  # a case on a line
def test_what_is_wrong_is_named_with_file_and_line(before: str, after: str, expected: str) -> None:
    count = -1 if before == ", v: {vector: true}" else 1
    text = MEMORY + GOOD
    assert before in text
    assert expected in refused(text.replace(before, after, count))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("uri: /data/x", "dsn: dbname=n", "c.yaml:3 (new.uri): expected a folder, or the URI of an object store such as s3://bucket/folder, got nothing"),
        ("uri: /data/x", "uri: /data/x, dsn: dbname=n", "c.yaml:3 (new.dsn): expected no dsn for the engine lancedb, got one"),
        ("uri: /data/x", "uri: /data/x, namespace: a/b", "c.yaml:3 (new.namespace): expected a text that matches"),
        ("dsn: dbname=o", "dsn: dbname=o, uri: /data/x", "c.yaml:2 (old.uri): expected no uri for the engine postgresql"),
        ("dsn: dbname=o", "dsn: dbname=o, namespace: x", "expected no namespace for the engine postgresql"),
        ("dsn: dbname=o", "dsn: dbname=o, lance: {flush_ms: 1}", "expected no lance for the engine postgresql"),
        ("ledger: {dsn: dbname=l}", "ledger: {engine: lancedb, dsn: dbname=l}", "(ledger.engine): expected 'postgresql' or 'memory'"),
        ("engine: postgresql, dsn: dbname=o", "engine: lancedb, uri: /data/../data/x/", 'c.yaml:3 (new.uri): expected another folder than the old store\'s (uri and namespace), got "/data/x" on both sides'),
        ("table: b, ", "table: s.b, ", 'expected a table of letters, digits, _ and - (lancedb has no schemas), got "s.b"'),
        ("table: b, columns: {id: id", "table: b, columns: {id: {field: id, type: varchar}", 'new.columns.id.type): expected one of string, large_string'),
        ("table: b, columns: {id: id", "table: b, columns: {'i.d': id", 'expected a column without "."'),
        ("table: b, ", "table: b, index: {name: i, method: hnsw}, ", "(collections.things.new.index.method): expected ivf_pq or ivf_flat for an index of lancedb, got hnsw"),
        ("table: b, ", "table: b, index: {name: i, cast: halfvec}, ", "(collections.things.new.index.cast): expected no cast (it is pgvector's), got halfvec"),
        ("table: a, ", "table: a, index: {name: i, method: ivf_pq}, ", "expected hnsw or ivfflat for an index of postgresql, got ivf_pq"),
    ],
)  # fmt: skip  # a case on a line
def test_each_engine_is_held_to_what_it_can_do(before: str, after: str, expected: str) -> None:
    text = MIXED + GOOD
    assert before in text
    assert expected in refused(text.replace(before, after, 1))


def test_a_parent_cannot_be_looked_up_by_id_in_lancedb() -> None:
    parent = "    parent: {collection: tops, fields: [id]}\n"
    tops = (
        GOOD.split("\n", 1)[1]
        .replace("things", "tops")
        .replace("table: a", "table: c")
        .replace("table: b", "table: d")
    )
    child = GOOD.replace("    vector: {dim: 4}\n", "    vector: {dim: 4}\n" + parent)
    lookup = "p: {parent_id: {table: d, match: {id: id}}}, "
    text = refused(
        MIXED + child.replace("table: b, columns: {", "table: b, columns: {" + lookup) + tops
    )
    assert (
        "(collections.things.new.columns.p): expected no parent_id (lancedb has no foreign keys"
        in text
    )


def test_an_index_that_names_no_method_has_that_of_its_engine() -> None:
    text = MIXED + GOOD.replace("table: a, ", "table: a, index: {name: i}, ").replace(
        "table: b, ", "table: b, index: {name: i}, "
    )
    config = loaded(text)
    methods = [schema.layouts["things"].index for schema in (config.old, config.new)]
    assert [index.method for index in methods if index is not None] == ["hnsw", "ivf_pq"]


def test_lancedb_tables_in_two_namespaces_of_one_folder_may_be_moved() -> None:
    text = MIXED.replace(
        "engine: postgresql, dsn: dbname=o", "engine: lancedb, uri: /data/x, namespace: before"
    )
    assert loaded(text + GOOD).settings.old.namespace == "before"


def test_the_texts_of_a_batch_fit_the_queue_of_the_embedder() -> None:
    small = MEMORY + "embedder: {queue_texts_max: 10}\n"
    assert (
        "c.yaml:5 (embedder.queue_texts_max): expected at least limits.batch_items_max (1000)"
        in refused(small + GOOD)
    )
    given = GOOD.replace('    embedding: {model: m, template: "{title} {body}"}\n', "")
    assert loaded(small + given).settings.embedder.queue_texts_max == 10


def test_credentials_of_an_object_store_are_never_shown() -> None:
    text = MIXED.replace(
        "uri: /data/x", "uri: 's3://b/x', lance: {storage_options: {key: [hush-hush]}}"
    )
    assert "hush-hush" not in refused(text + GOOD)
    good = loaded(text.replace("[hush-hush]", "hush-hush") + GOOD)
    assert "hush-hush" not in repr(good)


class TestWorkItemsPreset:
    TEXT = MIXED + "preset: work-items\n"

    def test_it_moves_a_table_to_lancedb_with_vectors_of_title_and_description(self) -> None:
        config = loaded(self.TEXT)
        (name,) = config.collections
        spec = config.collections[name]
        assert (name, spec.key) == ("work_items", ("id",))
        assert spec.vector is not None
        assert (spec.vector.dim, spec.vector.metric, spec.vector.given) == (
            384,
            Metric.COSINE,
            True,
        )
        assert spec.vector.embedding == EmbeddingSpec(
            model="all-MiniLM-L6-v2",
            template="{title} {description}",
            fields=("title", "description"),
        )
        assert spec.keyword == KeywordSpec(fields=("title", "description"))
        assert config.models == {"all-MiniLM-L6-v2"}
        assert (config.old.layouts[name].table, config.new.layouts[name].table) == (
            "work_items",
            "WorkItem",
        )

    def test_every_field_lies_in_both_stores(self) -> None:
        config = loaded(self.TEXT)
        for schema in (config.old, config.new):
            layout = schema.layouts["work_items"]
            assert layout.stored_fields() == set(config.collections["work_items"].by_name)
            assert [c.name for c in layout.columns if c.kind is ColumnKind.VECTOR] != []
        spec = config.collections["work_items"]
        assert spec.by_name["acceptance_criteria"].type is FieldType.TEXT_LIST
        assert spec.by_name["metadata"].type is FieldType.JSON

    def test_another_model_for_the_new_store_is_one_override(self) -> None:
        own = 'collections: {work_items: {new: {vector: {dim: 768}, embedding: {model: other, template: "{title}"}}}}\n'
        config = loaded(self.TEXT + own)
        assert config.models == {"all-MiniLM-L6-v2", "other"}
        vector = config.new.collections["work_items"].vector
        assert vector is not None
        assert (vector.dim, vector.given) == (768, False)
