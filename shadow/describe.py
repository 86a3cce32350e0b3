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
        to = f" to “{shorten(query.text, 90)}”" if query.text else ""
        if query.vector is not None:
            to += f"{' and' if to else ''} to a vector of {len(query.vector) // 4:,} numbers"
        parts = [f"{query.limit} nearest{to}"]
        parts += ["exactly"] if query.exact else []
    if query.filter is not None:
        parts.append(f"where {shorten(describe_filter(query.filter))}")
    return ", ".join(parts)


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
