"""Packed columns: several logical fields, and a rest, in one JSON object kept as text."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from proxy.canonical import json_text
from proxy.layouts import Column
from proxy.model import CollectionSpec, Value
from proxy.stores.packed import unpacked


class Unreadable(Exception):
    """A stored text is not what the layout says; the message says why."""


def pack(column: Column, values: Mapping[str, Value], others: Mapping[str, Any]) -> str:
    """Return the column's text.

    Args:
        values: every field of the record by name, key fields included.
        others: names of the stored object that belong to no field; they are kept.
    """
    made: dict[str, Any] = dict(others)
    rest = values.get(column.rest) if column.rest else None
    if isinstance(rest, Mapping):
        made.update(rest)
    for item in column.packed:
        made[item.name] = _packable(values.get(item.field))
    return json_text(made)


def _packable(value: Value) -> Any:
    return value.isoformat() if isinstance(value, dt.datetime) else value


def unpack(spec: CollectionSpec, column: Column, text: str | None) -> dict[str, Value]:
    """Return the fields of a packed column; names nobody owns are the rest, if there is one.

    Raises:
        Unreadable: it is no JSON object, or a value in it has not its field's type.
    """
    if text is None:
        found: dict[str, Value] = {item.field: None for item in column.packed}
        if column.rest:
            found[column.rest] = None
        return found
    stored = load_object(column, text)
    found = {}
    for item in column.packed:
        kind = spec.by_name[item.field].type
        value = stored.get(item.name)
        made = None if value is None else unpacked(kind, value)
        if value is not None and made is None:
            shown = str(value)[:60]
            raise Unreadable(f"{column.name}.{item.name} is {shown!r}, not a {kind.value}")
        found[item.field] = made
    if column.rest:
        found[column.rest] = unowned(column, stored)
    return found


def unowned(column: Column, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of a stored object that belong to no packed field."""
    own = {item.name for item in column.packed}
    return {name: value for name, value in stored.items() if name not in own}


def load_object(column: Column, text: str) -> dict[str, Any]:
    """Return the JSON object of a packed column.

    Raises:
        Unreadable: it is none.
    """
    stored = load_json(column.name, text)
    if not isinstance(stored, dict):
        raise Unreadable(f"{column.name} is {text[:60]!r}, not a JSON object")
    return stored


def load_json(name: str, text: str) -> Any:
    """Return a JSON text's value.

    Raises:
        Unreadable: it is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise Unreadable(f"{name} is {text[:60]!r}, not JSON") from error
