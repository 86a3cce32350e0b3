"""Work items for tests: the two schemas of the preset, its PostgreSQL table, records and writes."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import psycopg

from proxy.config.loader import Config, load_text
from proxy.layouts import StoreSchema
from proxy.model import Key, Value, Write, WriteOp
from tests.embedding import vector_of

PRESETS = Path(__file__).parent.parent / "proxy" / "config" / "presets"
COLLECTION = "work_items"
MODEL = "all-MiniLM-L6-v2"
DIM = 384
WHEN = dt.datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)
_CONFIGURATION = """
migration: work-items
preset: work-items
old: {engine: memory}
new: {engine: memory}
ledger: {engine: memory}
"""
OTHER_MODEL = "another-model"
OTHER_DIM = 96
TWO_SPACES = f"""
collections:
  work_items:
    new:
      vector: {{dim: {OTHER_DIM}}}
      embedding: {{model: {OTHER_MODEL}, template: "{{title}} {{description}}"}}
"""
"""Laid over the preset: the new store embeds by a model of another dimension."""
_WORDS = ("plan", "build", "test", "deploy", "cache", "index", "ümläut", "日本", "ledger", "worker")


@cache
def config(overlay: str = "") -> Config:
    """Return the preset's configuration over memory stores, with more YAML laid over it."""
    return load_text(_CONFIGURATION + overlay, "work-items-test.yaml", {})


def schemas(overlay: str = "") -> dict[str, StoreSchema]:
    """Return the preset's schemas: "old" (PostgreSQL's layout) and "new" (LanceDB's)."""
    loaded = config(overlay)
    return {"old": loaded.old, "new": loaded.new}


def create_tables(dsn: str, side: str = "old") -> None:
    """Create the PostgreSQL table in an empty database; LanceDB makes its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((PRESETS / f"work_items_{side}.sql").read_bytes())


def key(number: int) -> Key:
    """Return the key of the work item of this number: a UUID that is the same every time."""
    return (str(uuid.UUID(int=random.Random(number).getrandbits(128), version=4)),)


def vector(text: str) -> bytes:
    """Return the vector that `FakeEmbedder` makes of a text by the preset's model."""
    return vector_of(MODEL, text, DIM)


def fields(number: int = 1, **given: Value) -> dict[str, Value]:
    """Return every field of a work item, as the proxy resolves it."""
    rng = random.Random(number)
    values: dict[str, Value] = {
        "item_id": f"item-{number}",
        "title": f"Item {number}: {' '.join(rng.choices(_WORDS, k=4))}",
        "description": " ".join(rng.choices(_WORDS, k=12)),
        "item_type": rng.choice(("epic", "story", "task", "subtask")),
        "status": rng.choice(("not_started", "in_progress", "completed")),
        "priority": rng.choice(("low", "medium", "high")),
        "assignee": rng.choice((None, "ada", "grace")),
        "tags": rng.sample(_WORDS, k=rng.randrange(4)),
        "estimated_hours": rng.choice((None, 0.5, 8.0)),
        "actual_hours": None,
        "progress": rng.choice((None, 0.0, 0.25, 1.0)),
        "parent_id": key(number // 10)[0] if number >= 10 else None,
        "dependencies": [],
        "sequence_number": f"{number}.1",
        "order_index": number,
        "context_tags": [],
        "complexity": None,
        "notes": "" if number % 3 else "A note.",
        "acceptance_criteria": ["It works.", "It is told, and so is ünïcode."],
        "executable": bool(number % 2),
        "execution_instructions": None,
        "created_at": WHEN,
        "updated_at": WHEN + dt.timedelta(seconds=number),
        "metadata": {"project": "tests", "number": number},
    }
    return {**values, **given}


def text_of(values: Mapping[str, Value]) -> str:
    """Return the text that the preset's template makes of fields."""
    return f"{values.get('title') or ''} {values.get('description') or ''}".strip()


def item(
    number: int = 1, *, op: WriteOp = WriteOp.UPSERT, packed: bytes | None = b"", **given: Value
) -> Write:
    """Return a write of a work item as the stores get it; `packed` b"" makes its vector."""
    values = fields(number, **given)
    made = vector(text_of(values)) if packed == b"" else packed
    return Write(op=op, collection=COLLECTION, key=key(number), fields=values, vector=made)


def upsert(number: int = 1, **given: Value) -> Write:
    """Return an upsert as a client asks for it: some fields, and no vector."""
    return asked(WriteOp.UPSERT, number, **{"title": f"Item {number}", **given})


def patch(number: int = 1, **given: Value) -> Write:
    """Return a patch as a client asks for it, without a vector."""
    return asked(WriteOp.PATCH, number, **given)


def asked(op: WriteOp, number: int, /, **given: Value) -> Write:
    """Return a write as a client asks for it, without a vector."""
    return Write(op=op, collection=COLLECTION, key=key(number), fields=given, set_vector=False)
