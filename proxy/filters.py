"""Does a record match a filter, and what does a field sort by? Pure, no I/O.

Whether a filter makes sense for a collection is checked before: see `proxy.validate_query`.
Logic is three-valued as in SQL: None stands for "unknown", a comparison with null is unknown,
and only a record for which the filter is True matches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias

from proxy.errors import Reason, Rejected, Violation
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

Truth: TypeAlias = bool | None

_ORDERED = frozenset(
    {FieldType.TEXT, FieldType.INT, FieldType.FLOAT, FieldType.BOOL, FieldType.TIMESTAMP}
)


def refuse_field(collection: str, what: str, expected: str, got: str) -> Rejected:
    """Return the rejection of a query part that names a field it cannot be used with."""
    violation = Violation(where=what, expected=expected, got=got)
    return Rejected(
        f"The query of {collection} is not valid: {violation}",
        reason=Reason.INVALID_ARGUMENT,
        violations=(violation,),
    )


def unknown_field(spec: CollectionSpec, name: str) -> Rejected:
    """Return the rejection of a name that is no field of the collection."""
    return refuse_field(spec.name, "filter", f"one of {', '.join(sorted(spec.by_name))}", name)


def orderable(spec: CollectionSpec, name: str, what: str) -> FieldSpec:
    """Return the field if records can be ordered or grouped by it, else raise Rejected."""
    field = spec.by_name.get(name)
    if field is None or field.type not in _ORDERED:
        raise refuse_field(spec.name, what, "a text, int, float, bool or timestamp field", name)
    return field


def summable(spec: CollectionSpec, name: str) -> FieldSpec:
    """Return the field if it is a number, else raise Rejected."""
    field = spec.by_name.get(name)
    if field is None or field.type not in (FieldType.INT, FieldType.FLOAT):
        raise refuse_field(spec.name, "sum_field", "an int or float field", name)
    return field


def matches(filter: Filter | None, spec: CollectionSpec, record: Record) -> bool:
    """Return True if the filter is true of the record (None matches everything)."""
    return filter is None or evaluate(filter, spec, record) is True


def evaluate(filter: Filter, spec: CollectionSpec, record: Record) -> Truth:
    """Evaluate a checked filter; a field that the record does not have is null."""
    if isinstance(filter, And):
        return _all(evaluate(part, spec, record) for part in filter.parts)
    if isinstance(filter, Or):
        return _negate(_all(_negate(evaluate(part, spec, record)) for part in filter.parts))
    if isinstance(filter, Not):
        return _negate(evaluate(filter.part, spec, record))
    return _leaf(filter, spec, record)


def _all(truths: Iterator[Truth]) -> Truth:
    result: Truth = True
    for truth in truths:
        if truth is False:
            return False
        if truth is None:
            result = None
    return result


def _negate(truth: Truth) -> Truth:
    return None if truth is None else not truth


def field_value(spec: CollectionSpec, record: Record, name: str) -> Value:
    """Return a field or key part of a record, None if it is null or absent.

    Raises:
        Rejected: the collection has no such field.
    """
    if name not in spec.by_name:
        raise unknown_field(spec, name)
    if name in spec.key:
        return record.key[spec.key.index(name)]
    return record.fields.get(name)


def _leaf(
    node: Compare | In | ContainsAny | IsNull | Like | JsonEquals,
    spec: CollectionSpec,
    record: Record,
) -> Truth:
    value = field_value(spec, record, node.field)
    if isinstance(node, IsNull):
        return value is None
    if isinstance(node, In) and not node.values:
        return False
    return None if value is None else _not_null_leaf(node, value)


def _not_null_leaf(node: Compare | In | ContainsAny | Like | JsonEquals, value: Value) -> Truth:
    if isinstance(node, In):
        return any(_compare_values(value, item) == 0 for item in node.values)
    if isinstance(node, Compare):
        return _compare(node, value)
    if isinstance(node, ContainsAny):
        return not set(node.values).isdisjoint(value)  # type: ignore[arg-type]  # a text_list
    if isinstance(node, Like):
        return like_matches(node.pattern, str(value), ignore_case=node.ignore_case)
    return _json_equals(node, value)


_COMPARISONS: Mapping[CompareOp, Callable[[int], bool]] = {
    CompareOp.EQ: lambda sign: sign == 0,
    CompareOp.NE: lambda sign: sign != 0,
    CompareOp.LT: lambda sign: sign < 0,
    CompareOp.LE: lambda sign: sign <= 0,
    CompareOp.GT: lambda sign: sign > 0,
    CompareOp.GE: lambda sign: sign >= 0,
}


def _compare(node: Compare, value: Value) -> bool:
    if isinstance(value, list | tuple):
        equal = list(value) == list(node.value)  # type: ignore[arg-type]  # checked: a list
        return equal == (node.op is CompareOp.EQ)
    return _COMPARISONS[node.op](_compare_values(value, node.value))


def _compare_values(left: Value, right: Value) -> int:
    a, b = sort_value(left), sort_value(right)
    return (a > b) - (a < b)


def sort_value(value: Value) -> tuple[int, object]:
    """Return what a scalar sorts by: texts by their bytes, NaN above every number."""
    if isinstance(value, str):
        return (0, value.encode("utf-8", "surrogatepass"))
    if isinstance(value, float) and math.isnan(value):
        return (1, 0)
    return (0, value)


def like_matches(pattern: str, text: str, *, ignore_case: bool) -> bool:
    """Match SQL LIKE: % any run, _ one character, backslash takes the next one literally."""
    if ignore_case:
        pattern, text = pattern.lower(), text.lower()
    return _like_expression(pattern).fullmatch(text) is not None


@lru_cache(maxsize=256)
def _like_expression(pattern: str) -> re.Pattern[str]:
    out: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            out.append(".*")
        elif character == "_":
            out.append(".")
        elif character == "\\":
            out.append(re.escape(next(characters, "\\")))
        else:
            out.append(re.escape(character))
    return re.compile("".join(out), re.DOTALL)


def _json_equals(node: JsonEquals, value: Value) -> Truth:
    found: object = value
    for name in node.path:
        found = found.get(name) if isinstance(found, Mapping) else None
    if found is None:
        return None
    if isinstance(found, bool) or isinstance(node.value, bool):
        return found is node.value
    if isinstance(found, str) or isinstance(node.value, str):
        return isinstance(found, str) and found == node.value
    return isinstance(found, int | float) and found == node.value
