"""Records as chunks of the bulk format "arrow", for stores that are loaded without another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from proxy.canonical import json_text
from proxy.model import CollectionSpec, FieldType, Record
from proxy.stores.arrow import TYPES, ArrowPlan, encode_batch, logical_schema, vector_array


def encode_records(spec: CollectionSpec, plan: ArrowPlan, records: Sequence[Record]) -> bytes:
    """Return one chunk with these records."""
    schema = logical_schema(spec, plan)
    arrays = [
        pa.array([record.key[number] for record in records], TYPES[spec.by_name[name].type])
        for number, name in enumerate(spec.key)
    ]
    for name in plan.fields:
        kind = spec.by_name[name].type
        values: list[Any] = [record.fields.get(name) for record in records]
        if kind is FieldType.JSON:
            values = [None if value is None else json_text(value) for value in values]
        arrays.append(pa.array(values, TYPES[kind]))
    if plan.vector and spec.vector is not None:
        arrays.append(vector_array([record.vector for record in records], spec.vector.dim))
    return encode_batch(pa.record_batch(arrays, schema=schema))
