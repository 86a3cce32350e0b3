"""What a question must look like before it may reach a store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.config.settings import LimitSettings
from proxy.model import EmbeddingSpec, Metric, Value, VectorSpec
from proxy.query import (
    And,
    Compare,
    CompareOp,
    ContainsAny,
    CountQuery,
    Filter,
    In,
    IsNull,
    JsonEquals,
    Like,
    ListQuery,
    Not,
    Or,
    Order,
    Projection,
    SearchMode,
    SearchQuery,
)
from proxy.validate_query import (
    count_problems,
    filter_problems,
    keys_problems,
    list_problems,
    order_problems,
    search_problems,
)
from tests.wire_fakes import DOCUMENTS, JOBS, NOON, packed

LIMITS = LimitSettings()


def said_of(tree: Filter) -> list[str]:
    """Return the violations of a filter as text."""
    return [str(problem) for problem in filter_problems(tree, DOCUMENTS, LIMITS)]


def compare(field: str, op: CompareOp, value: Value) -> Compare:
    """Return a comparison."""
    return Compare(field=field, op=op, value=value)


@pytest.mark.parametrize(
    "tree",
    [
        compare("doc_path", CompareOp.EQ, "a"),
        compare("active", CompareOp.NE, True),
        compare("score", CompareOp.LT, 1),
        compare("created_at", CompareOp.GE, NOON),
        In(field="token_count", values=()),
        In(field="source_name", values=("a", "b")),
        ContainsAny(field="tags", values=("a",)),
        IsNull(field="metadata"),
        Like(field="content", pattern="a\\%%_"),
        Like(field="content", pattern="\\\\"),
        JsonEquals(field="metadata", path=("a", "b"), value=1.5),
        JsonEquals(field="metadata", path=("a",), value=False),
        And(parts=()),
        Or(parts=()),
        Not(part=And(parts=(IsNull(field="kind"), Or(parts=(IsNull(field="tags"),))))),
    ],
)
def test_a_filter_that_fits_the_schema_is_accepted(tree: Filter) -> None:
    assert said_of(tree) == []


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (compare("nope", CompareOp.EQ, 1), "filter.compare.field: expected one of active"),
        (compare("active", CompareOp.LT, True), "active of type bool"),
        (compare("tags", CompareOp.EQ, "a"), "tags of type text_list"),
        (compare("metadata", CompareOp.EQ, "a"), "metadata of type json"),
        (compare("token_count", CompareOp.EQ, "1"), "compare.value: expected a 64-bit integer"),
        (compare("token_count", CompareOp.EQ, None), "is_null asks for null"),
        (compare("score", CompareOp.GT, float("nan")), "a finite number"),
        (In(field="token_count", values=(1, "2")), "in_list.values[1]: expected a 64-bit"),
        (In(field="token_count", values=(1, None)), "in_list.values[1]"),
        (In(field="token_count", values=tuple(range(1001))), "in_list.values: expected 0 to 1000"),
        (ContainsAny(field="content", values=("a",)), "content of type text"),
        (ContainsAny(field="tags", values=("a\x00",)), "without U+0000"),
        (ContainsAny(field="tags", values=("a",) * 1001), "0 to 1000"),
        (IsNull(field="nope"), "filter.is_null.field"),
        (Like(field="score", pattern="%"), "score of type float"),
        (Like(field="content", pattern="a\\"), "a character after the last backslash"),
        (Like(field="content", pattern="a\x00"), "without U+0000"),
        (Like(field="content", pattern="%" * 10_001), "at most 10000 characters"),
        (JsonEquals(field="content", path=("a",), value=1), "content of type text"),
        (JsonEquals(field="metadata", path=(), value=1), "json_equals.path: expected 1 to 32"),
        (JsonEquals(field="metadata", path=("a",) * 33, value=1), "got 33"),
        (JsonEquals(field="metadata", path=("\x00",), value=1), "path[0]"),
        (JsonEquals(field="metadata", path=("a",), value=float("inf")), "a finite number"),
        (JsonEquals(field="metadata", path=("a",), value="\x00"), "value: expected a text"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused_with_its_place(tree: Filter, said: str) -> None:
    found = said_of(tree)
    assert len(found) == 1
    assert said in found[0]


def test_a_wrong_leaf_deep_in_a_tree_is_named_by_its_path() -> None:
    good = IsNull(field="kind")
    tree = And(parts=(good, Or(parts=(good, Not(part=IsNull(field="nope"))))))
    assert said_of(tree)[0].startswith("filter.all_of[1].any_of[1].negation.is_null.field:")


def test_every_wrong_leaf_is_reported_in_the_order_of_the_tree() -> None:
    tree = And(parts=tuple(IsNull(field=f"nope{number}") for number in range(3)))
    assert [line.split(":")[0] for line in said_of(tree)] == [
        f"filter.all_of[{number}].is_null.field" for number in range(3)
    ]


def test_the_depth_and_the_size_of_a_filter_are_bounded() -> None:
    tree: Filter = IsNull(field="kind")
    for _ in range(LIMITS.filter_depth_max - 1):
        tree = Not(part=tree)
    assert said_of(tree) == []
    assert said_of(Not(part=tree)) == ["filter: expected at most 16 levels, got more"]
    wide = And(parts=(IsNull(field="kind"),) * (LIMITS.filter_nodes_max - 1))
    assert said_of(wide) == []
    wider = And(parts=(*wide.parts, IsNull(field="kind")))
    assert said_of(wider) == ["filter: expected at most 256 nodes, got more"]


def list_said(query: ListQuery) -> list[str]:
    """Return the violations of a list query as text."""
    return [str(problem) for problem in list_problems(query, DOCUMENTS, LIMITS)]


LIST = ListQuery(collection="documents", order=(Order(field="score", descending=True),))


def test_a_good_list_is_accepted_with_a_token_and_with_an_offset() -> None:
    assert list_said(replace(LIST, after=(None, "a", "b"))) == []
    assert list_said(replace(LIST, offset=10_000, limit=1000)) == []
    fields = Projection(fields=("content", "doc_path"), vector=True)
    assert list_said(replace(LIST, projection=fields)) == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (replace(LIST, limit=0), "limit: expected 1 to 1000, got 0"),
        (replace(LIST, limit=1001), "limit"),
        (replace(LIST, limit=-1), "limit"),
        (replace(LIST, offset=-1), "offset: expected 0 to 10000, got -1"),
        (replace(LIST, offset=10_001), "offset"),
        (replace(LIST, offset=1, after=(0.5, "a", "b")), "offset: expected 0 with a page token"),
        (replace(LIST, after=("a", "b")), "page_token"),
        (replace(LIST, after=("high", "a", "b")), "page_token"),
        (replace(LIST, after=(0.5, "a", None)), "page_token"),
        (replace(LIST, order=(Order(field="nope"),)), "order_by[0].field: expected one of"),
        (replace(LIST, order=(Order(field="tags"),)), "tags of type text_list"),
        (replace(LIST, order=(Order(field="score"),) * 2), "order_by[1].field: expected each"),
        (replace(LIST, projection=Projection(fields=("nope",))), "field_mask"),
    ],
)
def test_a_wrong_list_is_refused(query: ListQuery, said: str) -> None:
    found = list_said(query)
    assert len(found) == 1
    assert said in found[0]


def test_the_number_of_sort_terms_is_bounded() -> None:
    terms = tuple(Order(field=f"f{number}") for number in range(9))
    assert "at most 8 terms" in str(order_problems(terms, DOCUMENTS)[0])


def test_a_vector_cannot_be_asked_of_a_collection_without_one() -> None:
    query = ListQuery(collection="jobs", projection=Projection(vector=True))
    assert "include_vector: expected false" in str(list_problems(query, JOBS, LIMITS)[0])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (CountQuery(collection="documents", group_by="nope"), "group_by: expected one of"),
        (CountQuery(collection="documents", group_by="tags"), "group_by: expected a field of type"),
        (CountQuery(collection="documents", sum_field="content"), "sum_field"),
        (CountQuery(collection="documents", filter=IsNull(field="nope")), "filter.is_null"),
    ],
)
def test_a_wrong_count_is_refused(query: CountQuery, said: str) -> None:
    found = [str(problem) for problem in count_problems(query, DOCUMENTS, LIMITS)]
    assert len(found) == 1
    assert said in found[0]


SEARCH = SearchQuery(collection="documents", vector=packed(1, 0, 0, 0))
WORDS = SearchQuery(collection="documents", mode=SearchMode.KEYWORD, text="borrow")
MANY = " ".join(f"w{number}" for number in range(64))


@pytest.mark.parametrize(
    "query",
    [
        SEARCH,
        WORDS,
        replace(WORDS, text=MANY),
        replace(WORDS, text=f"{MANY} " * 40),
        replace(WORDS, mode=SearchMode.TEXT, text=MANY + " z"),
        replace(WORDS, mode=SearchMode.HYBRID),
        replace(WORDS, mode=SearchMode.HYBRID, vector=SEARCH.vector, alpha=1.0),
    ],
)
def test_a_good_search_of_every_mode_is_accepted(query: SearchQuery) -> None:
    assert search_problems(query, DOCUMENTS, LIMITS) == []


def test_a_search_with_nothing_to_look_for_is_told_of_the_text_that_would_do() -> None:
    embedding = EmbeddingSpec(model="m", template="{content}", fields=("content",))
    made = replace(DOCUMENTS, vector=VectorSpec(dim=4, embedding=embedding))
    (problem,) = search_problems(replace(SEARCH, vector=None), made, LIMITS)
    assert "(16 bytes), or a text instead, got nothing" in str(problem)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (replace(SEARCH, vector=None), "vector: expected 4 float32 (16 bytes), got nothing"),
        (replace(SEARCH, vector=packed(1, 2)), "got 8 bytes, 2 float32"),
        (replace(SEARCH, vector=packed(1, 2, 3, float("nan"))), "vector[3]"),
        (replace(SEARCH, vector=packed(0, -0.0, 0, 0)), "a vector with a direction"),
        (replace(SEARCH, limit=0), "limit: expected 1 to 1000, got 0"),
        (replace(SEARCH, limit=1001), "limit"),
        (replace(WORDS, text=""), "text: expected 1 to 10000 characters"),
        (replace(WORDS, text="x" * 10_001), "text"),
        (replace(WORDS, text="a\x00"), "without U+0000"),
        (
            replace(WORDS, text=MANY + " z"),
            "text: expected at most 64 words in mode keyword, got 65",
        ),
        (replace(WORDS, text=MANY.replace(" ", " or ") + " -z"), "got 65 words"),
        (replace(WORDS, text=f'"{MANY} z"', mode=SearchMode.HYBRID), "64 words in mode hybrid"),
        (replace(WORDS, vector=SEARCH.vector), "vector: expected none in this mode"),
        (replace(WORDS, mode=SearchMode.HYBRID, alpha=1.1), "alpha: expected 0 to 1"),
        (replace(WORDS, mode=SearchMode.HYBRID, alpha=float("nan")), "alpha"),
        (replace(SEARCH, filter=IsNull(field="nope")), "filter.is_null.field"),
    ],
)
def test_a_wrong_search_is_refused(query: SearchQuery, said: str) -> None:
    found = [str(problem) for problem in search_problems(query, DOCUMENTS, LIMITS)]
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    "query", [SEARCH, replace(WORDS, mode=SearchMode.HYBRID, vector=packed(1, 0, 0, 0))]
)
def test_no_vector_of_a_client_is_right_for_stores_of_two_models(query: SearchQuery) -> None:
    spec = replace(DOCUMENTS, vector=VectorSpec(dim=4, given=False))
    (problem,) = search_problems(query, spec, LIMITS)
    assert problem.where == "vector"
    assert "search by text: each store embeds it by its own model" in str(problem)
    assert (
        search_problems(replace(query, mode=SearchMode.TEXT, text="x", vector=None), spec, LIMITS)
        == []
    )


def test_a_zero_vector_is_a_fine_query_where_length_counts() -> None:
    spec = replace(DOCUMENTS, vector=VectorSpec(dim=4, metric=Metric.L2))
    assert search_problems(replace(SEARCH, vector=packed(0, 0, 0, 0)), spec, LIMITS) == []


def test_a_vector_search_of_a_collection_without_vectors_is_refused() -> None:
    found = search_problems(replace(SEARCH, collection="jobs"), JOBS, LIMITS)
    assert [problem.where for problem in found] == ["collection"]


def test_the_number_of_keys_of_a_read_is_bounded() -> None:
    assert keys_problems([(1,)], JOBS, LIMITS) == []
    for keys in ([], [(1,)] * 1001):
        assert "1 to 1000 keys" in str(keys_problems(keys, JOBS, LIMITS)[0])
    assert keys_problems([(1,), ("x",)], JOBS, LIMITS)[0].where == "keys[1].id"
