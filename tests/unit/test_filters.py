"""Filters: what is refused, and what three-valued logic makes of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.filters import evaluate, like_matches, matches
from proxy.model import CollectionSpec, FieldSpec, FieldType, Record, Value
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
)

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


def test_a_field_the_collection_does_not_have_is_rejected() -> None:
    with pytest.raises(Rejected, match="expected one of bool, float") as caught:
        evaluate(And(parts=(compare("nothing", 1),)), SPEC, record())
    (violation,) = caught.value.violations
    assert violation.got == "nothing"


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
