"""What a write must look like before it may reach a store."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace

import pytest

from proxy.config.settings import LimitSettings
from proxy.errors import Reason, Rejected
from proxy.model import (
    CollectionSpec,
    DefaultKind,
    EmbeddingSpec,
    FieldSpec,
    FieldType,
    JsonValue,
    Key,
    Value,
    VectorSpec,
    Write,
    WriteOp,
)
from proxy.validate import (
    JSON_DEPTH_MAX,
    find_collection,
    key_problems,
    packed_problem,
    rejected,
    write_problems,
)
from tests.wire_fakes import COLLECTIONS, DOCUMENTS, JOBS, NOON, packed

LIMITS = LimitSettings()
KEY: Key = ("serde", "de/index")


def problems_of(
    op: WriteOp = WriteOp.UPSERT,
    fields: Mapping[str, Value] | None = None,
    *,
    key: Key = KEY,
    spec: CollectionSpec = DOCUMENTS,
    vector: bytes | None = None,
) -> list[str]:
    """Return the violations of a write of a document with content, as text."""
    given: dict[str, Value] = {"content": "text"} if spec is DOCUMENTS else {}
    write = Write(
        op=op, collection=spec.name, key=key, fields=given | dict(fields or {}), vector=vector
    )
    return [str(problem) for problem in write_problems(write, spec, LIMITS)]


def test_a_full_record_of_every_type_is_accepted() -> None:
    fields: dict[str, Value] = {
        "kind": "guide",
        "token_count": 2**63 - 1,
        "score": 0.5,
        "active": False,
        "tags": ["a", ""],
        "metadata": {"a": [1, None, {"b": "ü"}]},
        "created_at": NOON,
    }
    assert problems_of(fields=fields, vector=packed(1, 2, 3, 4)) == []


def test_every_nullable_field_takes_null() -> None:
    nullable = [item.name for item in DOCUMENTS.value_fields if not item.required]
    fields: dict[str, Value] = {name: None for name in nullable if name != "updated_at"}
    assert problems_of(fields=fields) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("token_count", "7", "a 64-bit integer, got str '7'"),
        ("token_count", True, "a 64-bit integer, got bool True"),
        ("token_count", 2**63, "a 64-bit integer"),
        ("token_count", 1.0, "a 64-bit integer"),
        ("score", float("nan"), "a finite number, got float nan"),
        ("score", float("-inf"), "a finite number"),
        ("score", True, "a finite number"),
        ("active", 1, "a bool"),
        ("created_at", dt.datetime(2025, 1, 1), "a timestamp with a zone"),  # noqa: DTZ001  # on purpose
        ("created_at", "2025-01-01", "a timestamp with a zone"),
        ("tags", "a", "a list of texts"),
        ("tags", ["a", 1], "tags[1]: expected a text, got int 1"),
        ("tags", ["a\x00"], "without U+0000"),
        ("metadata", {"a": float("nan")}, "finite numbers"),
        ("metadata", {"a": ["\ud800"]}, "without lone surrogates"),
        ("metadata", {1: 2}, "object keys that are texts"),
        ("metadata", {"a": NOON}, "a JSON value"),
        ("content", None, "it is required, got null"),
        ("content", "a\x00b", "without U+0000"),
        ("content", 1, "a text, got int 1"),
        ("kind", "novel", "one of api, guide, got 'novel'"),
        ("nope", 1, "one of active, content"),
        ("doc_path", "x", "a key field to be given in the key"),
        ("updated_at", NOON, "nothing, the store makes this field"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(name: str, value: Value, said: str) -> None:
    found = problems_of(fields={name: value})
    assert len(found) == 1
    assert found[0].startswith(f"record.fields.{name}")
    assert said in found[0]


def test_json_is_bounded_in_depth_and_not_by_the_stack() -> None:
    value: JsonValue = 1
    for _ in range(JSON_DEPTH_MAX):
        value = [value]
    assert problems_of(fields={"metadata": value}) == []
    for _ in range(5000):
        value = [value]
    assert "at most 64 levels" in problems_of(fields={"metadata": value})[0]


def test_every_violation_is_reported_at_once() -> None:
    nan = packed(1, float("nan"), 3, 4)
    found = problems_of(fields={"score": "x", "nope": 1}, key=("serde",), vector=nan)
    assert [line.split(":")[0] for line in found] == [
        "record.key",
        "record.fields.score",
        "record.fields.nope",
        "record.vector[1]",
    ]


def test_a_required_field_may_be_left_out_only_of_a_patch() -> None:
    bare = Write(op=WriteOp.INSERT, collection="documents", key=KEY)
    for op in (WriteOp.INSERT, WriteOp.UPSERT):
        found = write_problems(replace(bare, op=op), DOCUMENTS, LIMITS)
        assert [problem.where for problem in found] == ["record.fields.content"]
    assert write_problems(replace(bare, op=WriteOp.PATCH), DOCUMENTS, LIMITS) == []


def test_a_required_field_that_is_kept_may_be_left_out_of_an_upsert_but_not_of_an_insert() -> None:
    kept = FieldSpec(name="serial", type=FieldType.INT, required=True, keep=True)
    spec = replace(JOBS, fields=(*JOBS.fields, kept))
    write = Write(op=WriteOp.UPSERT, collection="jobs", key=(1,), fields={"status": "done"})
    assert write_problems(write, spec, LIMITS) == []
    found = write_problems(replace(write, op=WriteOp.INSERT), spec, LIMITS)
    assert [problem.where for problem in found] == ["record.fields.serial"]


def test_a_key_may_be_absent_only_where_the_schema_allocates_all_of_it() -> None:
    fields: dict[str, Value] = {"status": "pending"}
    assert problems_of(WriteOp.INSERT, fields, key=(), spec=JOBS) == []
    assert problems_of(WriteOp.UPSERT, fields, key=(), spec=JOBS) == []
    assert problems_of(WriteOp.PATCH, fields, key=(), spec=JOBS)
    assert "2 part(s): source_name, doc_path" in problems_of(WriteOp.INSERT, key=())[0]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("serde",), "2 part(s): source_name, doc_path, got 1 part(s)"),
        (("a", "b", "c"), "got 3 part(s)"),
        (("serde", 7), "key.doc_path: expected a text, got int 7"),
        (("serde", "a\x00"), "without U+0000"),
        (("x" * 256, "a"), "at most 255 characters"),
        (("serde", "ü" * 600), "at most 1024 bytes as a JSON array in UTF-8, got 1212 bytes"),
    ],
)
def test_a_wrong_key_is_refused(key: Key, said: str) -> None:
    found = [str(problem) for problem in key_problems(key, DOCUMENTS, LIMITS)]
    assert len(found) == 1
    assert said in found[0]


def test_a_key_of_the_longest_allowed_length_is_accepted() -> None:
    path = "x" * (LIMITS.key_bytes_max - len('["serde",""]'))
    assert key_problems(("serde", path), DOCUMENTS, LIMITS) == []
    assert key_problems(("serde", path + "x"), DOCUMENTS, LIMITS) != []


def test_a_delete_is_checked_by_its_key_alone() -> None:
    write = Write(op=WriteOp.DELETE, collection="jobs", key=(True,), set_vector=False)
    assert "a 64-bit integer, got bool True" in str(write_problems(write, JOBS, LIMITS)[0])


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        (b"", "4 float32 (16 bytes), got 0 bytes"),
        (packed(1, 2, 3), "got 12 bytes, 3 float32"),
        (packed(1, 2, 3, 4)[:-1], "got 15 bytes"),
        (packed(1, 2, float("inf"), 4), "vector[2]: expected a finite number, got inf"),
        (packed(float("nan"), 2, 3, 4), "vector[0]: expected a finite number, got nan"),
        (packed(float("inf"), float("-inf"), 3, 4), "vector[0]"),
    ],
)
def test_a_wrong_vector_is_refused_with_the_place_of_the_fault(vector: bytes, said: str) -> None:
    problem = packed_problem(vector, VectorSpec(dim=4), where="vector")
    assert said in str(problem)


def test_a_vector_whose_square_overflows_is_finite_all_the_same() -> None:
    assert packed_problem(packed(3e38, -3e38, 1, 1), VectorSpec(dim=4), where="vector") is None


def test_a_vector_is_refused_where_there_is_none_and_required_where_it_must_be() -> None:
    found = problems_of(WriteOp.INSERT, {"status": "x"}, key=(1,), spec=JOBS, vector=packed(1))
    assert "no vector, jobs has none" in found[0]
    spec = replace(DOCUMENTS, vector=VectorSpec(dim=4, required=True))
    write = Write(op=WriteOp.INSERT, collection="documents", key=KEY, fields={"content": "x"})
    assert [str(problem) for problem in write_problems(write, spec, LIMITS)] == [
        "record.vector: expected a vector, it is required, got nothing"
    ]


EMBEDDING = EmbeddingSpec(model="m", template="{content}", fields=("content",))


def test_a_required_vector_that_the_proxy_makes_need_not_be_given() -> None:
    spec = replace(DOCUMENTS, vector=VectorSpec(dim=4, required=True, embedding=EMBEDDING))
    assert problems_of(spec=spec, fields={"content": "x"}) == []
    cleared = problems_of(WriteOp.PATCH, spec=spec)
    assert cleared == ["record.vector: expected a vector, it is required, got nothing"]


def test_a_vector_is_refused_where_the_stores_hold_those_of_different_models() -> None:
    spec = replace(DOCUMENTS, vector=VectorSpec(dim=4, embedding=EMBEDDING, given=False))
    fields: dict[str, Value] = {"content": "x"}
    assert problems_of(spec=spec, fields=fields) == []
    (problem,) = problems_of(spec=spec, fields=fields, vector=packed(1, 2, 3, 4))
    assert "record.vector: expected no vector: the two stores hold those of different" in problem
    (problem,) = problems_of(WriteOp.PATCH, spec=spec)
    assert problem.endswith("got null")


def test_an_unknown_collection_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(Rejected) as caught:
        find_collection(COLLECTIONS, "document")
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert str(caught.value) == "collection: expected one of documents, jobs, got 'document'"


def test_a_rejection_says_the_first_violation_and_how_many_more_there_are() -> None:
    found = key_problems((1, 2), DOCUMENTS, LIMITS)
    error = rejected(found)
    assert error.violations == tuple(found)
    assert error.message.endswith("got int 1 (and 1 more)")


def test_a_default_of_any_kind_makes_a_required_field_optional() -> None:
    for kind in (DefaultKind.NOW, DefaultKind.CONSTANT, DefaultKind.SEQUENCE):
        item = FieldSpec(name="status", type=FieldType.TEXT, required=True, default=kind)
        spec = replace(JOBS, fields=(JOBS.fields[0], item))
        write = Write(op=WriteOp.INSERT, collection="jobs", key=(1,))
        assert write_problems(write, spec, LIMITS) == []
