"""Filters: is one well formed for a collection, and does a record match it? Pure, no I/O.

Logic is three-valued as in SQL: None stands for "unknown", a comparison with null is unknown,
and only a record for which the filter is True matches.
"""

from __future__ import annotations

import datetime as dt
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

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
_SHOWN = 60
_ORDERED = frozenset(
    {FieldType.TEXT, FieldType.INT, FieldType.FLOAT, FieldType.BOOL, FieldType.TIMESTAMP}
)
_SCALAR_TYPES: Mapping[FieldType, tuple[type, ...]] = {
    FieldType.TEXT: (str,),
    FieldType.INT: (int,),
    FieldType.FLOAT: (float, int),
    FieldType.BOOL: (bool,),
    FieldType.TIMESTAMP: (dt.datetime,),
}


def check_filter(
    filter: Filter,
    spec: CollectionSpec,
    *,
    depth_max: int = 16,
    nodes_max: int = 256,
    where: str = "filter",
) -> None:
    """Return if the filter can be asked of the collection.

    Raises:
        Rejected: INVALID_ARGUMENT with one violation for each thing that is wrong.
    """
    _check_size(filter, depth_max, nodes_max, where)
    problems = tuple(_problems(filter, spec, where))
    if problems:
        raise Rejected(
            f"The filter on {spec.name} is not valid: {problems[0]}", violations=problems
        )


def _check_size(filter: Filter, depth_max: int, nodes_max: int, where: str) -> None:
    """Refuse a filter that is too deep or too large, before anything recurses into it."""
    level: list[Filter] = [filter]
    depth = nodes = 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > depth_max:
            _too_large(where, f"at most {depth_max} levels", "a deeper one")
        if nodes > nodes_max:
            _too_large(where, f"at most {nodes_max} conditions", "more")
        level = [part for node in level for part in _parts(node)]


def _too_large(where: str, expected: str, got: str) -> None:
    violation = Violation(where=where, expected=expected, got=got)
    raise Rejected(f"The filter is too large: {violation}", violations=(violation,))


def _parts(node: Filter) -> tuple[Filter, ...]:
    if isinstance(node, And | Or):
        return node.parts
    return (node.part,) if isinstance(node, Not) else ()


def _problems(node: Filter, spec: CollectionSpec, where: str) -> Iterator[Violation]:
    if isinstance(node, And | Or):
        name = "and" if isinstance(node, And) else "or"
        for number, part in enumerate(node.parts):
            yield from _problems(part, spec, f"{where}.{name}[{number}]")
    elif isinstance(node, Not):
        yield from _problems(node.part, spec, f"{where}.not")
    else:
        field = spec.by_name.get(node.field)
        if field is None:
            known = ", ".join(sorted(spec.by_name))
            yield Violation(
                where=where, expected=f"a field of {spec.name} ({known})", got=node.field
            )
        else:
            yield from _leaf_problems(node, field, f"{where}.{node.field}")


def _leaf_problems(
    node: Compare | In | ContainsAny | IsNull | Like | JsonEquals, field: FieldSpec, where: str
) -> Iterator[Violation]:
    if isinstance(node, Compare):
        yield from _compare_problems(node, field, where)
    elif isinstance(node, In):
        if field.type not in _ORDERED:
            yield _wrong_type(where, "'in' needs a scalar field", field)
        else:
            for number, value in enumerate(node.values):
                yield from _value_problems(value, field, f"{where}[{number}]")
    elif isinstance(node, ContainsAny):
        if field.type is not FieldType.TEXT_LIST:
            yield _wrong_type(where, "'contains_any' needs a text_list field", field)
        for number, text in enumerate(node.values):
            yield from _text_problems(text, f"{where}[{number}]")
    elif isinstance(node, Like):
        if field.type is not FieldType.TEXT:
            yield _wrong_type(where, "'like' needs a text field", field)
        yield from _pattern_problems(node.pattern, where)
    elif isinstance(node, JsonEquals):
        yield from _json_problems(node, field, where)


def _wrong_type(where: str, expected: str, field: FieldSpec) -> Violation:
    return Violation(where=where, expected=expected, got=f"{field.name} is {field.type.value}")


def _compare_problems(node: Compare, field: FieldSpec, where: str) -> Iterator[Violation]:
    if field.type is FieldType.JSON:
        yield _wrong_type(where, "a json field is compared by json_equals", field)
    elif field.type is FieldType.TEXT_LIST:
        if node.op not in (CompareOp.EQ, CompareOp.NE):
            yield _wrong_type(where, "a text_list is compared by eq, ne or contains_any", field)
        yield from _list_problems(node.value, where)
    else:
        yield from _value_problems(node.value, field, where)


def _list_problems(value: Value, where: str) -> Iterator[Violation]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        yield Violation(where=where, expected="a list of texts", got=_shown(value))
        return
    for number, item in enumerate(value):
        yield from _text_problems(item, f"{where}[{number}]")


def _value_problems(value: Value, field: FieldSpec, where: str) -> Iterator[Violation]:
    allowed = _SCALAR_TYPES[field.type]
    is_bool = isinstance(value, bool)
    if not isinstance(value, allowed) or is_bool != (field.type is FieldType.BOOL):
        expected = f"a {field.type.value}" + (" (is_null finds nulls)" if value is None else "")
        yield Violation(where=where, expected=expected, got=_shown(value))
    elif field.type is FieldType.TEXT:
        yield from _text_problems(value, where)
    elif isinstance(value, dt.datetime):
        if value.tzinfo is None:
            yield Violation(where=where, expected="a timestamp with a zone", got=_shown(value))
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield Violation(where=where, expected="a finite number", got=_shown(value))
    elif isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        yield Violation(where=where, expected="a 64-bit integer", got=_shown(value))


def _text_problems(value: object, where: str) -> Iterator[Violation]:
    if not isinstance(value, str):
        yield Violation(where=where, expected="a text", got=_shown(value))
    elif "\0" in value:
        yield Violation(where=where, expected="a text without NUL characters", got=_shown(value))


def _pattern_problems(pattern: str, where: str) -> Iterator[Violation]:
    yield from _text_problems(pattern, where)
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        expected = "a pattern that does not end with a lone backslash"
        yield Violation(where=where, expected=expected, got=_shown(pattern))


def _json_problems(node: JsonEquals, field: FieldSpec, where: str) -> Iterator[Violation]:
    if field.type is not FieldType.JSON:
        yield _wrong_type(where, "'json_equals' needs a json field", field)
    if not node.path:
        yield Violation(where=where, expected="a path of at least one name", got="()")
    for number, name in enumerate(node.path):
        yield from _text_problems(name, f"{where}.path[{number}]")
    if isinstance(node.value, str):
        yield from _text_problems(node.value, where)
    elif isinstance(node.value, float) and not math.isfinite(node.value):
        yield Violation(where=where, expected="a finite number", got=_shown(node.value))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def refuse_field(collection: str, what: str, expected: str, got: str) -> Rejected:
    """Return the rejection of a query part that names a field it cannot be used with."""
    violation = Violation(where=what, expected=expected, got=got)
    return Rejected(
        f"The query of {collection} is not valid: {violation}",
        reason=Reason.INVALID_ARGUMENT,
        violations=(violation,),
    )


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
    """Return a field or key part of a record, None if it is null or absent."""
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
