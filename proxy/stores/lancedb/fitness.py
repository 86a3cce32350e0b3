"""Would this table hold these values? What Arrow and LanceDB add to the checks of the layout."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from proxy.model import FieldType, Record, Write, WriteOp
from proxy.stores.lancedb.sql import encodable
from proxy.stores.lancedb.table import Table


def write_misfit(table: Table, write: Write, store: str, *, whole: bool) -> str:
    """Say why the table cannot hold what a write brings, "" if it can.

    Args:
        whole: it is to make a record of its own, so what is left out is null.
    """
    why = table.shape.misfit(write, store, whole=whole)
    if why:
        return why
    for name, part in zip(table.spec.key, write.key, strict=True):
        why = _value_misfit(table, name, part)
        if why:
            return why
    for name, value in write.fields.items():
        if name in table.shape.held and value is not None:
            why = _value_misfit(table, name, value)
            if why:
                return why
    return vector_misfit(write.vector) if table.vector else ""


def record_misfit(table: Table, record: Record, store: str) -> str:
    """Say why the store could not hold a whole record, "" if it can."""
    write = Write(
        op=WriteOp.INSERT,
        collection=record.collection,
        key=record.key,
        fields=record.fields,
        vector=record.vector,
    )
    return write_misfit(table, write, store, whole=True)


def vector_misfit(vector: bytes | None) -> str:
    """Say why LanceDB refuses a vector of the right length."""
    if vector is None or np.isfinite(np.frombuffer(vector, dtype="<f4")).all():
        return ""
    return "the vector has a number that is not finite"


def _value_misfit(table: Table, name: str, value: object) -> str:
    column = table.columns.get(name)
    if name in table.shape.rests and not isinstance(value, Mapping):
        return f"{name} must be a JSON object: its column packs other fields too"
    if column is None:
        return _content_misfit(name, value)
    if column.kind is FieldType.FLOAT:
        return ""
    if column.kind is FieldType.INT and isinstance(value, int):
        limit = 2 ** (column.type.bit_width - 1)
        if not -limit <= value < limit:
            return f"{name} is {value}, out of the range of {column.type}"
    if isinstance(value, list | tuple) and column.kind is FieldType.TEXT_LIST:
        return "" if all(map(_is_text, value)) else f"{name} is a list of texts"
    return _content_misfit(name, value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and encodable(value)


def _content_misfit(name: str, value: object) -> str:
    """Say what inside a value has no form in UTF-8 or in JSON."""
    if isinstance(value, str):
        return "" if encodable(value) else f"{name} has a character without a UTF-8 form"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} has a number that is not finite"
    if isinstance(value, Mapping):
        pairs = ((key, item) for key, item in value.items())
        return next(
            (why for pair in pairs for part in pair if (why := _content_misfit(name, part))), ""
        )
    if isinstance(value, list | tuple):
        return next((why for item in value if (why := _content_misfit(name, item))), "")
    return ""
