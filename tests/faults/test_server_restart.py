"""The database server crashes and comes back: the proxy goes on by itself, nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from crossfade.client.control_types import JobKind, Phase
from crossfade.client.errors import CallError

from tests.faults.harness.databases import (
    Databases,
    allow_connections,
    assert_equal,
    create_tables,
    documents,
    locked,
)
from tests.faults.harness.load import Load
from tests.faults.harness.scene import Replica, Scene, open_scene
from tests.faults.harness.servers import OwnServer, own_server
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
SOURCES = ["serde", "tokio"]
PATHS = [f"page-{number}" for number in range(10)]


@pytest.fixture
def server(pg_admin: str) -> Iterator[OwnServer]:
    """Return a server that only this test uses; the shared one has started before."""
    with own_server() as found:
        yield found


@pytest.fixture(params=["old", "new", "ledger"])
async def crashing(
    request: pytest.FixtureRequest,
    server: OwnServer,
    new_database: Callable[[], str],
    tmp_path: Path,
) -> AsyncIterator[Scene]:
    """Return a migration with one of its databases on a server that may crash."""
    made = {
        name: (server.make if name == request.param else new_database)()
        for name in ("old", "new", "ledger")
    }
    dbs = Databases(**made)
    create_tables(dbs.old, "old")
    create_tables(dbs.new, "new")
    async with open_scene(tmp_path, dbs) as scene:
        yield scene


async def test_load_goes_on_after_a_crash_and_both_stores_end_equal(
    crashing: Scene, server: OwnServer
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    replica = await crashing.serve()
    await crashing.reconcile()
    await crashing.phase(replica, Phase.DUAL_WRITE)
    for source in SOURCES:
        await replica.client.upsert("sources", ("rust", source), {"version": "1"})
    load = Load(random.Random(seed), lambda: {"a": replica.client}, SOURCES, PATHS)
    for key in load.keys:
        load.oracle.loaded(key, None)
    load.drop_sources = False
    running = asyncio.create_task(load.run(workers=4))
    await until(lambda: load.oracle.acknowledged > 50, what="load before the crash")
    await server.crash()
    before = load.calls
    await until(lambda: load.calls > before + 20 or running.done(), what="calls without it")
    await server.start()
    acknowledged = load.oracle.acknowledged
    await until(lambda: load.oracle.acknowledged > acknowledged + 50, what="load after it")
    load.stopping = True
    await running
    await crashing.quiet()
    assert_equal(crashing.dbs)
    load.assert_nothing_lost(documents(crashing.dbs.old, "old"), seed=seed)
    await assert_clean(crashing, replica)


async def assert_clean(scene: Scene, replica: Replica) -> None:
    """Verify through Crossfade, too."""
    job = await scene.job(replica, JobKind.VERIFY)
    assert job.summary["clean"], job.summary


async def test_writes_behind_an_exhausted_pool_wait_their_turn_or_are_unavailable(
    scene: Scene,
) -> None:
    few = {"pool_size_min": 1, "pool_size_max": 2}
    scene.overrides.update(  # time enough for every one's turn, on a busy machine too
        {
            "ledger": {"lease_s": 15.0},
            "writes": {"primary_deadline_s": 5.0, "secondary_deadline_s": 5.0},
        }
    )
    replica = await scene.serve(over={"old": few, "new": few})
    await scene.phase(replica, Phase.DUAL_WRITE)
    client = replica.client
    await client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    keys = [("rust", "serde", f"page-{number}") for number in range(200)]
    await asyncio.gather(*(client.upsert("documents", key, {"content": "c"}) for key in keys))
    await scene.settled()
    assert scene.dirty() == [], "waiting for a connection is no failure"
    with locked(scene.dbs.old, "doc_embeddings"):
        ended = await asyncio.gather(
            *(client.upsert("documents", key, {"content": "blocked"}) for key in keys[:20]),
            return_exceptions=True,
        )
    codes = {one.code for one in ended if isinstance(one, CallError)}
    assert codes <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert codes, "the table was locked"

    async def works() -> bool:
        try:
            await client.upsert("documents", keys[0], {"content": "free"})
        except CallError:
            return False
        return True

    await until(works, what="a write once the lock is gone")
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)


async def test_a_database_that_takes_no_connections_is_passed_over_and_taken_in_again(
    scene: Scene,
) -> None:
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    client = replica.client
    await client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    allow_connections(scene.dbs.new, False)
    ack = await client.upsert("documents", ("rust", "serde", "page"), {"content": "c"})
    assert ack.secondary_pending
    allow_connections(scene.dbs.new, True)

    async def clean() -> bool:
        written = await client.upsert("documents", ("rust", "serde", "next"), {"content": "c"})
        return not written.secondary_pending

    await until(clean, what="a write on both stores")
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)
