"""The doc server for tests: its two schemas in both stores, and records to put there."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import psycopg

from proxy.config.loader import load_text
from proxy.layouts import ColumnKind, StoreSchema
from proxy.model import Key, KeywordSpec, Value, Write, WriteOp

PRESETS = Path(__file__).parent.parent / "proxy" / "config" / "presets"
DIM = 3072
WHEN = dt.datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)
_CONFIGURATION = """
migration: doc-server
preset: doc-server
old: {engine: memory}
new: {engine: memory}
ledger: {engine: memory}
"""


@cache
def schemas() -> dict[str, StoreSchema]:
    """Return the preset's schemas, "old" and "new", without searches by words."""
    config = load_text(_CONFIGURATION, "doc-server-test.yaml")
    return {"old": _with_words(config.old, {}), "new": _with_words(config.new, {})}


@cache
def schemas_with_words() -> dict[str, StoreSchema]:
    """Return the schemas with documents searched by content, and sources by a packed field too."""
    words = {
        "documents": KeywordSpec(fields=("content",)),
        "sources": KeywordSpec(fields=("source_name", "version")),
    }
    return {side: _with_words(schema, words) for side, schema in schemas().items()}


def _with_words(schema: StoreSchema, words: Mapping[str, KeywordSpec]) -> StoreSchema:
    specs = {
        name: replace(spec, keyword=words.get(name)) for name, spec in schema.collections.items()
    }
    return replace(schema, collections=specs)


def in_lance(schema: StoreSchema) -> StoreSchema:
    """Return a schema as LanceDB can hold it: parents by key, and an index of its own kind."""
    layouts = {}
    for name, layout in schema.layouts.items():
        columns = tuple(c for c in layout.columns if c.kind is not ColumnKind.PARENT_ID)
        index = layout.index and replace(layout.index, name="embedding_ivf", method="ivf_flat")
        layouts[name] = replace(layout, columns=columns, check_parent=True, index=index)
    return replace(schema, layouts=layouts)


def create_tables(dsn: str, side: str) -> None:
    """Create the tables of one side in an empty database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((PRESETS / f"doc_server_{side}.sql").read_bytes())


def vector(seed: int, dim: int = DIM) -> bytes:
    """Return a packed random vector of length 1."""
    values = np.random.default_rng(seed).standard_normal(dim)
    return (values / np.linalg.norm(values)).astype("<f4").tobytes()


def source(name: str = "serde", *, op: WriteOp = WriteOp.UPSERT, **fields: Value) -> Write:
    """Return a write of a source as the proxy resolves it."""
    values: dict[str, Value] = {
        "version": "1.0",
        "total_docs": 0,
        "total_tokens": 0,
        "last_updated": WHEN,
    }
    return Write(op=op, collection="sources", key=("rust", name), fields={**values, **fields})


def document(
    path: str = "serde/index.html",
    *,
    name: str = "serde",
    op: WriteOp = WriteOp.UPSERT,
    number: int = 1,
    packed: bytes | None = b"",
    keep: frozenset[str] = frozenset(),
    **fields: Value,
) -> Write:
    """Return a write of a document as the proxy resolves it; `packed` b"" makes a vector."""
    values: dict[str, Value] = {
        "content": f"About {path}",
        "token_count": 3,
        "created_at": WHEN,
        "original_id": number,
    }
    return Write(
        op=op,
        collection="documents",
        key=("rust", name, path),
        fields={**values, **fields},
        vector=vector(number) if packed == b"" else packed,
        keep=keep,
    )


def delete(collection: str, key: Key) -> Write:
    """Return a delete."""
    return Write(op=WriteOp.DELETE, collection=collection, key=key)


def patch(
    collection: str,
    key: Key,
    *,
    packed: bytes | None = None,
    set_vector: bool = False,
    **fields: Value,
) -> Write:
    """Return a patch."""
    return Write(
        op=WriteOp.PATCH,
        collection=collection,
        key=key,
        fields=fields,
        vector=packed,
        set_vector=set_vector,
    )


def words(rng: random.Random, count: int) -> str:
    """Return a text of random words."""
    return " ".join(
        rng.choice(("alpha", "beta", "gamma", "delta", "ümläut", "日本")) for _ in range(count)
    )
