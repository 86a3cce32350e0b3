"""Which PostgreSQL types can hold which logical types, and how a value is read and written."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.model import FieldType

LOGICAL: Mapping[FieldType, str] = {
    FieldType.TEXT: "text",
    FieldType.INT: "int8",
    FieldType.FLOAT: "float8",
    FieldType.BOOL: "bool",
    FieldType.TIMESTAMP: "timestamptz",
    FieldType.TEXT_LIST: "text[]",
    FieldType.JSON: "jsonb",
}
"""The type a logical value has in every expression."""

_TEXTS = frozenset({"text", "varchar"})
_FITTING: Mapping[FieldType, frozenset[str]] = {
    FieldType.TEXT: frozenset({"text", "varchar", "bpchar", "uuid", "citext", "name"}),
    FieldType.INT: frozenset({"int2", "int4", "int8"}),
    FieldType.FLOAT: frozenset({"float4", "float8", "numeric"}),
    FieldType.BOOL: frozenset({"bool"}),
    FieldType.TIMESTAMP: frozenset({"timestamptz", "timestamp"}),
    FieldType.TEXT_LIST: frozenset({"_text", "_varchar"}),
    FieldType.JSON: frozenset({"jsonb", "json"}),
}
INT_RANGE: Mapping[str, int] = {"int2": 2**15, "int4": 2**31, "int8": 2**63}


def fitting(kind: FieldType) -> frozenset[str]:
    """Return the names of the PostgreSQL types that can hold a logical type."""
    return _FITTING[kind]


def reading(kind: FieldType, type_name: str, column: str, *, naive_utc: bool) -> str:
    """Return the expression that makes the logical value of a column."""
    if kind is FieldType.TIMESTAMP:
        return f"({column} AT TIME ZONE 'UTC')" if naive_utc else column
    if kind is FieldType.JSON:
        return f"NULLIF({column}{'::jsonb' if type_name == 'json' else ''}, 'null'::jsonb)"
    if kind is FieldType.TEXT and type_name not in _TEXTS:
        return f"({column})::text"
    if kind is FieldType.FLOAT and type_name != "float8":
        return f"({column})::float8"
    return column


def writing(kind: FieldType, type_name: str, value: str, *, naive_utc: bool) -> str:
    """Return the expression that a column is set to from an expression of the logical type."""
    typed = f"{value}::{LOGICAL[kind]}"
    if kind is FieldType.TIMESTAMP and naive_utc:
        return f"({typed} AT TIME ZONE 'UTC')"
    if kind is FieldType.TEXT and type_name not in _TEXTS:
        return f"({typed})::{type_name}"
    if kind is FieldType.JSON and type_name == "json":
        return f"({typed})::json"
    if kind is FieldType.FLOAT and type_name != "float8":
        return f"({typed})::{type_name}"
    return typed


def unpacking(kind: FieldType, column: str, name: str) -> str:
    """Return the logical value of a name inside a packed JSON column; `name` is a SQL literal."""
    if kind is FieldType.TEXT:
        return f"({column} ->> {name})"
    if kind is FieldType.JSON:
        return f"NULLIF({column} -> {name}, 'null'::jsonb)"
    if kind is FieldType.TEXT_LIST:
        return (
            f"(CASE jsonb_typeof({column} -> {name}) WHEN 'array' THEN"
            f" ARRAY(SELECT jsonb_array_elements_text({column} -> {name})) END)"
        )
    return f"(({column} ->> {name})::{LOGICAL[kind]})"


def framed(kind: FieldType, value: str) -> str:
    """Return the expression of a value's framed canonical text (see proxy.canonical)."""
    if kind is FieldType.BOOL:
        return f"(CASE {value} WHEN true THEN '1:t' WHEN false THEN '1:f' ELSE '-' END)"
    if kind is FieldType.FLOAT:
        return f"coalesce('16:' || encode(float8send({value}), 'hex'), '-')"
    text = f"({value})::text"
    if kind is FieldType.TIMESTAMP:
        # An infinite time has no form that others know; it must not keep the rest from digests.
        micros = f"((extract(epoch FROM {value}) * 1000000)::int8)::text"
        text = f"(CASE WHEN isfinite({value}) THEN {micros} ELSE ({value})::text END)"
    elif kind is FieldType.TEXT_LIST:
        text = f"to_jsonb({value})::text"
    return f"coalesce(octet_length({text}) || ':' || {text}, '-')"
