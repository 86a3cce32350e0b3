"""How values cross the wire: always binary, vectors as packed bytes, JSON numbers as written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.types.json import Jsonb, set_json_loads
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import StrBinaryDumper

from proxy.canonical import json_text

_HEAD_BYTES = 4


class PackedVector(bytes):
    """A vector as the API carries it: little-endian float32. A type of its own for the dumper."""

    __slots__ = ()


class ExactFloat(float):
    """A JSON number that remembers how it was written, so that a copy writes it the same."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> ExactFloat:
        value = super().__new__(cls, text)
        value.text = text
        return value

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[ExactFloat], tuple[str]]:
        return (ExactFloat, (self.text,))


def json_param(value: object) -> Jsonb:
    """Return a query parameter that holds a JSON value, numbers as written."""
    return Jsonb(value, dumps=json_text)


_DECODER = json.JSONDecoder(parse_float=ExactFloat)


def _load_json(data: str | bytes) -> Any:
    return _DECODER.decode(data if isinstance(data, str) else bytes(data).decode())


class _VectorDumper(Dumper):
    """Packed little-endian float32 -> pgvector's binary form (int16 dim, int16 0, big-endian)."""

    format = pq.Format.BINARY

    def dump(self, obj: Any) -> Buffer:
        values = np.frombuffer(obj, dtype="<f4")
        return len(values).to_bytes(2, "big") + b"\0\0" + values.byteswap().tobytes()


class _VectorLoader(Loader):
    """pgvector's binary form -> packed little-endian float32."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> bytes:
        values = np.frombuffer(data, dtype=">f4", offset=_HEAD_BYTES)
        return values.byteswap().tobytes()


class Adapters:
    """The adaptation context of a store's connections."""

    def __init__(self, vector_oid: int | None) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)
        self.connection = None
        # What is registered last is what an untyped placeholder uses: binary, with fixed types,
        # so that a statement is prepared once and not once for each size of integer.
        self.adapters.register_dumper(str, StrBinaryDumper)
        self.adapters.register_dumper(int, Int8BinaryDumper)
        set_json_loads(_load_json, self)
        if vector_oid is not None:
            dumper = type("VectorDumper", (_VectorDumper,), {"oid": vector_oid})
            self.adapters.register_dumper(PackedVector, dumper)
            self.adapters.register_loader(vector_oid, _VectorLoader)
