"""Requests are read whole and every fault is named by its path in the message."""

from __future__ import annotations

import pytest
from crossfade.client import F, Filter
from crossfade.storage.v1 import storage_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask

from proxy.config.settings import LimitSettings
from proxy.errors import Rejected
from proxy.fronts.native.filters import FilterReader
from proxy.fronts.native.requests import RequestReader
from proxy.model import WriteOp
from proxy.query import (
    And,
    Compare,
    CompareOp,
    ContainsAny,
    In,
    IsNull,
    JsonEquals,
    Like,
    Not,
    Or,
    Order,
    Projection,
    SearchMode,
)
from proxy.query import Filter as ModelFilter
from tests.wire_fakes import COLLECTIONS, DOCUMENTS, NOON, packed

READER = RequestReader(COLLECTIONS, LimitSettings())


def key_of(*parts: str | int) -> pb.Key:
    """Return a key message."""
    key = pb.Key()
    for part in parts:
        if isinstance(part, str):
            key.parts.add().string_value = part
        else:
            key.parts.add().int_value = part
    return key


def record_of(**fields: pb.Value) -> pb.Record:
    """Return a document's record."""
    return pb.Record(
        key=key_of("serde", "de"), fields={"content": pb.Value(string_value="x"), **fields}
    )


def wheres(error: Rejected) -> set[str]:
    """Return the places of the violations."""
    return {violation.where for violation in error.violations}


@pytest.mark.parametrize(
    ("built", "model"),
    [
        (F("source_name") == "a", Compare(field="source_name", op=CompareOp.EQ, value="a")),
        (F("source_name") != "a", Compare(field="source_name", op=CompareOp.NE, value="a")),
        (F("score") < 2, Compare(field="score", op=CompareOp.LT, value=2.0)),
        (F("score") <= 2.5, Compare(field="score", op=CompareOp.LE, value=2.5)),
        (F("token_count") > 1, Compare(field="token_count", op=CompareOp.GT, value=1)),
        (F("created_at") >= NOON, Compare(field="created_at", op=CompareOp.GE, value=NOON)),
        (F("kind").in_(["a", "b"]), In(field="kind", values=("a", "b"))),
        (F("tags").contains_any("a", "b"), ContainsAny(field="tags", values=("a", "b"))),
        (F("kind").is_null(), IsNull(field="kind")),
        (F("content").like("a%"), Like(field="content", pattern="a%")),
        (F("content").ilike("a%"), Like(field="content", pattern="a%", ignore_case=True)),
        (
            F("metadata").json("a", "b") == 1,
            JsonEquals(field="metadata", path=("a", "b"), value=1),
        ),
        (
            F("metadata").json("a") != True,  # noqa: E712 - builds a filter
            Not(part=JsonEquals(field="metadata", path=("a",), value=True)),
        ),
        (
            F("kind").is_null() & F("tags").is_null() & F("score").is_null(),
            And(parts=(IsNull(field="kind"), IsNull(field="tags"), IsNull(field="score"))),
        ),
        (
            F("kind").is_null() | ~F("tags").is_null(),
            Or(parts=(IsNull(field="kind"), Not(part=IsNull(field="tags")))),
        ),
    ],
)
def test_a_filter_of_the_client_arrives_as_the_model_s(built: Filter, model: ModelFilter) -> None:
    reader = FilterReader(DOCUMENTS, LimitSettings())
    came = pb.Filter.FromString(built.message.SerializeToString())
    assert reader.read(came) == model
    assert reader.problems == []


def test_a_filter_says_no_to_python_s_own_and_or_not_and_to_null() -> None:
    null = F("kind").is_null()
    for wrong in (lambda: null and null, lambda: not null, lambda: 1 < F("score") < 3):
        with pytest.raises(TypeError, match=r"& \| ~"):
            wrong()
    with pytest.raises(TypeError, match=r"is_null\(\)"):
        F("kind") == None  # noqa: B015, E711 - the point of the test


def test_a_filter_without_a_kind_and_one_with_a_wrong_value_are_named() -> None:
    tree = pb.Filter()
    tree.all_of.filters.add()
    leaf = tree.all_of.filters.add().negation.compare
    leaf.field, leaf.op = "token_count", pb.COMPARISON_OP_EQ
    leaf.value.string_value = "1"
    bare = tree.all_of.filters.add().compare
    bare.field = "kind"
    path = tree.all_of.filters.add().json_equals
    path.field = "metadata"
    reader = FilterReader(DOCUMENTS, LimitSettings())
    reader.read(tree)
    assert [problem.where for problem in reader.problems] == [
        "filter.all_of[0]",
        "filter.all_of[1].negation.compare.value",
        "filter.all_of[2].compare.op",
        "filter.all_of[3].json_equals.value",
    ]


def test_a_filter_too_deep_or_too_large_is_refused_while_it_is_read() -> None:
    tree = pb.Filter(is_null=pb.IsNull(field="kind"))
    for _ in range(40):
        tree = pb.Filter(negation=tree)
    with pytest.raises(Rejected, match="at most 16 levels"):
        READER.delete_where(pb.DeleteWhereRequest(collection="documents", filter=tree))
    wide = pb.Filter()
    for _ in range(300):
        wide.all_of.filters.add().is_null.field = "kind"
    with pytest.raises(Rejected, match="at most 256 nodes"):
        READER.count(pb.CountRequest(collection="documents", filter=wide))


