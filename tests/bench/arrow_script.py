"""The direct equivalent of a backfill into LanceDB: binary COPY streamed into table.add.

As a script of this kind is written: psycopg decodes the rows, pyarrow takes them in batches, one
`add` reads them as they come. Run: python -m tests.bench.arrow_script DSN FOLDER TABLE
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import lancedb
import numpy as np
import psycopg
import pyarrow as pa
from pgvector.psycopg import register_vector

from tests.work_items import DIM, fields

_BATCH = 5_000
_TEXTS = ("text[]", pa.list_(pa.string()))
_TEXT = ("text", pa.string())
_TYPES = {
    **dict.fromkeys(("tags", "dependencies", "context_tags", "acceptance_criteria"), _TEXTS),
    **dict.fromkeys(("estimated_hours", "actual_hours", "progress"), ("float8", pa.float64())),
    **dict.fromkeys(("created_at", "updated_at"), ("timestamptz", pa.timestamp("us"))),
    "order_index": ("int8", pa.int64()),
    "executable": ("bool", pa.bool_()),
}
_COLUMNS = ("id", *fields(0))


def copy_all(dsn: str, folder: str, table: str) -> tuple[int, float]:
    """Copy every row; return how many are there afterwards and the seconds it took."""
    began_s = time.perf_counter()
    schema = pa.schema(
        [(name, _TYPES.get(name, _TEXT)[1]) for name in _COLUMNS]
        + [("vector", pa.list_(pa.float32(), DIM))]
    )
    target = lancedb.connect(folder).create_table(table, schema=schema)
    with psycopg.connect(dsn) as connection:
        register_vector(connection)
        target.add(pa.RecordBatchReader.from_batches(schema, _batches(connection, schema)))
    return target.count_rows(), time.perf_counter() - began_s


def _batches(connection: psycopg.Connection, schema: Any) -> Iterator[Any]:
    shown = ["metadata::text" if name == "metadata" else name for name in _COLUMNS]
    statement = f"COPY (SELECT {', '.join(shown)}, embedding FROM work_items)"
    whole = f"{statement} TO STDOUT (FORMAT BINARY)".encode()
    with connection.cursor() as cursor, cursor.copy(whole) as copy:
        copy.set_types([*(_TYPES.get(name, _TEXT)[0] for name in _COLUMNS), "vector"])
        rows: list[tuple[Any, ...]] = []
        for row in copy.rows():
            rows.append(row)
            if len(rows) == _BATCH:
                yield _batch(rows, schema)
                rows = []
        if rows:
            yield _batch(rows, schema)


def _batch(rows: list[tuple[Any, ...]], schema: Any) -> Any:
    columns = list(zip(*rows, strict=True))
    arrays = []
    for name, values in zip(_COLUMNS, columns, strict=False):
        kept = [_naive(value) for value in values] if name.endswith("_at") else list(values)
        arrays.append(pa.array(kept, schema.field(name).type))
    flat = np.concatenate([_floats(value) for value in columns[-1]])
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), DIM))
    return pa.record_batch(arrays, schema=schema)


def _naive(value: dt.datetime) -> dt.datetime:
    return value.astimezone(dt.UTC).replace(tzinfo=None)


def _floats(value: Any) -> Any:
    return np.asarray(value if isinstance(value, np.ndarray) else value.to_numpy(), np.float32)


if __name__ == "__main__":
    counted, seconds = copy_all(*sys.argv[1:4])
    print(json.dumps({"rows": counted, "seconds": seconds}))
