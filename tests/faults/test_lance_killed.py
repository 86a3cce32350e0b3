"""kill -9 of the one proxy of a LanceDB store: in a commit, in an optimize, in a backfill.

The backfill fills the new store while clients write; then LanceDB becomes the primary, and the
proxy is killed again. Each kill strikes at a mark of the process itself, never after a sleep.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from crossfade.client.control_types import JobAction, JobKind, JobState, Phase

from tests.faults.harness.databases import Databases, vector_of, vector_text
from tests.faults.harness.grounds import COLLECTIONS, Pair, collections
from tests.faults.harness.load import Load
from tests.faults.harness.marks import Marks
from tests.faults.harness.mortal import Mortal
from tests.faults.harness.scene import ACTOR, Scene, open_scene
from tests.faults.harness.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

KILLS = int(os.environ.get("CROSSFADE_KILLS", "10"))
"""That land in each kind of work while PostgreSQL is the primary; more of them make a soak."""
KILLS_AFTER = 3
"""That land in each kind of work once LanceDB is the primary."""
SOURCES = [f"crate-{number}" for number in range(4)]
PATHS = [f"page-{number}.html" for number in range(12)]
ROWS = 4000
"""Documents that nobody writes: the backfill alone brings them over, too slowly to ever end."""
CALLS = 25
"""Calls of clients between two kills."""


@dataclass
class Story:
    """One migration from PostgreSQL to LanceDB whose proxy keeps dying."""

    scene: Scene
    pair: Pair
    proxy: Mortal
    rng: random.Random
    loads: list[Load]
    landed: Counter[str] = field(default_factory=Counter)
    kills: int = 0

    def calls(self) -> int:
        """Return how many calls clients have made."""
        return sum(load.calls for load in self.loads)

    async def after_calls(self, count: int) -> None:
        """Wait until clients have made more calls."""
        target = self.calls() + count
        await until(lambda: self.calls() >= target, what="more calls")

    def moment(self, wanted: Callable[[], int]) -> Callable[[Marks], bool]:
        """Return the next moment to strike.

        While one table is optimised and another commits, or, every now and then, at a commit that
        is beside nothing else: what is rarer is waited for first.
        """
        alone = self.rng.random() < 0.2 and self.landed["optimize"] >= wanted()

        def strike(marks: Marks) -> bool:
            commits, optimizes = marks.doing("commit"), marks.doing("optimize")
            return bool(commits) and (alone or bool(optimizes))

        return strike

    async def kill(self, wanted: int) -> None:
        """Kill the proxy once and note what it died in the middle of."""
        await self.after_calls(CALLS)
        died_at = await self.proxy.killed_when(self.moment(lambda: wanted))
        self.kills += 1
        for kind in {work.kind for work in died_at}:
            self.landed[kind] += 1

    def backfilling(self, job_id: int) -> bool:
        """True if the job has not ended and somebody holds it."""
        rows = self.scene.ask("SELECT state, owner FROM crossfade.jobs WHERE job_id = %s", job_id)
        return bool(rows and rows[0][0] == JobState.RUNNING.value and rows[0][1])

    def copied(self, job_id: int) -> int:
        """Return how many rows the job's checkpoints have passed."""
        rows = self.scene.ask(
            "SELECT coalesce(sum((tally->>'rows')::int), 0) FROM crossfade.ranges"
            " WHERE job_id = %s",
            job_id,
        )
        return int(rows[0][0])

    async def goes_on(self, job_id: int) -> None:
        """Wait until the proxy of now copies: its checkpoints move."""
        before = self.copied(job_id)
        await until(lambda: self.copied(job_id) > before, what="the backfill to go on")


def load_old(dsn: str) -> None:
    """Put documents that nobody writes into the first collection of the old store."""
    rows = [("rust", SOURCES[n % 4], f"older-{n:05}.html", f"loaded {n}", n) for n in range(ROWS)]
    statement = (
        b"COPY documents (doc_type, source_name, doc_path, content, token_count, created_at,"
        b" embedding) FROM STDIN"
    )
    at = "2026-03-01 12:30:15.123456+00"
    with psycopg.connect(dsn) as connection, connection.cursor().copy(statement) as copy:
        for row in rows:
            copy.write_row((*row, at, vector_text(vector_of(row[3]))))