def test_the_faults_of_reading_and_of_meaning_are_reported_together() -> None:
    record = record_of(
        metadata=pb.Value(string_value="{}"), nope=pb.Value(), score=pb.Value(double_value=9)
    )
    record.vector = packed(1, 2)
    record.key.parts.add()
    with pytest.raises(Rejected) as caught:
        READER.upsert(pb.UpsertRequest(collection="documents", record=record))
    assert wheres(caught.value) == {
        "record.key.parts[2]",
        "record.fields.metadata",
        "record.fields.nope",
        "record.vector",
    }


def test_a_write_is_read_as_it_was_given() -> None:
    record = record_of(score=pb.Value(int_value=3))
    record.vector = packed(1, 2, 3, 4)
    write = READER.insert(pb.InsertRequest(collection="documents", record=record))
    assert (write.op, write.key) == (WriteOp.INSERT, ("serde", "de"))
    assert write.fields == {"content": "x", "score": 3.0}
    assert (write.vector, write.set_vector) == (packed(1, 2, 3, 4), True)


def test_an_update_leaves_the_vector_unless_it_is_given_or_cleared() -> None:
    patch = pb.Patch(key=key_of("serde", "de"))
    request = pb.UpdateRequest(collection="documents", patch=patch)
    assert READER.update(request).set_vector is False
    request.patch.clear_vector = True
    cleared = READER.update(request)
    assert (cleared.set_vector, cleared.vector) == (True, None)
    request.patch.vector = packed(1, 2, 3, 4)
    with pytest.raises(Rejected, match=r"patch\.clear_vector"):
        READER.update(request)
    request.patch.clear_vector = False
    assert READER.update(request).vector == packed(1, 2, 3, 4)


def test_a_request_without_its_record_or_key_is_refused() -> None:
    with pytest.raises(Rejected) as caught:
        READER.insert(pb.InsertRequest(collection="documents"))
    assert wheres(caught.value) == {"record.key", "record.fields.content"}
    for call in (
        lambda: READER.delete(pb.DeleteRequest(collection="documents")),
        lambda: READER.get(pb.GetRequest(collection="documents")),
        lambda: READER.batch_get(pb.BatchGetRequest(collection="documents")),
        lambda: READER.update(pb.UpdateRequest(collection="documents")),
    ):
        with pytest.raises(Rejected, match="key"):
            call()


def test_delete_where_wants_its_filter_said() -> None:
    with pytest.raises(Rejected, match="an empty all_of matches every record"):
        READER.delete_where(pb.DeleteWhereRequest(collection="documents"))
    everything = pb.DeleteWhereRequest(collection="documents")
    everything.filter.all_of.SetInParent()
    assert READER.delete_where(everything) == ("documents", And(parts=()))


def test_batch_items_are_named_by_their_place() -> None:
    item = pb.WriteItem(collection="documents", upsert=record_of(nope=pb.Value()))
    with pytest.raises(Rejected) as caught:
        READER.item(item, "items[3]")
    assert wheres(caught.value) == {"items[3].upsert.fields.nope"}
    for wrong, where in (
        (pb.WriteItem(collection="documents"), "items[3]"),
        (pb.WriteItem(collection="x"), "items[3].collection"),
        (pb.WriteItem(collection="jobs", delete=key_of("a")), "items[3].delete.key.id"),
        (pb.WriteItem(collection="jobs", update=pb.Patch()), "items[3].update.key"),
    ):
        with pytest.raises(Rejected) as refused:
            READER.item(wrong, "items[3]")
        assert wheres(refused.value) == {where}


def test_the_size_of_a_batch_is_bounded() -> None:
    for count in (0, 1001):
        with pytest.raises(Rejected, match="1 to 1000 items"):
            READER.batch_size(pb.BatchWriteRequest(items=[pb.WriteItem()] * count))
    assert READER.batch_size(pb.BatchWriteRequest(items=[pb.WriteItem()] * 1000)) == 1000


def test_limits_have_defaults_and_a_mask_tells_none_from_all() -> None:
    _, listed = READER.list_records(pb.ListRequest(collection="documents"))
    assert (listed.limit, listed.projection) == (100, Projection())
    _, searched = READER.search(
        pb.SearchRequest(
            collection="documents", vector=packed(1, 0, 0, 0), field_mask=FieldMask(), exact=False
        )
    )
    assert (searched.limit, searched.mode, searched.exact) == (10, SearchMode.VECTOR, False)
    assert searched.projection == Projection(fields=())


def test_a_mask_forgets_key_fields_and_repetitions() -> None:
    mask = FieldMask(paths=["content", "doc_path", "content"])
    request = pb.GetRequest(
        collection="documents", key=key_of("a", "b"), field_mask=mask, include_vector=True
    )
    _, key, projection = READER.get(request)
    assert key == ("a", "b")
    assert projection == Projection(fields=("content",), vector=True)


def test_an_unknown_search_mode_and_an_unknown_mask_field_are_refused() -> None:
    unknown = pb.SearchRequest(collection="documents")
    unknown.MergeFromString(b"\x10\x63")  # mode = 99, from a newer client
    with pytest.raises(Rejected, match="mode: expected a SearchMode, got 99"):
        READER.search(unknown)
    masked = pb.BatchGetRequest(
        collection="documents", keys=[key_of("a", "b")], field_mask=FieldMask(paths=["nope"])
    )
    with pytest.raises(Rejected, match="field_mask: expected one of"):
        READER.batch_get(masked)


def test_a_list_is_read_with_its_order() -> None:
    request = pb.ListRequest(
        collection="documents",
        order_by=[pb.Order(field="score", descending=True), pb.Order(field="kind")],
        limit=5,
        offset=10,
    )
    _, query = READER.list_records(request)
    assert query.order == (Order(field="score", descending=True), Order(field="kind"))
    assert (query.limit, query.offset, query.after) == (5, 10, None)
