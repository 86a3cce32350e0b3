"""Filters as DataFusion's SQL; what has no faithful form there is left to be evaluated here.

`proxy.filters` says what a filter means. A part is compiled only if LanceDB means exactly the
same by it, three-valued logic included; of an And at the top the other parts are handed back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.filters import evaluate, unknown_field
from proxy.model import FieldType, Record
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
from proxy.stores.lancedb.sql import (
    FALSE,
    TRUE,
    UNKNOWN,
    all_of,
    any_of,
    encodable,
    identifier,
    literal,
    text,
    text_list,
)
from proxy.stores.lancedb.table import FieldColumn, Table

_OPERATORS: Final[Mapping[CompareOp, str]] = {
    CompareOp.EQ: "=",
    CompareOp.NE: "<>",
    CompareOp.LT: "<",
    CompareOp.LE: "<=",
    CompareOp.GT: ">",
    CompareOp.GE: ">=",
}


def split(table: Table, filter: Filter | None) -> tuple[str | None, Filter | None]:
    """Return (SQL, the rest): a record matches if it matches both; None matches everything.

    Raises:
        Rejected: the filter names a field that the collection has not.
    """
    if filter is None:
        return None, None
    made = compile_filter(table, filter)
    if made is not None:
        return made, None
    if not isinstance(filter, And):
        return None, filter
    sql: list[str] = []
    rest: list[Filter] = []
    for part in filter.parts:
        compiled = compile_filter(table, part)
        if compiled is None:
            rest.append(part)
        else:
            sql.append(compiled)
    return (all_of(sql) if sql else None), And(parts=tuple(rest))


def compile_filter(table: Table, filter: Filter) -> str | None:
    """Return the filter as SQL, None if it has no faithful form."""
    if isinstance(filter, Not):
        part = compile_filter(table, filter.part)
        return None if part is None else f"NOT ({part})"
    if isinstance(filter, And | Or):
        # Every part is compiled, so that an unknown field is found wherever it stands.
        parts = [compile_filter(table, part) for part in filter.parts]
        made = [part for part in parts if part is not None]
        if len(made) < len(parts):
            return None
        return all_of(made) if isinstance(filter, And) else any_of(made)
    if filter.field not in table.spec.by_name:
        raise unknown_field(table.spec, filter.field)
    column = table.columns.get(filter.field)
    if column is None:
        return _absent(table, filter)
    return _leaf(column, filter)


def _absent(
    table: Table, leaf: Compare | In | ContainsAny | IsNull | Like | JsonEquals
) -> str | None:
    """A field without a column is packed, or the same in every row: a constant, or null."""
    spec, layout = table.spec, table.layout
    if leaf.field in layout.stored_fields() and leaf.field not in layout.constants:
        return None
    key = tuple(layout.constants.get(name, "") for name in spec.key)
    row = Record(collection=spec.name, key=key, fields=layout.constants)  # type: ignore[arg-type]  # a key's constants are texts or integers
    truth = evaluate(leaf, spec, row)
    return UNKNOWN if truth is None else (TRUE if truth else FALSE)


def _leaf(
    column: FieldColumn, leaf: Compare | In | ContainsAny | IsNull | Like | JsonEquals
) -> str | None:
    name = identifier(column.name)
    if isinstance(leaf, IsNull):
        return f"{name} IS NULL"
    if isinstance(leaf, Compare):
        return _compare(column, leaf)
    if isinstance(leaf, In):
        return _in(column, leaf)
    if isinstance(leaf, ContainsAny):
        values = text_list(leaf.values) if leaf.values else None
        return None if values is None else f"array_has_any({name}, {values})"
    if isinstance(leaf, Like) and column.kind is FieldType.TEXT:
        return _like(name, leaf)
    return None


def _compare(column: FieldColumn, leaf: Compare) -> str | None:
    if column.kind is FieldType.TEXT_LIST:
        return _compare_lists(column, leaf)
    value = literal(column, leaf.value)
    return None if value is None else f"{identifier(column.name)} {_OPERATORS[leaf.op]} {value}"


def _compare_lists(column: FieldColumn, leaf: Compare) -> str | None:
    if leaf.op not in (CompareOp.EQ, CompareOp.NE) or not isinstance(leaf.value, list | tuple):
        return None
    values = text_list(leaf.value) if leaf.value else None
    return None if values is None else f"{identifier(column.name)} {_OPERATORS[leaf.op]} {values}"


def _in(column: FieldColumn, leaf: In) -> str | None:
    if not leaf.values:
        return FALSE
    values = [literal(column, value) for value in leaf.values]
    made = [value for value in values if value is not None]
    if len(made) < len(values):
        return None
    return f"{identifier(column.name)} IN ({', '.join(made)})"


def _like(name: str, leaf: Like) -> str | None:
    if not encodable(leaf.pattern):
        return None
    if leaf.ignore_case:
        # ILIKE folds case in its own way ("K" the kelvin sign); lower() is what Crossfade means.
        return f"lower({name}) LIKE {text(_pattern(leaf.pattern.lower()))}"
    return f"{name} LIKE {text(_pattern(leaf.pattern))}"


def _pattern(pattern: str) -> str:
    """Write a pattern anew so that every backslash escapes what needs it."""
    out: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character != "\\":
            out.append(character)
            continue
        literally = next(characters, "\\")
        out.append(f"\\{literally}" if literally in "%_\\" else literally)
    return "".join(out)
