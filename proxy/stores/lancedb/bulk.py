"""Bulk loads: the format "arrow" from a table's columns, and back into them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from proxy.canonical import json_text, key_sort_text
from proxy.errors import Reason, Rejected
from proxy.model import FieldSpec, FieldType, Key, Record, encode_key
from proxy.query import KeyRange
from proxy.stores.arrow import VECTOR, ArrowPlan, decode_chunk, logical_schema
from proxy.stores.fitting import value_misfit
from proxy.stores.lancedb.rows import (
    KEYS,
    WHOLE,
    Stored,
    decode_column,
    encode_rows,
    matrix,
    select,
    vectors_of,
)
from proxy.stores.lancedb.scan import batches, prepare
from proxy.stores.lancedb.sql import any_of, keys_in, range_condition
from proxy.stores.lancedb.table import FieldColumn, OpenTable, Table
from proxy.stores.lancedb.upkeep import Upkeep


def logical_rows(table: Table, plan: ArrowPlan, rows: Any) -> Any:
    """Return rows (with every column of the layout) as one record batch of the plan."""
    spec = table.spec
    schema = logical_schema(spec, plan)
    records: list[Record] | None = None
    arrays = []
    for name in (*spec.key, *plan.fields):
        type_ = schema.field(name).type
        column = table.columns.get(name)
        if column is not None and column.kind is not FieldType.JSON:
            arrays.append(_whole(rows.column(column.name)).cast(type_))
            continue
        if records is None:
            records = select(table, WHOLE).records(rows)
        at = spec.key.index(name) if name in spec.key else -1
        values: list[Any] = [r.key[at] if at >= 0 else r.fields.get(name) for r in records]
        if spec.by_name[name].type is FieldType.JSON:
            values = [None if value is None else json_text(value) for value in values]
        arrays.append(pa.array(values, type_))
    if plan.vector and table.vector:
        arrays.append(_whole(rows.column(table.vector)).cast(schema.field(VECTOR).type))
    return pa.record_batch(arrays, schema=schema)


def _whole(values: Any) -> Any:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def load_rows(table: Table, plan: ArrowPlan, chunks: Sequence[bytes], now: dt.datetime) -> Any:
    """Return the chunks as one pyarrow.Table of the layout's columns.

    Raises:
        Rejected: a value that this table cannot hold; nothing is loaded.
    """
    spec = table.spec
    expected = logical_schema(spec, plan)
    loaded = pa.concat_tables([decode_chunk(chunk) for chunk in chunks])
    if loaded.schema.names != expected.names:
        raise _refused(table, f"the columns are {loaded.schema.names}, not {expected.names}")
    loaded = loaded.cast(expected).combine_chunks()
    _check(table, plan, loaded)
    if table.packed:
        return _packed_rows(table, plan, loaded, now)
    arrays: dict[str, Any] = {}
    for name, column in table.columns.items():
        if name in loaded.schema.names:
            arrays[column.name] = _cast(table, name, loaded.column(name), column.type)
        else:
            value = now if name in table.shape.generated else None
            arrays[column.name] = pa.array([value] * loaded.num_rows, column.type)
    if table.vector:
        type_ = table.schema.field(table.vector).type
        missing = pa.nulls(loaded.num_rows, type_)
        arrays[table.vector] = loaded.column(VECTOR) if plan.vector else missing
    return pa.table([arrays[name] for name in table.schema.names], schema=table.schema)


def _cast(table: Table, name: str, values: Any, type_: Any) -> Any:
    try:
        return values.cast(type_)
    except pa.ArrowInvalid as error:
        raise _refused(table, f"{name}: {error}") from error


def _packed_rows(table: Table, plan: ArrowPlan, loaded: Any, now: dt.datetime) -> Any:
    """Go by way of records: packed fields are text to be written."""
    spec, shape = table.spec, table.shape
    columns = {name: _values(spec.by_name[name], loaded.column(name)) for name in plan.fields}
    keys = keys_of(table, loaded)
    vectors: Sequence[bytes | None] = [None] * len(keys)
    if plan.vector and table.vector:
        vectors = vectors_of(loaded.column(VECTOR))
    blank: dict[str, Any] = {
        **dict.fromkeys(shape.held),
        **{name: {} for name in shape.rests & shape.held},
        **dict.fromkeys(shape.generated, now),
    }
    rows = []
    for at, key in enumerate(keys):
        fields: dict[str, Any] = {**blank, **{name: values[at] for name, values in columns.items()}}
        for name in shape.rests & shape.held:
            fields[name] = {} if fields[name] is None else fields[name]
        record = Record(collection=spec.name, key=key, fields=fields, vector=vectors[at])
        rows.append(Stored(record=record))
    return encode_rows(table, rows)


def _values(field: FieldSpec, values: Any) -> list[Any]:
    column = FieldColumn(field=field.name, name=field.name, kind=field.type, type=values.type)
    return decode_column(column, values)


def keys_of(table: Table, loaded: Any) -> list[Key]:
    """Return the keys of loaded rows (logical columns)."""
    return list(zip(*(loaded.column(name).to_pylist() for name in table.spec.key), strict=True))


def _check(table: Table, plan: ArrowPlan, loaded: Any) -> None:
    """Refuse what a write of each row would have been refused for."""
    for name in (*table.spec.key, *plan.fields):
        field, values = table.spec.by_name[name], loaded.column(name)
        if name in table.layout.constants:
            _check_constant(table, name, values)
        if (field.required or name in table.spec.key) and values.null_count:
            raise _refused(table, f"{name} may not be null")
        if field.type is FieldType.TEXT and (field.length_max or field.choices):
            for value in pc.unique(values).to_pylist():
                why = "" if value is None else value_misfit(field, value)
                if why:
                    raise _refused(table, why)
    if plan.vector and table.vector:
        numbers, valid = matrix(loaded.column(VECTOR))
        if not np.isfinite(numbers[valid]).all():
            raise _refused(table, "a vector has a number that is not finite")
        if table.spec.vector is not None and table.spec.vector.required and not valid.all():
            raise _refused(table, "the vector may not be null")


def _check_constant(table: Table, name: str, values: Any) -> None:
    constant = table.layout.constants[name]
    if any(value != constant for value in pc.unique(values).to_pylist()):
        raise _refused(table, f"{name} is always {constant!r} here")


def _refused(table: Table, why: str) -> Rejected:
    return Rejected(
        f"A bulk load of {table.spec.name} was refused: {why}.",
        reason=Reason.FAILED_PRECONDITION,
        hint="Nothing was loaded; write the rows one by one to find the one it refuses.",
    )


async def refuse_existing(opened: OpenTable, keys: Sequence[Key]) -> None:
    """Raise Rejected(ALREADY_EXISTS) if a key is there already, or comes twice.

    The stored keys between the smallest and the largest are read: a load comes by ranges.
    """
    new = set(keys)
    if len(new) < len(keys):
        raise _exists(opened.table, "comes twice")
    first, last = min(new, key=key_sort_text), max(new, key=key_sort_text)
    between = range_condition(opened.table, KeyRange(after=first, upto=last))
    condition = any_of([part for part in (keys_in(opened.table, [first]), between) if part])
    if not await opened.handle.count_rows(condition):
        return
    selection = select(opened.table, KEYS)
    async for rows in batches(opened.handle, prepare(opened.table, None, condition), selection):
        there = new.intersection(selection.keys(rows))
        if there:
            raise _exists(opened.table, f"{encode_key(min(there))} is there already")


def _exists(table: Table, what: str) -> Rejected:
    return Rejected(
        f"A bulk load of {table.spec.name} was refused: a key {what}.",
        reason=Reason.ALREADY_EXISTS,
        hint="Nothing was loaded.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Rows ready to be added: a pyarrow.Table of the layout's columns, and their keys."""

    rows: Any
    keys: Sequence[Key]


def prepare_load(table: Table, plan: ArrowPlan, chunks: Sequence[bytes], now: dt.datetime) -> Load:
    """Decode and check the chunks; see `load_rows`."""
    rows = load_rows(table, plan, chunks, now)
    return Load(rows=rows, keys=select(table, KEYS).keys(rows))


async def add(opened: OpenTable, load: Load, upkeep: Upkeep) -> int:
    """Add the rows in one commit, unless a key is there; the writer of the table calls this."""
    if not load.keys:
        return 0
    await refuse_existing(opened, load.keys)
    await opened.handle.add(load.rows)
    upkeep.committed(1, 0)  # rows that were added leave nothing behind to clean up
    return len(load.keys)
