"""Rows as Arrow columns: binary COPY decoded a column at a time, for targets that are columnar.

A chunk of COPY data holds a thousand rows or so. Where each value of a column begins is worked
out for all of its rows at once; no row and no value becomes a Python object.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from proxy.errors import Corrupt
from proxy.model import CollectionSpec, FieldType, Key
from proxy.query import KeyRange
from proxy.stores.arrow import TYPES, VECTOR, ArrowPlan, encode_batch, logical_schema
from proxy.stores.postgres.bulk import CopyRows, without_keys
from proxy.stores.postgres.conditions import Params, range_sql, where
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.table import Table
from proxy.stores.postgres.types import LOGICAL

CHUNK_BYTES: Final = 4 * 2**20
"""Enough rows that the work of a column is numpy's, few enough that memory does not notice."""

_SIGNATURE_BYTES = 19
_TRAILER = b"\xff\xff"
_PAD = bytes(32)
_FIELD_HEAD = 4
_VECTOR_HEAD = 4
_ARRAY_HEAD = 20
_ARRAY_SIZE_AT = 12
_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01
_TIME_US = (-62_135_596_800_000_000, 253_402_300_799_999_999)  # years 1 to 9999

_Ints = NDArray[np.int64]
_Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Cells:
    """One column of a chunk: where each value begins, and its bytes, -1 for null."""

    start: _Ints
    length: _Ints

    @property
    def null(self) -> NDArray[np.bool_]:
        return self.length < 0


def sent_columns(table: Table, plan: ArrowPlan) -> list[str]:
    """Return the columns that the database is asked for; constants are known here."""
    names = [n for n in (*table.spec.key, *plan.fields) if not table.fields[n].constant]
    if plan.vector and table.vector and table.spec.vector is not None:
        names.append(VECTOR)
    return names


def arrow_query(
    table: Table,
    plan: ArrowPlan,
    span: KeyRange,
    *,
    order: str,
    exclude: Collection[Key],
    params: Params,
) -> str:
    """Return the query whose rows `arrow_chunks` decodes."""
    expressions = [_expression(table, name) for name in sent_columns(table, plan)]
    left_out = without_keys(table, exclude, params)
    condition = where(table, None, params, range_sql(table, span, order, params), left_out)
    return f"SELECT {', '.join(expressions)} FROM {table.relation}{condition}"


def _expression(table: Table, name: str) -> str:
    if name == VECTOR:
        return table.vector
    item = table.fields[name]
    return f"({item.value})::{'text' if item.type is FieldType.JSON else LOGICAL[item.type]}"


async def arrow_chunks(
    connection: Connection, table: Table, plan: ArrowPlan, query: str
) -> AsyncGenerator[bytes, None]:
    """Stream a query of `arrow_query` as chunks of the bulk format "arrow".

    Raises:
        Corrupt: a value has no place in its column (a time out of range, another dimension).
    """
    decoder = _Decoder(table, plan)
    rows = CopyRows(connection.pgconn, chunk_bytes=CHUNK_BYTES)
    first = True
    async with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)"):
        while not rows.ended:
            chunk = await connection.wait(rows.next_rows())
            if first and chunk:
                chunk[0] = bytes(chunk[0])[_SIGNATURE_BYTES:]
                first = False
            if chunk and bytes(chunk[-1]) == _TRAILER:
                chunk.pop()
            if chunk:
                # Beside the event loop: a proxy that reconciles has requests to answer.
                yield await asyncio.to_thread(decoder.chunk, chunk)


