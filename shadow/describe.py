"""Queries, keys and records in words a person can read in a report, shortened."""

from __future__ import annotations

from proxy.model import FieldType, Key, Record, Value
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
    ListQuery,
    Not,
    Or,
    SearchMode,
    SearchQuery,
)
from shadow.answers import Question

TEXT_MAX = 140
_LIST_MAX = 4
_SIGNS = {
    CompareOp.EQ: "=",
    CompareOp.NE: "≠",
    CompareOp.LT: "<",
    CompareOp.LE: "≤",
    CompareOp.GT: ">",
    CompareOp.GE: "≥",
}


def shorten(text: str, length: int = TEXT_MAX) -> str:
    """Return the text on one line, at most `length` characters, all of them printable."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: length * 8])
    line = " ".join(shown.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def describe_key(key: Key) -> str:
    """Return the parts of a key, joined by a thin slash."""
    return shorten(" / ".join(str(part) for part in key))


def describe_query(query: SearchQuery | ListQuery) -> str:
    """Return what a query asks for, in one line."""
    if isinstance(query, ListQuery):
        terms = [f"{item.field}{' descending' if item.descending else ''}" for item in query.order]
        parts = [f"page of {query.limit}"]
        parts += [f"ordered by {', '.join(terms)}"] if terms else []
        parts += [f"from row {query.offset}"] if query.offset else []
        parts += ["continued"] if query.after is not None else []
    else:
        parts = [f"{query.limit} {_sought(query)}"]
        parts += ["exactly"] if query.exact else []
    if query.filter is not None:
        parts.append(f"where {shorten(describe_filter(query.filter))}")
    return ", ".join(parts)


def _sought(query: SearchQuery) -> str:
    text = f"“{shorten(query.text, 90)}”"
    if query.mode is SearchMode.TEXT:
        return f"nearest in meaning to {text}"
    if query.mode is SearchMode.KEYWORD:
        return f"best for the words {text}"
    given = query.vector is not None
    vector = f"a vector of {len(query.vector or b'') // 4:,} numbers" if given else ""
    if query.mode is SearchMode.HYBRID:
        near = f"{vector} and the words {text}" if given else f"the meaning and the words of {text}"
        return f"best for {near} (alpha {query.alpha:g})"
    return f"nearest to {vector}" if given else "nearest"


def describe_filter(node: Filter) -> str:  # noqa: PLR0911 - one return for each kind of node
    """Return a filter much as one would write it."""
    match node:
        case Compare():
            return f"{node.field} {_SIGNS[node.op]} {_value(node.value)}"
        case In():
            return f"{node.field} in ({_values(node.values)})"
        case ContainsAny():
            return f"{node.field} contains any of ({_values(node.values)})"
        case IsNull():
            return f"{node.field} is null"
        case Like():
            return f"{node.field} {'ilike' if node.ignore_case else 'like'} {_value(node.pattern)}"
        case JsonEquals():
            return f"{'.'.join((node.field, *node.path))} = {_value(node.value)}"
        case Not():
            return f"not ({describe_filter(node.part)})"
        case And() | Or():
            word = " and " if isinstance(node, And) else " or "
            inner = word.join(describe_filter(part) for part in node.parts[:_LIST_MAX])
            return f"({inner})" if inner else str(isinstance(node, And)).lower()


def _value(value: Value) -> str:
    return shorten(repr(value) if isinstance(value, str) else str(value), 60)


def _values(values: tuple[Value, ...]) -> str:
    shown = ", ".join(_value(value) for value in values[:_LIST_MAX])
    return shown + (f", … {len(values)} in all" if len(values) > _LIST_MAX else "")


def describe_record(question: Question, record: Record | None) -> str:
    """Return the start of the first text field that a record shows, "" without one."""
    if record is None:
        return ""
    names = [item.name for item in question.spec.value_fields if item.type is FieldType.TEXT]
    preferred = sorted(names, key=lambda name: (name not in ("title", "name"), names.index(name)))
    for name in preferred:
        value = record.fields.get(name)
        if isinstance(value, str) and value:
            return shorten(value)
    return ""
