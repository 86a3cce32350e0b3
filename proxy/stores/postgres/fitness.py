"""Would this table hold these values? Answered from the catalogue, without asking the server."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.layouts import ColumnKind
from proxy.model import FieldType, Key, Record, Value, Write
from proxy.stores.fitting import constant_misfit, key_misfit, type_misfit, vector_misfit
from proxy.stores.postgres.catalog import ColumnInfo
from proxy.stores.postgres.table import Table
from proxy.stores.postgres.types import INT_RANGE

_LENGTH_EXTRA = 4


def write_misfit(table: Table, write: Write, store: str) -> str:
    """Say at little cost why a write cannot be stored, "" if the server should decide."""
    why = key_misfit(table.spec, table.layout, write.key, store)
    if why or not write.fields:
        return why
    for name, value in table.layout.constants.items():
        if name in write.fields and name not in table.spec.key and write.fields[name] != value:
            return constant_misfit(store, name, value, write.fields[name])
    for column in table.layout.columns:
        if column.rest and not isinstance(write.fields.get(column.rest), Mapping | None):
            return f"{column.rest} must be a JSON object: {column.name} packs other fields too"
    return ""


def record_misfit(table: Table, record: Record, store: str) -> str:
    """Say why the store could not hold a whole record, "" if nothing speaks against it."""
    why = key_misfit(table.spec, table.layout, record.key, store)
    if why:
        return why
    why = values_misfit(table, record.key, record.fields, whole=True)
    if why or not table.vector:
        return why
    why = vector_misfit(table.spec, record.vector)
    if not why and record.vector is None and _column_of_vector(table).not_null:
        return "the vector may not be null"
    return why


def values_misfit(table: Table, key: Key, fields: Mapping[str, Value], *, whole: bool) -> str:
    """Say why the columns cannot hold these values; `whole`: absent ones would be null."""
    given: dict[str, Value] = {**fields, **dict(zip(table.spec.key, key, strict=True))}
    stored = table.layout.stored_fields()
    for field in table.spec.fields:
        name = field.name
        if name not in stored or field.generated or table.fields[name].constant:
            continue
        if name not in given and not whole:
            continue
        column = table.columns.get(name)
        info = table.info.columns[column.name] if column else None
        value = given.get(name)
        if value is None:
            absent_default = info is not None and info.has_default and name not in given
            if info is not None and info.not_null and not absent_default:
                return f"{name} may not be null in {info.name}"
            continue
        why = type_misfit(field, value) or _column_misfit(name, field.type, value, info)
        if why:
            return why
    return ""


def _column_of_vector(table: Table) -> ColumnInfo:
    columns = table.layout.columns
    name = next(column.name for column in columns if column.kind is ColumnKind.VECTOR)
    return table.info.columns[name]


def _column_misfit(name: str, kind: FieldType, value: Value, info: ColumnInfo | None) -> str:
    if _has_nul(value):
        return f"{name} contains a NUL character, which PostgreSQL cannot hold"
    if info is None:
        return ""
    if kind is FieldType.INT and isinstance(value, int):
        bound = INT_RANGE.get(info.type, 2**63)
        if not -bound <= value < bound:
            return f"{name} is {value}, out of the range of {info.shown}"
    if kind is FieldType.TEXT and isinstance(value, str) and info.modifier >= _LENGTH_EXTRA:
        room = info.modifier - _LENGTH_EXTRA
        if len(value) > room:
            return f"{name} has {len(value)} characters, {info.shown} holds {room}"
    return ""


def _has_nul(value: object) -> bool:
    """True if a text somewhere inside has a NUL, or a surrogate that has no UTF-8 form."""
    if isinstance(value, str):
        return "\0" in value or not _encodable(value)
    if isinstance(value, Mapping):
        return any(_has_nul(name) or _has_nul(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return any(_has_nul(item) for item in value)
    return False


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