class _Decoder:
    """Makes record batches of COPY rows."""

    def __init__(self, table: Table, plan: ArrowPlan) -> None:
        self._table = table
        self._schema = logical_schema(table.spec, plan)
        self._sent = sent_columns(table, plan)
        self._names = list(self._schema.names)

    def chunk(self, rows: Sequence[Any]) -> bytes:
        """Return the rows as one chunk of the bulk format."""
        return encode_batch(self.batch(rows))

    def batch(self, rows: Sequence[Any]) -> Any:
        """Return the rows as one pyarrow.RecordBatch."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        data = np.frombuffer(b"".join((*rows, _PAD)), np.uint8)
        cells = dict(zip(self._sent, self._cells(data, lengths), strict=True))
        arrays = [self._array(name, data, cells.get(name), len(rows)) for name in self._names]
        return pa.record_batch(arrays, schema=self._schema)

    def _cells(self, data: _Bytes, lengths: _Ints) -> list[_Cells]:
        """Walk all rows at once, a column at a time."""
        ends = np.cumsum(lengths)
        at = ends - lengths + 2  # each row begins with the number of its columns
        found = []
        for _ in self._sent:
            length = _int32(data, at)
            found.append(_Cells(at + _FIELD_HEAD, length))
            at = at + _FIELD_HEAD + np.maximum(length, 0)
        if not np.array_equal(at, ends):
            raise Corrupt(f"Binary COPY of {self._table.name} has rows of another shape.")
        return found

    def _array(self, name: str, data: _Bytes, cells: _Cells | None, rows: int) -> Any:
        spec = self._table.spec
        if name == VECTOR and name not in spec.by_name:
            return _vectors(spec, data, cells, rows)
        kind = spec.by_name[name].type
        if cells is None:
            return pa.repeat(pa.scalar(self._table.layout.constants[name], TYPES[kind]), rows)
        return _values(kind, data, cells, f"{self._table.name}.{name}")


def _values(kind: FieldType, data: _Bytes, cells: _Cells, what: str) -> Any:
    """Return one column of logical values."""
    if kind is FieldType.TIMESTAMP:
        return _times(data, cells, what)
    if kind is FieldType.TEXT_LIST:
        return _lists(data, cells, what)
    if kind in (FieldType.TEXT, FieldType.JSON):
        return _texts(data, cells)
    if kind is FieldType.BOOL:
        return pa.array(_fixed(data, cells, 1)[:, 0] != 0, mask=cells.null)
    number = ">f8" if kind is FieldType.FLOAT else ">i8"
    values = _fixed(data, cells, 8).view(number)[:, 0]
    return pa.array(values.astype(number.replace(">", "<")), mask=cells.null)


def _int32(data: _Bytes, at: _Ints) -> _Ints:
    return sliding_window_view(data, 4)[at].view(">i4")[:, 0].astype(np.int64)


def _fixed(data: _Bytes, cells: _Cells, width: int) -> _Bytes:
    """Return values of one width, shape (rows, width); what stands for a null is arbitrary."""
    found: _Bytes = sliding_window_view(data, width)[np.where(cells.null, 0, cells.start)]
    return found


def _texts(data: _Bytes, cells: _Cells) -> Any:
    """Return texts as an Arrow array.

    An Arrow text ends where the next begins. So the values and what lies between them are taken
    as one array, and then every second of it.
    """
    count = len(cells.start)
    bounds = np.empty(2 * count, np.int32)
    bounds[0::2] = cells.start
    bounds[1::2] = cells.start + np.maximum(cells.length, 0)
    if not count:
        return pa.array([], pa.string())
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(data)]
    laid_out = pa.Array.from_buffers(pa.binary(), 2 * count - 1, buffers)
    every_second = pa.array(np.arange(0, 2 * count, 2), mask=cells.null)
    return laid_out.take(every_second).view(pa.string())


def _times(data: _Bytes, cells: _Cells, what: str) -> Any:
    micros = _fixed(data, cells, 8).view(">i8")[:, 0].astype(np.int64)
    earliest, latest = (bound - _EPOCH_US for bound in _TIME_US)
    if (((micros < earliest) | (micros > latest)) & ~cells.null).any():
        raise Corrupt(f"{what} holds a time that is not in the years 1 to 9999.")
    micros = np.where(cells.null, 0, micros) + _EPOCH_US
    return pa.array(micros, mask=cells.null).cast(TYPES[FieldType.TIMESTAMP])


def _lists(data: _Bytes, cells: _Cells, what: str) -> Any:
    """Return text arrays: the first element of all rows, then the second, and so on."""
    start = np.where(cells.null, 0, cells.start)
    dimensions = np.where(cells.null, 0, _int32(data, start))
    if (dimensions > 1).any():
        raise Corrupt(f"{what} holds a list of lists.")
    count = np.where(dimensions == 1, _int32(data, start + _ARRAY_SIZE_AT), 0)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(count)))
    items = _Cells(np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int64))
    at = start + _ARRAY_HEAD
    rows = np.flatnonzero(count)
    number = 0
    while rows.size:
        length = _int32(data, at[rows])
        place = offsets[rows] + number
        items.start[place], items.length[place] = at[rows] + _FIELD_HEAD, length
        at[rows] += _FIELD_HEAD + np.maximum(length, 0)
        number += 1
        rows = rows[count[rows] > number]
    mask = pa.array(cells.null)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _texts(data, items), mask=mask)


def _vectors(spec: CollectionSpec, data: _Bytes, cells: _Cells | None, rows: int) -> Any:
    """Return vectors bit for bit: pgvector sends big-endian, Arrow keeps little-endian."""
    dim = spec.vector.dim if spec.vector is not None else 0
    if cells is None:
        return pa.nulls(rows, pa.list_(pa.float32(), dim))
    there = ~cells.null
    if (cells.length[there] != _VECTOR_HEAD + 4 * dim).any():
        raise Corrupt(f"{spec.name} holds a vector that has not {dim} dimensions.")
    values = np.zeros((rows, dim), "<u4")
    if there.any():
        packed = sliding_window_view(data, 4 * dim)[cells.start[there] + _VECTOR_HEAD]
        values[there] = packed.view(">u4")
    flat = pa.array(values.view("<f4").reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, dim, mask=pa.array(cells.null))
