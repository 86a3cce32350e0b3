"""Conditions in SQL: filters, key ranges and keyset paging. Values travel as parameters only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy.filters import unknown_field
from proxy.model import FieldType, Key, Value
from proxy.query import (
    And,
    Compare,
    CompareOp,
    ContainsAny,
    Filter,
    In,
    IsNull,
    JsonEquals,
    KeyRange,
    Like,
    Not,
    Or,
    Order,
)
from proxy.stores.postgres.adapt import json_param
from proxy.stores.postgres.table import FieldSql, Table

_OPERATORS = {
    CompareOp.EQ: "=",
    CompareOp.NE: "<>",
    CompareOp.LT: "<",
    CompareOp.LE: "<=",
    CompareOp.GT: ">",
    CompareOp.GE: ">=",
}


class Params(list[Any]):
    """The parameters of a statement that is being built."""

    def add(self, value: object) -> str:
        """Append a value and return its placeholder."""
        self.append(value)
        return f"${len(self)}"

    def typed(self, item: FieldSql, value: Value) -> str:
        """Append a value of the field's type and return the typed placeholder."""
        sent: object = value
        if item.type is FieldType.FLOAT and isinstance(value, int):
            sent = float(value)
        elif item.type is FieldType.TEXT_LIST and isinstance(value, Sequence):
            sent = list(value)
        return f"{self.add(sent)}::{item.cast}"


def filter_sql(table: Table, node: Filter, params: Params) -> str:
    """Return the condition of a checked filter; its values are appended to `params`."""
    if isinstance(node, And):
        return _joined(table, node.parts, " AND ", "true", params)
    if isinstance(node, Or):
        return _joined(table, node.parts, " OR ", "false", params)
    if isinstance(node, Not):
        return f"(NOT {filter_sql(table, node.part, params)})"
    item = table.fields.get(node.field)
    if item is None:
        raise unknown_field(table.spec, node.field)
    return _leaf(item, node, params)


def _joined(table: Table, parts: Sequence[Filter], joint: str, empty: str, params: Params) -> str:
    if not parts:
        return empty
    return "(" + joint.join(filter_sql(table, part, params) for part in parts) + ")"


def _leaf(
    item: FieldSql,
    node: Compare | In | ContainsAny | IsNull | Like | JsonEquals,
    params: Params,
) -> str:
    if isinstance(node, IsNull):
        return f"({item.value} IS NULL)"
    if isinstance(node, Compare):
        equality = node.op in (CompareOp.EQ, CompareOp.NE)
        left = item.value if equality else item.ordered
        return f"({left} {_OPERATORS[node.op]} {params.typed(item, node.value)})"
    if isinstance(node, Like):
        word = "ILIKE" if node.ignore_case else "LIKE"
        return f"({item.value} {word} {params.add(node.pattern)}::text)"
    if isinstance(node, JsonEquals):
        return _json_equals(item, node, params)
    return _among(item, node, params)


def _among(item: FieldSql, node: In | ContainsAny, params: Params) -> str:
    """Compare with a list; an empty one has no type of its own to send."""
    if isinstance(node, ContainsAny):
        array = f"{params.add(list(node.values))}::text[]" if node.values else "'{}'::text[]"
        return f"({item.value} && {array})"
    if not node.values:
        return "false"
    is_float = item.type is FieldType.FLOAT
    values = [float(v) if is_float and isinstance(v, int) else v for v in node.values]
    return f"({item.value} = ANY({params.add(values)}::{item.cast}[]))"


def _json_equals(item: FieldSql, node: JsonEquals, params: Params) -> str:
    path = item.value
    for name in node.path:
        path = f"({path} -> {params.add(name)}::text)"
    return f"(NULLIF({path}, 'null'::jsonb) = {params.add(json_param(node.value))}::jsonb)"


def where(table: Table, node: Filter | None, params: Params, *more: str) -> str:
    """Return " WHERE ..." of a filter and further conditions, "" if there is none."""
    parts = [part for part in more if part]
    if node is not None:
        parts.append(filter_sql(table, node, params))
    return f" WHERE {' AND '.join(parts)}" if parts else ""


def order_sql(table: Table, terms: Sequence[Order]) -> str:
    """Return the ORDER BY list of terms; texts by their bytes."""
    return ", ".join(
        table.fields[term.field].ordered + (" DESC" if term.descending else "") for term in terms
    )


def after_sql(table: Table, terms: Sequence[Order], after: Sequence[Value], params: Params) -> str:
    """Return the condition of the rows behind `after` in the order of `terms`."""
    ways: list[str] = []
    equal: list[str] = []
    for term, value in zip(terms, after, strict=True):
        item = table.fields[term.field]
        if value is None:
            behind = f"{item.ordered} IS NOT NULL" if term.descending else "false"
            same = f"{item.value} IS NULL"
        else:
            placeholder = params.typed(item, value)
            if term.descending:
                behind = f"{item.ordered} < {placeholder}"
            else:
                behind = f"({item.ordered} > {placeholder} OR {item.value} IS NULL)"
            same = f"{item.value} = {placeholder}"
        ways.append("(" + " AND ".join([*equal, behind]) + ")")
        equal.append(same)
    return "(" + " OR ".join(ways) + ")"


def key_terms(table: Table, order: str) -> list[str]:
    """Return the key's columns as they are ordered: natively, or by bytes."""
    fields = [table.fields[name] for name in table.key_columns]
    if order == table.order_token():
        return [item.value for item in fields]
    return [item.ordered for item in fields]


def range_sql(table: Table, keys: KeyRange, order: str, params: Params) -> str:
    """Return the condition of a key range, "" for all keys."""
    parts = []
    if keys.after is not None:
        parts.append(_bound(table, keys.after, ">", order, params))
    if keys.upto is not None:
        parts.append(_bound(table, keys.upto, "<=", order, params))
    return " AND ".join(parts)


def _bound(table: Table, key: Key, operator: str, order: str, params: Params) -> str:
    """Compare the key with a bound as a row of its columns, so that the unique index serves.

    A constant key part that equals the bound's drops out; one that differs decides where the
    parts before it are equal.
    """
    terms = iter(key_terms(table, order))
    columns: list[str] = []
    values: list[str] = []
    decides = ""
    for name, part in zip(table.spec.key, key, strict=True):
        item = table.fields[name]
        if not item.constant:
            columns.append(next(terms))
            values.append(params.typed(item, part))
        elif table.layout.constants[name] != part:
            collate = ' COLLATE "C"' if item.type is FieldType.TEXT and order == "C" else ""
            decides = f"({item.value}){collate} {operator[0]} {params.typed(item, part)}"
            break
    if not decides:
        return f"{_row(columns)} {operator} {_row(values)}" if columns else _empty(operator)
    if not columns:
        return f"({decides})"
    strict = f"{_row(columns)} {operator[0]} {_row(values)}"
    return f"({strict} OR ({_row(columns)} = {_row(values)} AND {decides}))"


def _row(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def _empty(operator: str) -> str:
    return "false" if operator == ">" else "true"
