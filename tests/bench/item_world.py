"""What the LanceDB part runs in: the preset work-items from PostgreSQL to a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
import yaml
from crossfade.client.control import ControlClient
from crossfade.client.control_types import Job, JobKind, JobState
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from proxy.clock import SystemClock
from proxy.errors import CrossfadeError
from proxy.server.build import build_store
from proxy.stores.base import Store
from tests.bench.items import Vectors, item_id
from tests.bench.rows import settle_down
from tests.bench.world import ACTOR, Serving, World, count, execute
from tests.work_items import COLLECTION, create_tables, fields

TABLE: Final = "WorkItem"
_TYPES: Final = {
    "tags": "text[]",
    "dependencies": "text[]",
    "context_tags": "text[]",
    "acceptance_criteria": "text[]",
    "estimated_hours": "float8",
    "actual_hours": "float8",
    "progress": "float8",
    "order_index": "int8",
    "executable": "bool",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "metadata": "jsonb",
    "embedding": "vector",
}
"""Of the columns that are no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemWorld:
    """A migration of work items, without a model unless `embedding`.

    Attributes:
        world: its databases and processes; the configuration is written by `stage`.
    """

    world: World

    def stage(self, name: str, *, embedding: bool = False) -> World:
        """Write the configuration of a migration of its own, into a folder of its own."""
        settings: dict[str, Any] = {
            "version": 1,
            "migration": f"bench-{name}",
            "preset": "work-items",
            "listen": {"address": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
            "old": {"engine": "postgresql", "dsn": self.world.dsns.old},
            "new": {"engine": "lancedb", "uri": str(self.folder(name))},
            "ledger": {"dsn": self.world.dsns.ledger},
            "shadow": {"sample": 0.0},
            "embedder": {"deadline_s": 300.0},  # a busy machine is slow, and that is no error
            "telemetry": {"log_level": "warning"},
        }
        if not embedding:
            settings["collections"] = {COLLECTION: {"embedding": None}}
        file = self.world.scratch / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return replace(self.world, config_file=file)

    def folder(self, name: str) -> Path:
        """Return where the new store of a migration lies."""
        return self.world.scratch / f"{name}.lancedb"

    async def store(self, name: str) -> Store:
        """Open the LanceDB store of a migration in this process; the caller closes it."""
        config = self.stage(name).config()
        store = build_store("new", config.settings.new, config.new, SystemClock())
        await store.open()
        return store


def fill_old(dsn: str, rows: int) -> None:
    """Make the old table with work items and vectors, by binary COPY."""
    if not count(dsn, "SELECT count(*) FROM pg_tables WHERE tablename = 'work_items'"):
        create_tables(dsn)
    execute(dsn, "TRUNCATE work_items")
    names = ("id", *fields(0), "embedding")
    types = [_TYPES.get(name, "text") for name in names]
    vectors = Vectors.make()
    statement = f"COPY work_items ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
    with psycopg.connect(dsn) as connection:
        register_vector(connection)
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            copy.set_types(types)
            for number in range(rows):
                copy.write_row(_old_row(number, vectors))
    settle_down(dsn)


def _old_row(number: int, vectors: Vectors) -> tuple[object, ...]:
    values: dict[str, object] = dict(fields(number))
    values["metadata"] = Jsonb(values["metadata"])
    vector = Vector.from_binary(_pgvector(vectors.of(number)))
    return (item_id(number), *values.values(), vector)


def _pgvector(packed: bytes) -> bytes:
    """Return a packed vector in pgvector's binary form: count, zero, big-endian floats."""
    values = np.frombuffer(packed, dtype="<f4").astype(">f4")
    return len(values).to_bytes(2, "big") + b"\0\0" + values.tobytes()


async def run_there(proxy: Serving, kind: JobKind, **params: object) -> Job:
    """Have the proxy's own reconciler run a job to its end.

    Raises:
        CrossfadeError: it did not end well.
    """
    async with ControlClient(proxy.address, timeout_s=60.0) as control:
        job = await control.start_job(kind, params, actor=ACTOR)
        async for seen in control.watch_job(job.job_id):
            job = seen
    if job.state is not JobState.DONE:
        raise CrossfadeError(f"The {kind.value} ended as {job.state.value}: {job.error}")
    return job
