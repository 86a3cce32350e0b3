"""Fill the old table as the old application left it: by binary COPY, with the model's vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from proxy.config.settings import EmbedderSettings
from proxy.demo.work_items.items import FIELDS, Item
from proxy.embedding.build import build_embedder

MODEL = "all-MiniLM-L6-v2"
_BATCH = 128
_DEADLINE_S = 600.0
_TYPES: Mapping[str, str] = {
    "tags": "text[]",
    "estimated_hours": "float8",
    "actual_hours": "float8",
    "progress": "float8",
    "dependencies": "text[]",
    "order_index": "int8",
    "context_tags": "text[]",
    "acceptance_criteria": "text[]",
    "executable": "bool",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "metadata": "jsonb",
}


# What an application that searches this table has done, as pgvector's and our own README advise.
_TUNING = (
    "ALTER TABLE work_items ALTER COLUMN embedding SET STORAGE PLAIN",
    "CREATE INDEX idx_work_items_words ON work_items USING gin (to_tsvector('english'::regconfig,"
    " left(coalesce(title, '') || ' ' || coalesce(description, ''), 200000)))",
)


async def embed(texts: Sequence[str]) -> tuple[list[bytes], float]:
    """Return a vector for each text, packed float32, and the seconds that took, model loaded.

    Raises:
        ConfigInvalid: the embedder is not installed.
        Unavailable: the model is not there.
    """
    settings = EmbedderSettings(batch_texts_max=_BATCH, queue_texts_max=max(1, len(texts)))
    embedder = build_embedder(settings, [MODEL])
    try:
        await embedder.open()
        began_s = time.monotonic()
        vectors = await embedder.documents(MODEL, texts, deadline_s=_DEADLINE_S)
        return vectors, time.monotonic() - began_s
    finally:
        await embedder.close()


def create_table(dsn: str) -> None:
    """Create the application's table, fit to be searched."""
    ddl = resources.files("proxy.config.presets").joinpath("work_items_old.sql")
    with psycopg.connect(dsn) as connection:
        connection.execute(ddl.read_text(encoding="utf-8").encode())
        for statement in _TUNING:
            connection.execute(statement.encode())


def load_old(dsn: str, items: Sequence[Item], vectors: Mapping[str, bytes]) -> None:
    """Copy the items in, each with the vector of its text; one without words has none."""
    columns = ("id", *FIELDS, "embedding")
    types = ["text", *(_TYPES.get(name, "text") for name in FIELDS), "vector"]
    statement = f"COPY work_items ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"
    with psycopg.connect(dsn) as connection:
        register_vector(connection)
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            copy.set_types(types)
            for item in items:
                copy.write_row(_row(item, vectors.get(item.text)))
        connection.commit()
        connection.autocommit = True
        connection.execute("ANALYZE")


def _row(item: Item, vector: bytes | None) -> list[object]:
    values = [item.fields[name] for name in FIELDS]
    place = FIELDS.index("metadata")
    values_in: list[object] = list(values)
    if values[place] is not None:
        values_in[place] = Jsonb(values[place])
    unpacked = None if vector is None else np.frombuffer(vector, dtype="<f4")
    return [item.id, *values_in, unpacked]
