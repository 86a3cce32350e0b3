"""Filters: what is refused, and what three-valued logic makes of the rest."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.filters import check_filter, evaluate, like_matches, matches
from proxy.model import CollectionSpec, FieldSpec, FieldType, Record, Value
from proxy.query import (
    And,
    Compare,
    CompareOp,
    ContainsAny,
    Filter,
    In,
    IsNull,
    JsonEquals,
    Like,
    Not,
    Or,
)

WHEN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SPEC = CollectionSpec(
    name="things",
    key=("id",),
    fields=(
        FieldSpec(name="id", type=FieldType.TEXT),
        FieldSpec(name="text", type=FieldType.TEXT),
        FieldSpec(name="int", type=FieldType.INT),
        FieldSpec(name="float", type=FieldType.FLOAT),
        FieldSpec(name="bool", type=FieldType.BOOL),
        FieldSpec(name="when", type=FieldType.TIMESTAMP),
        FieldSpec(name="list", type=FieldType.TEXT_LIST),
        FieldSpec(name="json", type=FieldType.JSON),
    ),
)


def compare(field: str, value: Value, op: CompareOp = CompareOp.EQ) -> Compare:
    return Compare(field=field, op=op, value=value)


def record(**fields: Value) -> Record:
    return Record(collection="things", key=("k",), fields=fields)


@pytest.mark.parametrize(
    ("filter", "word"),
    [
        (compare("nothing", 1), "a field of things"),
        (compare("int", "1"), "a int"),
        (compare("int", True), "a int"),
        (compare("int", 1.0), "a int"),
        (compare("int", 2**63), "64-bit"),
        (compare("bool", 1), "a bool"),
        (compare("text", None), "is_null"),
        (compare("text", "a\0b"), "NUL"),
        (compare("float", float("nan")), "finite"),
        (compare("float", True), "a float"),
        (compare("when", WHEN.replace(tzinfo=None)), "zone"),
        (compare("when", "2026-01-01"), "a timestamp"),
        (compare("json", {}), "json_equals"),
        (compare("list", ["a"], CompareOp.LT), "contains_any"),
        (compare("list", "a"), "a list of texts"),
        (compare("list", [1]), "a text"),
        (In(field="list", values=()), "scalar"),
        (In(field="int", values=(1, "2")), "a int"),
        (ContainsAny(field="text", values=("a",)), "text_list"),
        (Like(field="int", pattern="1%"), "text field"),
        (Like(field="text", pattern="a\\"), "lone backslash"),
        (Like(field="text", pattern="\0"), "NUL"),
        (JsonEquals(field="text", path=("a",), value=1), "json field"),
        (JsonEquals(field="json", path=(), value=1), "path"),
        (JsonEquals(field="json", path=("a",), value=float("inf")), "finite"),
        (JsonEquals(field="json", path=("a\0",), value=1), "NUL"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_with_its_place(filter: Filter, word: str) -> None:
    with pytest.raises(Rejected) as caught:
        check_filter(And(parts=(And(parts=()), Not(part=filter))), SPEC)
    (violation, *_) = caught.value.violations
    assert violation.where.startswith("filter.and[1].not")
    assert word in str(violation)


def test_every_problem_of_a_filter_is_named_at_once() -> None:
    with pytest.raises(Rejected) as caught:
        check_filter(Or(parts=(compare("x", 1), compare("int", "y"), compare("int", 1))), SPEC)
    assert [v.where for v in caught.value.violations] == ["filter.or[0]", "filter.or[1].int"]


def test_a_filter_too_deep_or_too_large_is_refused_before_anything_recurses() -> None:
    deep: Filter = compare("int", 1)
    for _ in range(100_000):
        deep = Not(part=deep)
    with pytest.raises(Rejected, match="at most 16 levels"):
        check_filter(deep, SPEC)
    wide = Or(parts=tuple(compare("int", n) for n in range(300)))
    with pytest.raises(Rejected, match="at most 256 conditions"):
        check_filter(wide, SPEC)
    check_filter(wide, SPEC, nodes_max=301)
    while isinstance(deep, Not):  # a recursive destructor would overflow, too
        deep = deep.part


def test_a_sound_filter_is_accepted() -> None:
    check_filter(
        And(
            parts=(
                compare("id", "k"),
                compare("float", 1),
                compare("when", WHEN, CompareOp.GE),
                compare("list", ["a"], CompareOp.NE),
                In(field="bool", values=(True,)),
                Like(field="text", pattern="a\\\\%"),
                JsonEquals(field="json", path=("a", "b"), value=False),
                IsNull(field="json"),
            )
        ),
        SPEC,
    )


def test_comparisons_with_null_are_unknown_and_unknown_does_not_match() -> None:
    empty = record()
    for filter in (
        compare("int", 1),
        compare("int", 1, CompareOp.NE),
        In(field="int", values=(1,)),
        ContainsAny(field="list", values=()),
        Like(field="text", pattern="%"),
        JsonEquals(field="json", path=("a",), value=1),
    ):
        assert evaluate(filter, SPEC, empty) is None
        assert evaluate(Not(part=filter), SPEC, empty) is None
        assert not matches(filter, SPEC, empty)
    assert evaluate(In(field="int", values=()), SPEC, empty) is False
    assert evaluate(IsNull(field="int"), SPEC, empty) is True
    assert matches(None, SPEC, empty)


@given(st.lists(st.sampled_from([True, False, None])))
def test_and_or_not_follow_kleene(truths: list[bool | None]) -> None:
    parts = tuple(
        compare("int", 1) if truth is None else compare("id", "k" if truth else "x")
        for truth in truths
    )
    both = evaluate(And(parts=parts), SPEC, record())
    either = evaluate(Or(parts=parts), SPEC, record())
    assert both is (False if False in truths else None if None in truths else True)
    assert either is (True if True in truths else None if None in truths else False)


def test_json_is_compared_by_type_and_json_null_is_null() -> None:
    stored = record(json={"n": 1, "f": 1.0, "t": "1", "b": True, "z": None, "l": [1], "o": {}})

    def ask(name: str, value: str | float) -> bool | None:
        return evaluate(JsonEquals(field="json", path=(name,), value=value), SPEC, stored)

    assert ask("n", 1) is True
    assert ask("n", 1.0) is True
    assert ask("f", 1) is True
    assert ask("n", "1") is False
    assert ask("t", "1") is True
    assert ask("b", True) is True
    assert ask("b", 1) is False
    assert ask("n", True) is False
    assert ask("z", 1) is None
    assert ask("none", 1) is None
    assert ask("l", 1) is False
    assert ask("o", "x") is False


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("a%c", "abbbc", True),
        ("a%c", "a\nc", True),
        ("a_c", "abc", True),
        ("a_c", "ac", False),
        ("a\\%c", "a%c", True),
        ("a\\%c", "abc", False),
        ("\\\\", "\\", True),
        ("a.c", "abc", False),
        ("", "", True),
        ("", "a", False),
        ("%", "", True),
        ("[ab]", "a", False),
    ],
)
def test_like_is_sqls(pattern: str, text: str, expected: bool) -> None:
    assert like_matches(pattern, text, ignore_case=False) is expected


def test_ilike_ignores_case() -> None:
    assert like_matches("ÄB%", "äbc", ignore_case=True)
    assert not like_matches("ÄB%", "äbc", ignore_case=False)
