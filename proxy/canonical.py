"""The canonical form of a record, and its digest: the same bytes whichever store holds it.

A record's digest is md5 over, for each of (key parts, chosen fields in order, vector):

    null     -> "-"
    other    -> the byte length of its text in decimal, ":", the text in UTF-8

with these texts: text: itself; int: decimal; bool: "t" or "f"; float: the 8 bytes of the IEEE
double, big-endian, hex; timestamp: microseconds since 1970-01-01 UTC, decimal; text_list and
json: PostgreSQL's text of the same jsonb (keys by byte length, then bytes; ", " and ": "; numbers
as written); vector: md5, hex, of int16 dim, int16 0, dim float32, all big-endian (pgvector's
binary form). PostgreSQL computes the same in SQL.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np

from proxy.model import CollectionSpec, FieldType, Key, Record, Value

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_PLAIN = frozenset({FieldType.TEXT, FieldType.INT, FieldType.BOOL, FieldType.TIMESTAMP})
"""Types whose values are equal exactly if their canonical texts are."""


def json_text(value: object) -> str:
    """Return the text PostgreSQL gives the same value as jsonb."""
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
        inner = ", ".join(f"{_json_string(name)}: {json_text(value[name])}" for name in names)
        return "{" + inner + "}"
    if isinstance(value, str):
        return _json_string(value)
    if isinstance(value, Sequence):
        return "[" + ", ".join(json_text(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float | Decimal):
        return _json_number(value)
    raise TypeError(f"not a JSON value: {type(value).__name__}")


def _json_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json_number(value: float | Decimal) -> str:
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    text = format(number, "f")
    return text.removeprefix("-") if not number else text  # PostgreSQL knows no negative zero


def value_text(kind: FieldType, value: Value) -> str:
    """Return the canonical text of a value that is not null."""
    if kind is FieldType.TEXT:
        return str(value)
    if kind is FieldType.INT and isinstance(value, int):
        return str(int(value))
    if kind is FieldType.BOOL:
        return "t" if value else "f"
    if kind is FieldType.FLOAT and isinstance(value, int | float):
        return struct.pack(">d", value).hex()
    if kind is FieldType.TIMESTAMP and isinstance(value, dt.datetime):
        return str((value - _EPOCH) // _MICROSECOND)
    if kind in (FieldType.TEXT_LIST, FieldType.JSON):
        return json_text(value)
    raise TypeError(f"{type(value).__name__} is not a {kind.value}")


def vector_text(vector: bytes) -> str:
    """Return the canonical text of a packed little-endian float32 vector."""
    values = np.frombuffer(vector, dtype="<f4").astype(">f4")
    head = struct.pack(">hh", len(values), 0)
    return hashlib.md5(head + values.tobytes(), usedforsecurity=False).hexdigest()


def record_digest(
    spec: CollectionSpec, record: Record, fields: Sequence[str], *, vectors: bool = True
) -> int:
    """Return the 128-bit digest of key, `fields` (in this order) and, if asked, vector."""
    parts: list[bytes] = []
    for name, part in zip(spec.key, record.key, strict=True):
        parts.append(_framed(value_text(spec.by_name[name].type, part)))
    for name in fields:
        value = record.fields.get(name)
        parts.append(b"-" if value is None else _framed(value_text(spec.by_name[name].type, value)))
    if spec.vector is not None and vectors:
        parts.append(b"-" if record.vector is None else _framed(vector_text(record.vector)))
    return int.from_bytes(hashlib.md5(b"".join(parts), usedforsecurity=False).digest(), "big")


def _framed(text: str) -> bytes:
    data = text.encode()
    return b"%d:%s" % (len(data), data)


def same_value(kind: FieldType, left: Value, right: Value) -> bool:
    """Compare two values in canonical form."""
    if left is None or right is None:
        return left is None and right is None
    if kind in _PLAIN and type(left) is type(right):
        return left == right
    return value_text(kind, left) == value_text(kind, right)


def differing_fields(
    spec: CollectionSpec, left: Record, right: Record, fields: Sequence[str]
) -> tuple[str, ...]:
    """Name the fields (and "vector") in which two records of one key differ, bit for bit."""
    names = [
        name
        for name in fields
        if not same_value(spec.by_name[name].type, left.fields.get(name), right.fields.get(name))
    ]
    if spec.vector is not None and left.vector != right.vector:
        names.append("vector")
    return tuple(names)


def key_sort_text(key: Key) -> tuple[tuple[int, int, bytes], ...]:
    """Return a sort key that orders keys as the "C" collation does (bytes; ints by value)."""
    return tuple((0, part, b"") if isinstance(part, int) else (1, 0, part.encode()) for part in key)
