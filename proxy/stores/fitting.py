"""Does a value fit its field? The checks that need a specification and nothing else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from proxy.canonical import same_value
from proxy.layouts import Layout
from proxy.model import (
    Applied,
    CollectionSpec,
    Expected,
    FieldSpec,
    FieldType,
    Key,
    Record,
    Value,
    Write,
    WriteOp,
)

_PYTHON_TYPES: Mapping[FieldType, tuple[type, ...]] = {
    FieldType.TEXT: (str,),
    FieldType.INT: (int,),
    FieldType.FLOAT: (float, int),
    FieldType.BOOL: (bool,),
    FieldType.TIMESTAMP: (dt.datetime,),
    FieldType.TEXT_LIST: (list, tuple),
    FieldType.JSON: (dict, list, tuple, str, int, float, bool, Mapping),
}

_USUAL: Mapping[FieldType, frozenset[type]] = {
    kind: frozenset(types)
    for kind, types in _PYTHON_TYPES.items()
    if kind is not FieldType.TIMESTAMP
}
"""Values of exactly these types need no second look: True is of type bool, never int."""


def key_misfit(spec: CollectionSpec, layout: Layout, key: Key, store: str) -> str:
    """Say why the store cannot hold a record with this key, "" if it can."""
    if len(key) != len(spec.key):
        return f"the key of {spec.name} has {len(spec.key)} parts, not {len(key)}"
    if not layout.holds(spec, key):
        parts = dict(zip(spec.key, key, strict=True))
        for name, value in layout.constants.items():
            if name in parts and parts[name] != value:
                return constant_misfit(store, name, value, parts[name])
    for name, part in zip(spec.key, key, strict=True):
        why = type_misfit(spec.by_name[name], part) if part is not None else f"{name} is null"
        if why:
            return why
    return ""


def constant_misfit(store: str, name: str, constant: Value, got: Value) -> str:
    """Say that a store's implied value differs from the record's."""
    return f"{name} is always {constant!r} in the {store} store, not {got!r}"


def value_misfit(field: FieldSpec, value: Value) -> str:
    """Say why a value is not one of the field's, "" if it is."""
    if value is None:
        return f"{field.name} may not be null" if field.required else ""
    why = type_misfit(field, value)
    if not why and isinstance(value, str) and field.type is FieldType.TEXT:
        if field.length_max and len(value) > field.length_max:
            return f"{field.name} has {len(value)} characters, at most {field.length_max} fit"
        if field.choices and value not in field.choices:
            return f"{field.name} is one of {', '.join(field.choices)}, not {value[:40]!r}"
    return why


def type_misfit(field: FieldSpec, value: Value) -> str:
    """Say why a value that is not null has not the field's type, "" if it has."""
    if type(value) in _USUAL.get(field.type, ()):
        return ""
    fits = isinstance(value, _PYTHON_TYPES[field.type])
    if not fits or (isinstance(value, bool) and field.type not in (FieldType.BOOL, FieldType.JSON)):
        return f"{field.name} is a {field.type.value}, not {type(value).__name__}"
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        return f"{field.name} needs a time zone"
    return ""


def vector_misfit(spec: CollectionSpec, vector: bytes | None) -> str:
    """Say why a vector does not fit the collection, "" if it does."""
    if spec.vector is None:
        return "" if vector is None else f"{spec.name} has no vector"
    if vector is None:
        return "the vector may not be null" if spec.vector.required else ""
    if len(vector) != 4 * spec.vector.dim:
        return f"the vector has {len(vector) / 4:g} dimensions, not {spec.vector.dim}"
    return ""


def parent_key(spec: CollectionSpec, key: Key, fields: Mapping[str, Value]) -> Key | None:
    """Return the key of a record's parent; None if it has none or a part is null or not given."""
    if spec.parent is None:
        return None
    parts = dict(zip(spec.key, key, strict=True))
    values = [parts[name] if name in parts else fields.get(name) for name in spec.parent.fields]
    found = tuple(value for value in values if isinstance(value, str | int))
    return found if len(found) == len(values) else None


def meets(spec: CollectionSpec, expected: Expected | None, stored: Record | None) -> bool:
    """True if what is stored is as a write expects it."""
    if expected is None:
        return True
    if expected.fields is None or stored is None:
        return expected.fields is None and stored is None
    return all(
        name not in stored.fields or same_value(spec.by_name[name].type, value, stored.fields[name])
        for name, value in expected.fields.items()
    )


def hindered(spec: CollectionSpec, write: Write, stored: Record | None) -> Applied | None:
    """Return the outcome of an INSERT, UPSERT or PATCH that what is stored forbids."""
    if write.op is WriteOp.INSERT and stored is not None:
        return Applied.EXISTS
    if write.op is WriteOp.PATCH and stored is None:
        return Applied.NOT_FOUND
    return None if meets(spec, write.expected, stored) else Applied.CHANGED
