"""Python values to the wire's and back."""

from __future__ import annotations

import datetime as dt
import json
import numbers
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Final, TypeAlias

import numpy as np
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import NULL_VALUE

from crossfade.client.types import (
    FieldValue,
    Json,
    Key,
    KeyLike,
    Read,
    Record,
    ServedBy,
    VectorLike,
)
from crossfade.storage.v1 import storage_pb2 as pb

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


def set_value(target: pb.Value, value: object) -> None:
    """Write a field's value into a message.

    Raises:
        TypeError: no field can hold a value of this type.
        ValueError: a datetime without a zone, an integer of more than 64 bits.
    """
    if value is None:
        target.null_value = NULL_VALUE
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, bool | np.bool_):
        target.bool_value = bool(value)
    elif isinstance(value, numbers.Integral):
        target.int_value = int(value)
    elif isinstance(value, numbers.Real):
        target.double_value = float(value)
    elif isinstance(value, dt.datetime):
        target.timestamp_us = to_microseconds(value)
    else:
        _set_compound(target, value)


def _set_compound(target: pb.Value, value: object) -> None:
    if isinstance(value, Json):
        target.json_value = _dump(value.value)
    elif isinstance(value, Mapping):
        target.json_value = _dump(value)
    elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        target.string_list_value.SetInParent()
        target.string_list_value.values.extend(value)
    else:
        raise TypeError(
            f"{type(value).__name__} is no field value; wrap a JSON value that is no object in "
            "crossfade.client.Json"
        )


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_microseconds(moment: dt.datetime) -> int:
    """Return microseconds since 1970 UTC.

    Raises:
        ValueError: the datetime has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; say which, for example dt.UTC")
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(moment_us: int) -> dt.datetime:
    """Return an aware UTC datetime."""
    return _EPOCH + dt.timedelta(microseconds=moment_us)


def read_value(value: pb.Value) -> FieldValue:
    """Return a field's value.

    Raises:
        ValueError: the server is newer and sent a kind that this client does not know.
    """
    which = value.WhichOneof("kind")
    if which is None:
        raise ValueError("a value of unknown kind; update the client")
    return _READERS[which](value)


def _read_json(value: pb.Value) -> FieldValue:
    parsed = json.loads(value.json_value)
    return parsed if isinstance(parsed, dict) else Json(parsed)


_READERS: Final[Mapping[str, Callable[[pb.Value], FieldValue]]] = {
    "null_value": lambda value: None,
    "bool_value": attrgetter("bool_value"),
    "int_value": attrgetter("int_value"),
    "double_value": attrgetter("double_value"),
    "string_value": attrgetter("string_value"),
    "timestamp_us": lambda value: from_microseconds(value.timestamp_us),
    "string_list_value": lambda value: list(value.string_list_value.values),
    "json_value": _read_json,
}


def fill_key(target: pb.Key, key: KeyLike | None) -> None:
    """Write a key into a message; None leaves it to the server."""
    if key is None:
        return
    for part in (key,) if isinstance(key, str | int) else key:
        if isinstance(part, str):
            target.parts.add().string_value = part
        else:
            target.parts.add().int_value = part


def read_key(key: pb.Key) -> Key:
    """Return a key."""
    return tuple(
        part.string_value if part.WhichOneof("kind") == "string_value" else part.int_value
        for part in key.parts
    )


def pack_vector(vector: VectorLike) -> bytes:
    """Return packed little-endian float32; bytes are taken to be that already.

    Raises:
        ValueError: not one-dimensional, or not numbers.
    """
    if isinstance(vector, bytes):
        return vector
    array = np.asarray(vector, dtype="<f4")
    if array.ndim != 1:
        raise ValueError(f"a vector has the shape (dim,), not {array.shape}")
    return array.tobytes()


Writable: TypeAlias = pb.Record | pb.Patch


def fill_record(
    target: Writable,
    key: KeyLike | None,
    fields: Mapping[str, FieldValue] | None,
    vector: VectorLike | None,
) -> None:
    """Write a record or a change into a message."""
    fill_key(target.key, key)
    for name, value in (fields or {}).items():
        set_value(target.fields[name], value)
    if vector is not None:
        target.vector = pack_vector(vector)


def read_record(record: pb.Record, served_by: ServedBy | None = None) -> Record:
    """Return a record; its vector shares the message's bytes."""
    return Record(
        key=read_key(record.key),
        fields={name: read_value(value) for name, value in record.fields.items()},
        vector=np.frombuffer(record.vector, dtype="<f4") if record.HasField("vector") else None,
        served_by=served_by,
    )


def read_served(served: pb.ServedBy) -> ServedBy:
    """Return who answered."""
    return ServedBy(store=served.store, role=served.role, reason=served.reason)


def field_mask(read: Read) -> FieldMask | None:
    """Return the mask of the fields to read, None for all."""
    return None if read.fields is None else FieldMask(paths=read.fields)
