"""Values, keys and records between the wire and the model, for one collection at a time.

Both directions are written out by hand: a search answer is built in about 30 microseconds, and a
vector crosses as the bytes it came in.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final

from crossfade.storage.v1 import storage_pb2 as pb
from google.protobuf.struct_pb2 import NULL_VALUE

from proxy.canonical import json_text
from proxy.errors import Violation
from proxy.model import CollectionSpec, FieldType, Key, Record, Value
from proxy.validate import shown

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)

_KINDS: Final[Mapping[FieldType, tuple[str, ...]]] = {
    FieldType.TEXT: ("string_value",),
    FieldType.INT: ("int_value",),
    FieldType.FLOAT: ("double_value", "int_value"),
    FieldType.BOOL: ("bool_value",),
    FieldType.TIMESTAMP: ("timestamp_us",),
    FieldType.TEXT_LIST: ("string_list_value",),
    FieldType.JSON: ("json_value",),
}
"""Which kinds of the wire's Value a field of each type takes, null apart."""


class BadValue(Exception):
    """A value that has no meaning in the model; becomes a Violation where its place is known."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got

    def at(self, where: str) -> Violation:
        """Return the violation, now that the field path is known."""
        return Violation(where=where, expected=self.expected, got=self.got)


# ---------------------------------------------------------------- wire to model


def _read_timestamp(value: pb.Value) -> dt.datetime:
    try:
        return _EPOCH + dt.timedelta(microseconds=value.timestamp_us)
    except OverflowError as error:
        expected = "microseconds since 1970 of a year from 1 to 9999"
        raise BadValue(expected, str(value.timestamp_us)) from error


def _read_json(value: pb.Value) -> Value:
    try:
        parsed: Value = json.loads(value.json_value)
    except RecursionError as error:
        raise BadValue("a JSON text of fewer levels", shown(value.json_value)) from error
    except ValueError as error:
        raise BadValue(f"a JSON text ({error})", shown(value.json_value)) from error
    return parsed


_READERS: Final[Mapping[str, Callable[[pb.Value], Value]]] = {
    "null_value": lambda value: None,
    "bool_value": attrgetter("bool_value"),
    "int_value": attrgetter("int_value"),
    "double_value": attrgetter("double_value"),
    "string_value": attrgetter("string_value"),
    "timestamp_us": _read_timestamp,
    "string_list_value": lambda value: list(value.string_list_value.values),
    "json_value": _read_json,
}


def read_value(value: pb.Value, kind: FieldType) -> Value:
    """Return the model's value for a field of this type.

    Raises:
        BadValue: no kind is set, another kind than the field's, or a text that is not JSON.
    """
    which = value.WhichOneof("kind")
    accepted = _KINDS[kind]
    if which is None:
        raise BadValue(f"one kind to be set ({accepted[0]} or null_value)", "none")
    if which not in accepted and which != "null_value":
        raise BadValue(f"{accepted[0]} (the field is of type {kind.value})", which)
    found = _READERS[which](value)
    return float(found) if kind is FieldType.FLOAT and isinstance(found, int) else found


def read_scalar(value: pb.Value) -> str | int | float | bool:
    """Return a text, number or bool, whatever the field (JSON path equality).

    Raises:
        BadValue: another kind is set, or none.
    """
    which = value.WhichOneof("kind")
    if which not in ("string_value", "int_value", "double_value", "bool_value"):
        raise BadValue(
            "string_value, int_value, double_value or bool_value", str(which or "none set")
        )
    scalar: str | int | float | bool = getattr(value, which)
    return scalar


def read_key(key: pb.Key, where: str, problems: list[Violation]) -> Key:
    """Return a key; its arity and types are for `proxy.validate`."""
    parts: list[str | int] = []
    for number, part in enumerate(key.parts):
        which = part.WhichOneof("kind")
        if which == "string_value":
            parts.append(part.string_value)
        elif which == "int_value":
            parts.append(part.int_value)
        else:
            expected = "string_value or int_value to be set"
            problems.append(Violation(where=f"{where}.parts[{number}]", expected=expected))
    return tuple(parts)


# ---------------------------------------------------------------- model to wire


def _set_text(target: pb.Value, value: Any) -> None:
    target.string_value = value


def _set_int(target: pb.Value, value: Any) -> None:
    target.int_value = value


def _set_float(target: pb.Value, value: Any) -> None:
    target.double_value = value


def _set_bool(target: pb.Value, value: Any) -> None:
    target.bool_value = value


def _set_timestamp(target: pb.Value, value: Any) -> None:
    target.timestamp_us = (value - _EPOCH) // _MICROSECOND


def _set_text_list(target: pb.Value, value: Any) -> None:
    target.string_list_value.SetInParent()  # an empty list is not null
    target.string_list_value.values.extend(value)


def _set_json(target: pb.Value, value: Any) -> None:
    target.json_value = dump_json(value)


Setter = Callable[[pb.Value, Any], None]

_SETTERS: Final[Mapping[FieldType, Setter]] = {
    FieldType.TEXT: _set_text,
    FieldType.INT: _set_int,
    FieldType.FLOAT: _set_float,
    FieldType.BOOL: _set_bool,
    FieldType.TIMESTAMP: _set_timestamp,
    FieldType.TEXT_LIST: _set_text_list,
    FieldType.JSON: _set_json,
}


def dump_json(value: object) -> str:
    """Return compact JSON; numbers that only a Decimal holds keep every digit."""
    try:
        return _ENCODER.encode(value)
    except TypeError:
        return json_text(value)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
)
"""Made once; `json.dumps` with arguments makes one for each call."""


def to_microseconds(moment: dt.datetime) -> int:
    """Return microseconds since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def fill_value(target: pb.Value, kind: FieldType, value: Value) -> None:
    """Write one value into a message."""
    if value is None:
        target.null_value = NULL_VALUE
    else:
        _SETTERS[kind](target, value)


def fill_key(target: pb.Key, key: Key) -> None:
    """Write a key into a message."""
    parts = target.parts
    for part in key:
        if isinstance(part, str):
            parts.add().string_value = part
        else:
            parts.add().int_value = part


class RecordWriter:
    """Writes records of one collection into messages; the dispatch by type is decided once."""

    __slots__ = ("_setters",)

    def __init__(self, spec: CollectionSpec) -> None:
        self._setters = {item.name: _SETTERS[item.type] for item in spec.fields}

    def fill(self, target: pb.Record, record: Record) -> None:
        """Write a record into a message."""
        fill_key(target.key, record.key)
        fields = target.fields
        setters = self._setters
        for name, value in record.fields.items():
            if value is None:
                fields[name].null_value = NULL_VALUE
            else:
                setters[name](fields[name], value)
        if record.vector is not None:
            target.vector = record.vector
