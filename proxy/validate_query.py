"""What a question must look like: filters, orders, lists, counts, searches; checked early.

Pure, as `proxy.validate`: every function returns all that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from proxy.config.settings import LimitSettings
from proxy.errors import Violation
from proxy.model import CollectionSpec, FieldType, Key, Metric, Value
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
from proxy.validate import key_problems, one_of, packed_problem, shown, type_problem
from proxy.words import parse, word_count

ORDER_TERMS_MAX = 8
JSON_PATH_MAX = 32
SEARCH_TEXT_MAX = 10_000
"""Characters of a search text; an embedding model reads far fewer."""
SEARCH_WORDS_MAX = 64
"""Words of a search by words: each is looked up in every field, and what the rest costs grows."""
PATTERN_MAX = 10_000

_EQUATABLE = frozenset(
    {FieldType.TEXT, FieldType.INT, FieldType.FLOAT, FieldType.BOOL, FieldType.TIMESTAMP}
)
_ORDERED = _EQUATABLE - {FieldType.BOOL}
_NUMERIC = frozenset({FieldType.INT, FieldType.FLOAT})


def keys_problems(
    keys: Sequence[Key], spec: CollectionSpec, limits: LimitSettings, *, where: str = "keys"
) -> list[Violation]:
    """Return what is wrong with the keys of a read."""
    if not 1 <= len(keys) <= limits.batch_items_max:
        expected = f"1 to {limits.batch_items_max} keys"
        return [Violation(where=where, expected=expected, got=str(len(keys)))]
    problems: list[Violation] = []
    for number, key in enumerate(keys):
        problems += key_problems(key, spec, limits, where=f"{where}[{number}]")
    return problems


def projection_problems(
    projection: Projection, spec: CollectionSpec, *, where: str = "field_mask"
) -> list[Violation]:
    """Return what is wrong with a field mask, or with asking for a vector there is none of."""
    problems = [
        Violation(where=where, expected=one_of(spec.by_name), got=shown(name))
        for name in projection.fields or ()
        if name not in spec.by_name
    ]
    if projection.vector and spec.vector is None:
        expected = f"false, {spec.name} has no vector"
        problems.append(Violation(where="include_vector", expected=expected, got="true"))
    return problems


def list_problems(query: ListQuery, spec: CollectionSpec, limits: LimitSettings) -> list[Violation]:
    """Return what is wrong with a list query."""
    problems = filter_problems(query.filter, spec, limits)
    problems += order_problems(query.order, spec)
    problems += _number_problems("limit", query.limit, 1, limits.list_limit_max)
    problems += _number_problems("offset", query.offset, 0, limits.offset_max)
    problems += projection_problems(query.projection, spec)
    if query.after is not None:
        if query.offset:
            expected = "0 with a page token"
            problems.append(Violation(where="offset", expected=expected, got=str(query.offset)))
        if not problems:
            problems += _after_problems(query.after, query.order, spec)
    return problems


def count_problems(
    query: CountQuery, spec: CollectionSpec, limits: LimitSettings
) -> list[Violation]:
    """Return what is wrong with a count query."""
    problems = filter_problems(query.filter, spec, limits)
    if query.group_by is not None:
        problems += _typed_field_problems("group_by", query.group_by, spec, _EQUATABLE)
    if query.sum_field is not None:
        problems += _typed_field_problems("sum_field", query.sum_field, spec, _NUMERIC)
    return problems


def search_problems(
    query: SearchQuery, spec: CollectionSpec, limits: LimitSettings
) -> list[Violation]:
    """Return what is wrong with a search query. A mode that a store lacks is not its concern."""
    problems = _number_problems("limit", query.limit, 1, limits.search_limit_max)
    if query.filter is not None:
        problems += filter_problems(query.filter, spec, limits)
    problems += projection_problems(query.projection, spec)
    if query.mode is not SearchMode.VECTOR:
        problems += _search_text_problems(query.text) or _search_words_problems(query)
        if query.mode is SearchMode.HYBRID and not (0.0 <= query.alpha <= 1.0):
            problems.append(Violation(where="alpha", expected="0 to 1", got=str(query.alpha)))
    if query.mode is SearchMode.VECTOR or query.vector is not None:
        problems += _search_vector_problems(query, spec)
    return problems


def _search_text_problems(text: str) -> list[Violation]:
    if not 1 <= len(text) <= SEARCH_TEXT_MAX:
        expected = f"1 to {SEARCH_TEXT_MAX} characters"
        return [Violation(where="text", expected=expected, got=f"{len(text)} characters")]
    problem = type_problem(FieldType.TEXT, text, where="text")
    return [] if problem is None else [problem]


def _search_words_problems(query: SearchQuery) -> list[Violation]:
    """Bound a search by words; one by meaning reads as much of the text as its model does."""
    tree = None if query.mode is SearchMode.TEXT else parse(query.text)
    count = 0 if tree is None else word_count(tree)
    if count <= SEARCH_WORDS_MAX:
        return []
    expected = f"at most {SEARCH_WORDS_MAX} words in mode {query.mode.value}"
    return [Violation(where="text", expected=expected, got=f"{count} words")]


def _search_vector_problems(query: SearchQuery, spec: CollectionSpec) -> list[Violation]:
    if spec.vector is None:
        expected = f"a collection with vectors, {spec.name} has none"
        return [Violation(where="collection", expected=expected)]
    if query.mode in (SearchMode.TEXT, SearchMode.KEYWORD):
        return [Violation(where="vector", expected="none in this mode", got=shown(query.vector))]
    if not spec.vector.given:
        expected = "search by text: each store embeds it by its own model"
        return [Violation(where="vector", expected=expected, got=f"mode {query.mode.value}")]
    if query.vector is None:
        expected = f"{spec.vector.dim} float32 ({4 * spec.vector.dim} bytes)"
        if spec.vector.embedding is not None:
            expected += ", or a text instead"
        return [Violation(where="vector", expected=expected, got="nothing")]
    problem = packed_problem(query.vector, spec.vector, where="vector")
    cosine = spec.vector.metric is Metric.COSINE
    if problem is None and cosine and not np.frombuffer(query.vector, dtype="<f4").any():
        expected = "a vector with a direction (cosine)"
        problem = Violation(where="vector", expected=expected, got="all zeros")
    return [] if problem is None else [problem]


def order_problems(order: Sequence[Order], spec: CollectionSpec) -> list[Violation]:
    """Return what is wrong with sort terms."""
    if len(order) > ORDER_TERMS_MAX:
        expected = f"at most {ORDER_TERMS_MAX} terms"
        return [Violation(where="order_by", expected=expected, got=str(len(order)))]
    problems: list[Violation] = []
    seen: set[str] = set()
    for number, term in enumerate(order):
        where = f"order_by[{number}].field"
        problems += _typed_field_problems(where, term.field, spec, _EQUATABLE)
        if term.field in seen:
            problems.append(Violation(where=where, expected="each field once", got=term.field))
        seen.add(term.field)
    return problems


def _after_problems(
    after: Sequence[Value], order: Sequence[Order], spec: CollectionSpec
) -> list[Violation]:
    """A token that was tampered with is refused like one of another query."""
    names = [term.field for term in order] + list(spec.key)
    wrong = Violation(where="page_token", expected="a token that came from this same query")
    if len(after) != len(names):
        return [wrong]
    for position, (name, value) in enumerate(zip(names, after, strict=True)):
        if value is None:
            if position >= len(order):
                return [wrong]
        elif type_problem(spec.by_name[name].type, value, where="page_token") is not None:
            return [wrong]
    return []


def _number_problems(where: str, value: int, least: int, most: int) -> list[Violation]:
    if least <= value <= most:
        return []
    return [Violation(where=where, expected=f"{least} to {most}", got=str(value))]


def _typed_field_problems(
    where: str, name: str, spec: CollectionSpec, kinds: frozenset[FieldType]
) -> list[Violation]:
    """Return what is wrong with naming this field where only some types make sense."""
    item = spec.by_name.get(name)
    if item is None:
        return [Violation(where=where, expected=one_of(spec.by_name), got=shown(name))]
    if item.type not in kinds:
        expected = f"a field of type {', '.join(sorted(kind.value for kind in kinds))}"
        return [Violation(where=where, expected=expected, got=f"{name} of type {item.type.value}")]
    return []


def filter_problems(
    tree: Filter | None, spec: CollectionSpec, limits: LimitSettings, *, where: str = "filter"
) -> list[Violation]:
    """Return what is wrong with a filter: its depth, its size, its fields, operators and types."""
    if tree is None:
        return []
    problems: list[Violation] = []
    nodes = 0
    waiting: list[tuple[Filter, str, int]] = [(tree, where, 1)]
    while waiting:
        node, path, depth = waiting.pop()
        nodes += 1
        if nodes > limits.filter_nodes_max:
            expected = f"at most {limits.filter_nodes_max} nodes"
            return [Violation(where=where, expected=expected, got="more")]
        if depth > limits.filter_depth_max:
            expected = f"at most {limits.filter_depth_max} levels"
            return [Violation(where=where, expected=expected, got="more")]
        if isinstance(node, And | Or):
            name = "all_of" if isinstance(node, And) else "any_of"
            parts = [
                (part, f"{path}.{name}[{number}]", depth + 1)
                for number, part in enumerate(node.parts)
            ]
            waiting += reversed(parts)
        elif isinstance(node, Not):
            waiting.append((node.part, f"{path}.negation", depth + 1))
        else:
            problems += _leaf_problems(node, spec, limits, path)
    return problems


Leaf = Compare | In | ContainsAny | IsNull | Like | JsonEquals


def _leaf_problems(
    leaf: Leaf, spec: CollectionSpec, limits: LimitSettings, path: str
) -> list[Violation]:
    if isinstance(leaf, Compare):
        return _compare_problems(leaf, spec, f"{path}.compare")
    if isinstance(leaf, In):
        return _in_problems(leaf, spec, limits, f"{path}.in_list")
    if isinstance(leaf, ContainsAny):
        return _contains_problems(leaf, spec, limits, f"{path}.contains_any")
    if isinstance(leaf, Like):
        return _like_problems(leaf, spec, f"{path}.like")
    if isinstance(leaf, JsonEquals):
        return _json_problems(leaf, spec, f"{path}.json_equals")
    every = frozenset(FieldType)
    return _typed_field_problems(f"{path}.is_null.field", leaf.field, spec, every)


def _compare_problems(leaf: Compare, spec: CollectionSpec, path: str) -> list[Violation]:
    kinds = _EQUATABLE if leaf.op in (CompareOp.EQ, CompareOp.NE) else _ORDERED
    problems = _typed_field_problems(f"{path}.field", leaf.field, spec, kinds)
    if not problems:
        problems = _operand_problems(leaf.field, leaf.value, spec, f"{path}.value")
    return problems


def _operand_problems(name: str, value: Value, spec: CollectionSpec, where: str) -> list[Violation]:
    if value is None:
        return [Violation(where=where, expected="a value (is_null asks for null)", got="null")]
    problem = type_problem(spec.by_name[name].type, value, where=where)
    return [] if problem is None else [problem]


def _in_problems(
    leaf: In, spec: CollectionSpec, limits: LimitSettings, path: str
) -> list[Violation]:
    problems = _typed_field_problems(f"{path}.field", leaf.field, spec, _EQUATABLE)
    problems += _number_problems(f"{path}.values", len(leaf.values), 0, limits.batch_items_max)
    if not problems:
        for number, value in enumerate(leaf.values):
            problems += _operand_problems(leaf.field, value, spec, f"{path}.values[{number}]")
    return problems


def _contains_problems(
    leaf: ContainsAny, spec: CollectionSpec, limits: LimitSettings, path: str
) -> list[Violation]:
    kinds = frozenset({FieldType.TEXT_LIST})
    problems = _typed_field_problems(f"{path}.field", leaf.field, spec, kinds)
    problems += _number_problems(f"{path}.values", len(leaf.values), 0, limits.batch_items_max)
    if not problems:
        problem = type_problem(FieldType.TEXT_LIST, leaf.values, where=f"{path}.values")
        problems += [] if problem is None else [problem]
    return problems


def _like_problems(leaf: Like, spec: CollectionSpec, path: str) -> list[Violation]:
    problems = _typed_field_problems(f"{path}.field", leaf.field, spec, frozenset({FieldType.TEXT}))
    where = f"{path}.pattern"
    if len(leaf.pattern) > PATTERN_MAX:
        expected = f"at most {PATTERN_MAX} characters"
        problems.append(Violation(where=where, expected=expected, got=str(len(leaf.pattern))))
        return problems
    problem = type_problem(FieldType.TEXT, leaf.pattern, where=where)
    if problem is not None:
        problems.append(problem)
    trailing = len(leaf.pattern) - len(leaf.pattern.rstrip("\\"))
    if trailing % 2:
        expected = "a character after the last backslash"
        problems.append(Violation(where=where, expected=expected, got=shown(leaf.pattern)))
    return problems


def _json_problems(leaf: JsonEquals, spec: CollectionSpec, path: str) -> list[Violation]:
    problems = _typed_field_problems(f"{path}.field", leaf.field, spec, frozenset({FieldType.JSON}))
    problems += _number_problems(f"{path}.path", len(leaf.path), 1, JSON_PATH_MAX)
    for number, name in enumerate(leaf.path[:JSON_PATH_MAX]):
        problem = type_problem(FieldType.TEXT, name, where=f"{path}.path[{number}]")
        problems += [] if problem is None else [problem]
    where = f"{path}.value"
    if isinstance(leaf.value, float) and not math.isfinite(leaf.value):
        return [*problems, Violation(where=where, expected="a finite number", got=str(leaf.value))]
    if isinstance(leaf.value, str):
        problem = type_problem(FieldType.TEXT, leaf.value, where=where)
        problems += [] if problem is None else [problem]
    return problems
