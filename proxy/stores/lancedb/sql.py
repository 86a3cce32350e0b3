"""DataFusion's SQL: identifiers and literals quoted, and conditions on keys and orders.

LanceDB takes filters as text. Nothing reaches that text but through the functions of this file.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import pyarrow as pa

from proxy.canonical import key_sort_text
from proxy.model import FieldType, Key, Value
from proxy.query import KeyRange, Order
from proxy.stores.lancedb.table import FieldColumn, Table

TRUE: Final = "true"
FALSE: Final = "false"
UNKNOWN: Final = "CAST(NULL AS BOOLEAN)"

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_INT_LIMIT: Final = 2**63
_EXACT_INT: Final = 2**53


def identifier(name: str) -> str:
    """Quote a column's name (`checks` refuses names with a backtick)."""
    return f"`{name}`"


def text(value: str) -> str:
    """Quote a text."""
    return "'" + value.replace("'", "''") + "'"


def micros(moment: dt.datetime) -> int:
    """Return microseconds since 1970 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def literal(column: FieldColumn, value: Value) -> str | None:
    """Return a value as a literal of the column's type, None if it has no such literal."""
    kind = column.kind
    if isinstance(value, str):
        return text(value) if kind is FieldType.TEXT and encodable(value) else None
    if isinstance(value, bool):
        return (TRUE if value else FALSE) if kind is FieldType.BOOL else None
    if isinstance(value, dt.datetime):
        return _moment(column, value) if kind is FieldType.TIMESTAMP and value.tzinfo else None
    if isinstance(value, int | float):
        return _number(kind, value)
    return None


def _moment(column: FieldColumn, value: dt.datetime) -> str:
    zone = 'Some("UTC")' if column.type.tz else "None"
    return f"arrow_cast({micros(value)}, 'Timestamp(Microsecond, {zone})')"


def _number(kind: FieldType, value: float) -> str | None:
    if kind is FieldType.FLOAT:
        return _float(value)
    if kind is FieldType.INT and isinstance(value, int) and -_INT_LIMIT <= value < _INT_LIMIT:
        # Written as a text: the parser would read the smallest number as a negated float.
        return f"CAST('{value}' AS BIGINT)"
    return None


def _float(value: float) -> str | None:
    if isinstance(value, int) and abs(value) > _EXACT_INT:
        return None
    number = float(value) + 0.0  # no negative zero: the two are one number
    return f"CAST('{number!r}' AS DOUBLE)" if math.isfinite(number) else None


def text_list(values: Sequence[object]) -> str | None:
    """Return a list of texts, None if it has no literal."""
    if not all(isinstance(value, str) and encodable(value) for value in values):
        return None
    return "make_array(" + ", ".join(text(str(value)) for value in values) + ")"


def encodable(value: str) -> bool:
    """True if the text has a UTF-8 form (no lone surrogate)."""
    return value.isascii() or value.isprintable() or _encodes(value)


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def any_of(parts: Sequence[str]) -> str:
    """Join conditions by OR as a balanced tree: a long chain is deep, and the parser recurses."""
    if not parts:
        return FALSE
    if len(parts) == 1:
        return f"({parts[0]})"
    half = len(parts) // 2
    return f"({any_of(parts[:half])} OR {any_of(parts[half:])})"


def all_of(parts: Sequence[str]) -> str:
    """Join conditions by AND."""
    return " AND ".join(f"({part})" for part in parts) if parts else TRUE


def keys_in(table: Table, keys: Sequence[Key]) -> str:
    """Return the condition that the row's key is one of these (all fit the layout)."""
    at = [table.spec.key.index(column.field) for column in table.key_columns]
    if not at:
        return TRUE
    rows = sorted((tuple(key[n] for n in at) for key in set(keys)), key=key_sort_text)
    *heads, last = table.key_columns
    found = []
    for head, group in groupby(rows, key=lambda row: row[:-1]):
        parts = [_equal(column, part) for column, part in zip(heads, head, strict=True)]
        members = ", ".join(_must(last, row[-1]) for row in group)
        found.append(all_of([*parts, f"{identifier(last.name)} IN ({members})"]))
    return any_of(found)


def _equal(column: FieldColumn, value: Value) -> str:
    return f"{identifier(column.name)} = {_must(column, value)}"


def _must(column: FieldColumn, value: Value) -> str:
    """Return the literal of a key part; one that has none equals nothing that is stored."""
    made = literal(column, value)
    return "NULL" if made is None else made


def range_condition(table: Table, keys: KeyRange) -> str | None:
    """Return the condition of a key range, None if the range is open at both ends."""
    terms = tuple(Order(field=name) for name in table.spec.key)
    parts = []
    if keys.after is not None:
        parts.append(behind(table, terms, keys.after))
    if keys.upto is not None:
        parts.append(f"NOT ({behind(table, terms, keys.upto)})")
    return all_of(parts) if parts else None


def behind(table: Table, terms: Sequence[Order], after: Sequence[Value]) -> str:
    """Return the condition that a row comes behind `after` in the order of `terms`.

    Nulls come last ascending and first descending. Every term is a column or a constant.
    """
    if not terms:
        return FALSE
    term, value, rest = terms[0], after[0], behind(table, terms[1:], after[1:])
    column = table.columns.get(term.field)
    if column is None:
        return _behind_constant(table.layout.constants.get(term.field), value, term, rest)
    name = identifier(column.name)
    if value is None:
        equal = all_of([f"{name} IS NULL", rest])
        return any_of([f"{name} IS NOT NULL", equal]) if term.descending else equal
    made = _must(column, value)
    later = f"{name} < {made}" if term.descending else f"{name} > {made} OR {name} IS NULL"
    if column.field in table.spec.key:
        later = f"{name} {'<' if term.descending else '>'} {made}"
    return any_of([later, all_of([f"{name} = {made}", rest])])


def _behind_constant(constant: Value, value: Value, term: Order, rest: str) -> str:
    """A field that is the same in every row: either all rows are behind, or none, or it decides
    nothing."""
    left = (constant is None, constant if constant is not None else "")
    right = (value is None, value if value is not None else "")
    if left == right:
        return rest
    if not isinstance(left[1], type(right[1])):
        return FALSE
    greater = left > right
    return TRUE if greater != term.descending else FALSE


def is_orderable(column: FieldColumn) -> bool:
    """True if LanceDB sorts the column as Crossfade does (it puts -0.0 before 0.0)."""
    return column.kind is not FieldType.FLOAT and not pa.types.is_list(column.type)
