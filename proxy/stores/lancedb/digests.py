"""Digests of records over Arrow columns: `proxy.canonical`, a column at a time."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from proxy.canonical import json_text, value_text
from proxy.model import FieldType, KeyPart, Value
from proxy.query import Projection
from proxy.stores.lancedb.rows import Selection, decode_column, matrix, select
from proxy.stores.lancedb.table import FieldColumn, Table

_NULL: Final = b"-"


class Digester:
    """Digests rows of a table over key, some fields and, if asked, the vector."""

    def __init__(self, table: Table, fields: Sequence[str], *, vectors: bool) -> None:
        self._table = table
        self._fields = tuple(fields)
        self._vectors = vectors and table.spec.vector is not None
        self.selection: Selection = select(
            table, Projection(fields=self._fields, vector=self._vectors)
        )

    def digests(self, rows: Any) -> list[int]:
        """Return the digest of each row of a pyarrow.Table with the selection's columns."""
        count = rows.num_rows
        columns = [self._field(name, rows) for name in self._table.spec.key]
        others = self._packed(rows)
        columns += [
            others[name] if name in others else self._field(name, rows) for name in self._fields
        ]
        if self._vectors:
            columns.append(self._vector(rows, count))
        from_bytes, md5 = int.from_bytes, hashlib.md5
        return [
            from_bytes(md5(b"".join(parts), usedforsecurity=False).digest(), "big")
            for parts in zip(*columns, strict=True)
        ]

    def _field(self, name: str, rows: Any) -> list[bytes]:
        column = self._table.columns.get(name)
        if column is not None:
            return _framed_column(column, rows.column(column.name))
        kind = self._table.spec.by_name[name].type
        constant = self._table.layout.constants.get(name)
        return [_framed_value(kind, constant)] * int(rows.num_rows)

    def _packed(self, rows: Any) -> dict[str, list[bytes]]:
        """Return the packed fields among those asked for."""
        own = self._table.columns
        names = [n for n in self._fields if n not in own and n not in self._table.layout.constants]
        if not self.selection.packed or not names:
            return {}
        by_name = self._table.spec.by_name
        records = self.selection.records(rows)
        return {
            name: [_framed_value(by_name[name].type, r.fields.get(name)) for r in records]
            for name in names
        }

    def _vector(self, rows: Any, count: int) -> list[bytes]:
        if not self._table.vector:
            return [_NULL] * count
        return framed_vectors(rows.column(self._table.vector))


def framed_vectors(values: Any) -> list[bytes]:
    """Return the framed text of each vector: md5 over pgvector's binary form, in hex."""
    numbers, valid = matrix(values)
    head = struct.pack(">hh", numbers.shape[1], 0)
    turned = numbers.astype(">f4")
    data, width = memoryview(turned.tobytes()), 4 * numbers.shape[1]
    started, found = hashlib.md5(head, usedforsecurity=False), []
    for at, there in enumerate(valid.tolist()):
        if not there:
            found.append(_NULL)
            continue
        digest = started.copy()
        digest.update(data[at * width : (at + 1) * width])
        found.append(b"32:" + digest.hexdigest().encode())
    return found


def _framed(text: str) -> bytes:
    data = text.encode()
    return b"%d:%s" % (len(data), data)


def _framed_value(kind: FieldType, value: Value | KeyPart) -> bytes:
    return _NULL if value is None else _framed(value_text(kind, value))


_TRUTH: Final[Mapping[Any, bytes]] = {None: _NULL, True: b"1:t", False: b"1:f"}


def _framed_column(column: FieldColumn, values: Any) -> list[bytes]:
    """Return the framed canonical text of each value of a column."""
    kind = column.kind
    if kind is FieldType.BOOL:
        return [_TRUTH[value] for value in values.to_pylist()]
    if kind is FieldType.FLOAT:
        return _framed_floats(values)
    if kind is FieldType.TIMESTAMP:
        values = values.cast(pa.int64())
    encode: Callable[[Any], str] = str
    if kind is FieldType.JSON:
        return [_framed_value(kind, value) for value in decode_column(column, values)]
    if kind is FieldType.TEXT_LIST:
        encode = json_text
    return [_NULL if value is None else _framed(encode(value)) for value in values.to_pylist()]


def _framed_floats(values: Any) -> list[bytes]:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    pack = struct.Struct(">d").pack
    return [
        _NULL if value is None else b"16:" + pack(value).hex().encode()
        for value in values.to_pylist()
    ]
