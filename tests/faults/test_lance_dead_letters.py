"""No record of an old table is dropped on its way into LanceDB, and none becomes a zero vector.

The traps are those of the application's own migration script, each of which lost rows silently.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import psycopg
import pytest
from crossfade.client.control_types import JobKind, JobState, Phase

from tests.faults.harness.databases import Databases, vector_of, vector_text
from tests.faults.harness.scene import ACTOR, Replica, Scene, open_scene
from tests.work_items import COLLECTION, PRESETS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
DIM = 8
GOOD = 60
OVERLAY = {
    COLLECTION: {
        "embedding": None,
        "vector": {"dim": DIM, "required": True},
        "fields": {
            "progress": {"type": "float", "required": True},
            "status": {"type": "text", "choices": ["not_started", "in_progress", "completed"]},
        },
    }
}
TRAPS: dict[str, tuple[str, str]] = {
    "no progress": ("progress = NULL", "progress"),
    "no title": ("title = NULL", "title"),
    "no vector": ("embedding = NULL", "vector"),
    "unknown status": ("status = 'abandoned'", "status"),
    "endless time": ("created_at = 'infinity'", "timestamp too large"),
    "time before Christ": ("updated_at = '0044-03-15 12:00+00 BC'", "timestamp too small"),
    "a list with a hole": ("tags = ARRAY['a', NULL]", "tags"),
}
"""What is wrong with a row, how it is made so, and what its letter must name."""
MEND = (
    "UPDATE work_items SET progress = 0.5, title = 'mended', status = 'completed',"
    " created_at = '2026-03-01 12:00+00', updated_at = '2026-03-01 12:00+00', tags = '{a}',"
    " embedding = %s::vector WHERE item_id = %s"
)


def item_id(name: str) -> str:
    """Return the key of a row that is known by a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def fill(dsn: str) -> None:
    """Make the old table, as forgiving as the application's was, with good rows and every trap."""
    table = (PRESETS / "work_items_old.sql").read_text("utf-8")
    table = table.replace("vector(384)", f"vector({DIM})").replace(
        "title text NOT NULL", "title text"
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(table.encode())
        for name in (*(f"good-{number}" for number in range(GOOD)), *TRAPS):
            connection.execute(
                "INSERT INTO work_items (id, item_id, title, progress, status, metadata, embedding)"
                " VALUES (%s, %s, %s, 0.25, 'in_progress', '{\"a\": 1}', %s::vector)",
                (item_id(name), name, f"title of {name}", vector_text(vector_of(name))),
            )
        for name, (change, _) in TRAPS.items():
            statement = f"UPDATE work_items SET {change} WHERE item_id = %s"
            connection.execute(statement.encode(), (name,))


def settings(dsn: str, ledger: str, folder: Path) -> dict[str, Any]:
    """Return the configuration: the preset with short vectors that are given."""
    return {
        "version": 1,
        "migration": "faults",
        "preset": "work-items",
        "listen": {"address": "127.0.0.1:0", "metrics": ""},
        "old": {"engine": "postgresql", "dsn": dsn},
        "new": {"engine": "lancedb", "uri": str(folder)},
        "ledger": {"dsn": ledger, "lease_s": 2.0},
        "writes": {"primary_deadline_s": 1.5, "secondary_deadline_s": 1.5, "late_write_s": 0.5},
        "reconcile": {"batch_rows": 20, "lease_s": 2.0},
        "telemetry": {"log_format": "text"},
        "collections": OVERLAY,
    }


async def new_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Return every row of the new store by the name it is known by, without Crossfade."""
    table = await (await lancedb.connect_async(str(folder))).open_table("WorkItem")
    rows = (await table.query().to_arrow()).to_pylist()
    found = {row["item_id"]: row for row in rows}
    assert len(found) == len(rows), "a row is there twice"
    return found


def old_rows(dsn: str) -> dict[str, tuple[Any, ...]]:
    """Return what is compared of every old row."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT item_id, title, progress, status, tags, notes, created_at AT TIME ZONE 'UTC',"
            " embedding::text FROM work_items"
        ).fetchall()
    return {row[0]: row[1:] for row in rows}


def compared(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the same of a new row."""
    made: dt.datetime = row["created_at"]
    vector = vector_text(np.array(row["vector"], dtype=np.float32))
    return (*(row[n] for n in ("title", "progress", "status", "tags", "notes")), made, vector)


def same_vector(left: str, right: str) -> bool:
    """Compare vectors as they are written."""
    one, other = (np.array(text.strip("[]").split(","), np.float32) for text in (left, right))
    return bool((one == other).all())


async def refused(replica: Replica) -> dict[str, str]:
    """Ask for the next step; return the details of the conditions that it fails, by name."""
    change = await replica.control.change_phase(Phase.SHADOW, actor=ACTOR, reason="a test")
    assert not change.applied
    return {item.name: item.detail for item in change.preconditions if not item.passed}


async def test_what_cannot_be_converted_is_named_and_blocks_the_step_until_it_is_mended(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    dsn, ledger, folder = new_database(), new_database(), tmp_path / "items.lancedb"
    fill(dsn)
    async with AsyncExitStack() as stack:
        dbs = Databases(old=dsn, new="", ledger=ledger)
        scene = await stack.enter_async_context(open_scene(tmp_path, dbs))
        scene.base = settings(dsn, ledger, folder)
        replica = await scene.serve()
        await scene.phase(replica, Phase.DUAL_WRITE)
        job = await scene.job(replica, JobKind.BACKFILL)
        assert job.state is JobState.DONE, job.error
        await every_trap_has_a_letter(replica)
        assert set(await new_rows(folder)) == {f"good-{number}" for number in range(GOOD)}
        verified = await scene.job(replica, JobKind.VERIFY)
        assert verified.summary["in_flight"] == len(TRAPS), "their keys are still to be repaired"
        assert any("dead letter" in name for name in await refused(replica))
        await mend(scene, replica, dsn)
        assert await replica.control.dead_letters() == []
        verified = await scene.job(replica, JobKind.VERIFY)
        assert verified.summary["matched"] == GOOD + len(TRAPS)
        await scene.phase(replica, Phase.SHADOW, force=False)
        await nothing_was_lost(dsn, folder)


async def every_trap_has_a_letter(replica: Replica) -> None:
    """The reason says what is wrong; no other row has a letter."""
    letters = {str(letter.key[0]): letter for letter in await replica.control.dead_letters()}
    assert set(letters) == {item_id(name) for name in TRAPS}
    for name, (_, named) in TRAPS.items():
        reason = letters[item_id(name)].reason
        assert named in reason, f"{name}: {reason}"


async def mend(scene: Scene, replica: Replica, dsn: str) -> None:
    """Mend one row through the proxy, the others where they lie, and copy again."""
    through, *others = TRAPS
    await replica.client.upsert(
        COLLECTION,
        (item_id(through),),
        {"title": "mended", "progress": 0.5, "status": "completed"},
        vector=vector_of(through),
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in others:
            connection.execute(MEND.encode(), (vector_text(vector_of(name)), name))
    job = await scene.job(replica, JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    await scene.quiet()


async def nothing_was_lost(dsn: str, folder: Path) -> None:
    """Every old row is in the new store, field by field; no vector is zero or null."""
    old, new = old_rows(dsn), await new_rows(folder)
    assert set(old) == set(new)
    for name, expected in old.items():
        found = compared(new[name])
        assert found[:-1] == expected[:-1], name
        assert same_vector(found[-1], expected[-1]), name
        assert any(new[name]["vector"]), name
