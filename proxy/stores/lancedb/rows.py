"""Arrow columns to records, and records to Arrow columns."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from proxy.canonical import json_text
from proxy.errors import Corrupt
from proxy.layouts import Column
from proxy.model import FieldType, Key, Record, Value, encode_key
from proxy.query import Projection
from proxy.stores.arrow import vector_array
from proxy.stores.lancedb.packing import Unreadable, load_json, load_object, pack, unowned, unpack
from proxy.stores.lancedb.sql import micros
from proxy.stores.lancedb.table import FieldColumn, Table

PLAIN: Final = Projection()
WHOLE: Final = Projection(vector=True)
KEYS: Final = Projection(fields=())

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A record, and the names in its packed columns that belong to no field."""

    record: Record
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a projection reads: the columns to ask for, and which fields come of them."""

    table: Table
    fields: tuple[FieldColumn, ...]
    packed: tuple[Column, ...]
    wanted: frozenset[str] | None
    vector: bool

    @property
    def names(self) -> list[str]:
        """The columns to read; the key's always among them."""
        names = [column.name for column in (*self.table.key_columns, *self.fields)]
        names += [column.name for column in self.packed]
        return [*names, self.table.vector] if self.vector else names

    def records(self, rows: Any) -> list[Record]:
        """Return the records of a pyarrow.Table or RecordBatch that has `names`."""
        return [item.record for item in self.stored(rows, others=False)]

    def stored(self, rows: Any, *, others: bool = True) -> list[Stored]:
        """Return the records with what their packed columns hold besides.

        Raises:
            Corrupt: a row cannot be read; the message names it.
        """
        keys = self.keys(rows)
        values = [(item.field, decode_column(item, rows.column(item.name))) for item in self.fields]
        packed = [(column, rows.column(column.name).to_pylist()) for column in self.packed]
        vectors = vectors_of(rows.column(self.table.vector)) if self.vector else None
        spec = self.table.spec
        constants = {
            name: value
            for name, value in self.table.layout.constants.items()
            if name not in spec.key and (self.wanted is None or name in self.wanted)
        }
        found = []
        for at, key in enumerate(keys):
            fields: dict[str, Value] = {name: column[at] for name, column in values}
            fields.update(constants)
            kept: dict[str, Mapping[str, Any]] = {}
            try:
                for column, texts in packed:
                    self._unpack(column, texts[at], fields)
                    if others and not column.rest and texts[at] is not None:
                        kept[column.name] = unowned(column, load_object(column, texts[at]))
            except Unreadable as error:
                raise self._corrupt(key, str(error)) from error
            record = Record(
                collection=spec.name,
                key=key,
                fields=fields,
                vector=None if vectors is None else vectors[at],
            )
            found.append(Stored(record=record, others=kept))
        return found

    def _unpack(self, column: Column, text: str | None, fields: dict[str, Value]) -> None:
        own = self.table.columns
        for name, value in unpack(self.table.spec, column, text).items():
            wanted = self.wanted is None or name in self.wanted
            if wanted and name not in own and name not in self.table.spec.key:
                fields[name] = value

    def _corrupt(self, key: Key, why: str) -> Corrupt:
        return Corrupt(
            f"The record {encode_key(key)} of {self.table.spec.name} cannot be read: {why}.",
            hint="Correct the row in the store.",
        )

    def keys(self, rows: Any) -> list[Key]:
        """Return the keys of the rows."""
        table = self.table
        parts = []
        for name in table.spec.key:
            column = table.columns.get(name)
            if column is None:
                parts.append([table.layout.constants[name]] * rows.num_rows)
            else:
                parts.append(rows.column(column.name).to_pylist())
        return list(zip(*parts, strict=True))


def select(table: Table, projection: Projection) -> Selection:
    """Return how to read a projection of the table's records."""
    wanted = None if projection.fields is None else frozenset(projection.fields)
    fields = tuple(
        column
        for name, column in table.columns.items()
        if name not in table.spec.key and (wanted is None or name in wanted)
    )
    packed = tuple(column for column in table.packed if _unpacks(table, column, wanted))
    return Selection(
        table=table,
        fields=fields,
        packed=packed,
        wanted=wanted,
        vector=projection.vector and bool(table.vector),
    )


def _unpacks(table: Table, column: Column, wanted: frozenset[str] | None) -> bool:
    if wanted is None:
        return True
    own = {item.field for item in column.packed if item.field not in table.columns}
    return not wanted.isdisjoint(own | {column.rest})


def decode_column(column: FieldColumn, values: Any) -> list[Value]:
    """Return a column's values as Python has them."""
    kind = column.kind
    if kind is FieldType.TIMESTAMP:
        numbers = values.cast(pa.int64()).to_pylist()
        return [None if n is None else _EPOCH + dt.timedelta(microseconds=n) for n in numbers]
    found: list[Value] = values.to_pylist()
    if kind is FieldType.JSON:
        return [None if text is None else _json(column, text) for text in found]
    return found


def _json(column: FieldColumn, value: Value) -> Value:
    try:
        return load_json(column.name, str(value))  # type: ignore[no-any-return]  # a JSON value
    except Unreadable as error:
        raise Corrupt(f"A row cannot be read: {error}.", hint="Correct it in the store.") from error


def matrix(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a vector column as (float32 of shape (rows, dim), valid of shape (rows,))."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    dim = values.type.list_size
    flat = values.values.slice(values.offset * dim, len(values) * dim)
    numbers = flat.to_numpy(zero_copy_only=False).astype("<f4", copy=False)
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    return numbers.reshape(len(values), dim), valid


def vectors_of(values: Any) -> list[bytes | None]:
    """Return a vector column as packed vectors."""
    numbers, valid = matrix(values)
    width = 4 * numbers.shape[1]
    data = numbers.tobytes()
    return [
        data[at * width : (at + 1) * width] if there else None
        for at, there in enumerate(valid.tolist())
    ]


def encode_rows(table: Table, rows: Sequence[Stored]) -> Any:
    """Return records as a pyarrow.Table of the layout's columns; every field is there."""
    spec = table.spec
    arrays: dict[str, Any] = {}
    at = {name: number for number, name in enumerate(spec.key)}
    for name, column in table.columns.items():
        if name in at:
            values: list[Value] = [item.record.key[at[name]] for item in rows]
        else:
            values = [item.record.fields.get(name) for item in rows]
        arrays[column.name] = encode_column(column, values)
    for packed in table.packed:
        texts = [
            pack(
                packed,
                {**item.record.fields, **dict(zip(spec.key, item.record.key, strict=True))},
                item.others.get(packed.name, {}),
            )
            for item in rows
        ]
        arrays[packed.name] = pa.array(texts, pa.string())
    if table.vector:
        arrays[table.vector] = vector_array([item.record.vector for item in rows], table.dim)
    return pa.table([arrays[name] for name in table.schema.names], schema=table.schema)


_ENCODERS: Mapping[FieldType, Callable[[Any], Any]] = {
    FieldType.JSON: json_text,
    FieldType.TIMESTAMP: micros,
    FieldType.FLOAT: float,
}


def encode_column(column: FieldColumn, values: Sequence[Value]) -> Any:
    """Return values as an Arrow array of the column's type."""
    encoder = _ENCODERS.get(column.kind)
    if encoder is not None:
        values = [None if value is None else encoder(value) for value in values]
    if column.kind is FieldType.TIMESTAMP:
        return pa.array(values, pa.int64()).cast(column.type)
    return pa.array(values, column.type)