def settings(pair: Pair, ledger: str) -> dict[str, object]:
    """Return a configuration whose clocks run fast."""
    return {
        "version": 1,
        "migration": "faults",
        "listen": {"address": "127.0.0.1:0", "metrics": ""},
        "old": dict(pair.old.section),
        "new": dict(pair.new.section),
        "ledger": {"dsn": ledger, "lease_s": 1.5, "pool_size_max": 4},
        "writes": {
            "primary_deadline_s": 1.3,
            "secondary_deadline_s": 1.3,
            "late_write_s": 0.5,
            "breaker_failures": 3,
            "breaker_open_s": 0.5,
        },
        "reads": {"deadline_s": 5.0},
        "reconcile": {"batch_rows": 25, "range_rows": 1000, "lease_s": 1.0, "deadline_s": 10.0},
        "switch": {"drain_timeout_s": 3.0, "ack_timeout_s": 5.0},
        "telemetry": {"log_format": "text"},
        "collections": collections(),
    }


async def test_no_acknowledged_write_is_lost_whatever_the_proxy_died_in(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    seed = int(os.environ.get("CROSSFADE_SEED") or random.randrange(2**32))
    print(f"CROSSFADE_SEED={seed}")
    rng = random.Random(seed)
    pair = Pair.make("postgresql", "lancedb", tmp_path, new_database)
    dsn, ledger = str(pair.old.section["dsn"]), new_database()
    load_old(dsn)
    dbs = Databases(old=dsn, new="", ledger=ledger)
    async with AsyncExitStack() as stack, open_scene(tmp_path, dbs) as scene:
        scene.base = settings(pair, ledger)
        proxy = Mortal(scene, stack)
        loads = [
            Load(rng, proxy.clients, SOURCES, PATHS, drop_sources=False, collection=name)
            for name in COLLECTIONS
        ]
        for load in loads:
            for key in load.keys:
                load.oracle.loaded(key, None)
        for key, row in (await pair.old.rows("documents")).items():
            loads[0].oracle.loaded(key, row[0], row[1])
        story = Story(scene, pair, proxy, rng, loads)
        await proxy.begin()
        await scene.phase(proxy.replica, Phase.DUAL_WRITE)
        async with asyncio.timeout(240), asyncio.TaskGroup() as group:
            for load in loads:
                group.create_task(load.run(workers=5))
            await killed_while_it_fills(story)
            await cut_over(story)
            await killed_as_the_primary(story)
            for load in loads:
                load.stopping = True
        print(f"kills {story.kills}, landed {story.landed}, {[load.errors for load in loads]}")
        await scene.quiet()
        assert all(load.oracle.acknowledged for load in loads)
        await ends_well(story, seed)


async def killed_while_it_fills(story: Story) -> None:
    """Kill the proxy until each kind of work was hit often enough, then let the backfill end."""
    control = story.proxy.replica.control
    job = await control.start_job(
        JobKind.BACKFILL, {"rows_per_s_max": 40.0, "batch_rows": 20}, actor=ACTOR
    )
    kinds = ("commit", "optimize", "backfill")
    while any(story.landed[kind] < KILLS for kind in kinds):
        assert story.kills < 3 * KILLS, f"kills do not land: {story.landed}"
        await story.goes_on(job.job_id)
        await story.kill(KILLS)
        if story.backfilling(job.job_id):
            story.landed["backfill"] += 1
    control = story.proxy.replica.control
    await control.control_job(job.job_id, JobAction.CANCEL, actor=ACTOR)
    await story.scene.ended(story.proxy.replica, job.job_id)
    ended = await story.scene.job(story.proxy.replica, JobKind.BACKFILL, {"batch_rows": 500})
    assert ended.state is JobState.DONE, ended.error


async def cut_over(story: Story) -> None:
    """Make LanceDB the primary, under load."""
    scene, replica = story.scene, story.proxy.replica
    await scene.phase(replica, Phase.SHADOW, Phase.RAMP)
    change = await replica.control.set_traffic(100.0, actor=ACTOR, reason="a test", force=True)
    assert change.applied, change.message
    await scene.swap(replica)


async def killed_as_the_primary(story: Story) -> None:
    """Kill the proxy of a primary that is LanceDB."""
    before = Counter(story.landed)
    while any(story.landed[kind] - before[kind] < KILLS_AFTER for kind in ("commit", "optimize")):
        assert story.kills < 5 * KILLS, f"kills do not land: {story.landed}"
        await story.kill(KILLS + KILLS_AFTER)


async def ends_well(story: Story, seed: int) -> None:
    """Nothing acknowledged is lost, both stores hold the same, no read was stale."""
    assert all(story.landed[kind] >= KILLS for kind in ("commit", "optimize", "backfill"))
    await story.pair.assert_equal()
    acknowledged = 0
    for load in story.loads:
        load.assert_nothing_lost(await story.pair.new.rows(load.collection), seed=seed)
        acknowledged += load.oracle.acknowledged
    assert acknowledged > 200
    await story.scene.assert_verified(story.proxy.replica)
