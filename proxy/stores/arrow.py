"""The bulk format "arrow": logical columns in Apache Arrow, for stores that are columnar.

Each chunk of bytes is a whole IPC stream: a schema and one or more record batches. The columns
are the key fields, the plan's fields by their logical names, and "vector" if the plan wants it:

    text string, int int64, float float64, bool bool, timestamp timestamp[us, UTC],
    text_list list<string>, json string (the canonical text), vector fixed_size_list<float32>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from proxy.model import CollectionSpec, FieldType

DIALECT: Final = "arrow"
VECTOR: Final = "vector"

TYPES: Final[Mapping[FieldType, Any]] = {
    FieldType.TEXT: pa.string(),
    FieldType.INT: pa.int64(),
    FieldType.FLOAT: pa.float64(),
    FieldType.BOOL: pa.bool_(),
    FieldType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    FieldType.TEXT_LIST: pa.list_(pa.string()),
    FieldType.JSON: pa.string(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrowPlan:
    """Which logical fields a chunk holds beside the key, and whether it holds the vector."""

    fields: tuple[str, ...]
    vector: bool


def logical_schema(spec: CollectionSpec, plan: ArrowPlan) -> Any:
    """Return the Arrow schema of a collection's chunks (pyarrow.Schema)."""
    columns = [pa.field(name, TYPES[spec.by_name[name].type]) for name in (*spec.key, *plan.fields)]
    if plan.vector and spec.vector is not None:
        columns.append(pa.field(VECTOR, pa.list_(pa.float32(), spec.vector.dim)))
    return pa.schema(columns)


def vector_array(vectors: Sequence[bytes | None], dim: int) -> Any:
    """Return packed vectors as a fixed_size_list<float32> array, bit for bit."""
    blank = bytes(4 * dim)
    flat = pa.Array.from_buffers(
        pa.float32(),
        len(vectors) * dim,
        [None, pa.py_buffer(b"".join(vector or blank for vector in vectors))],
    )
    nulls = pa.array([vector is None for vector in vectors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(flat, dim, mask=nulls)


def encode_batch(batch: Any) -> bytes:
    """Return a record batch as one chunk."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode_chunk(chunk: bytes) -> Any:
    """Return a chunk as a pyarrow.Table."""
    with pa.ipc.open_stream(chunk) as reader:
        return reader.read_all()
