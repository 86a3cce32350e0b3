"""kill -9 of the proxy in the middle of a write, and of the reconciler in the middle of a copy."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from crossfade.client.control_types import JobKind, Phase
from crossfade.client.errors import CallError

from tests.faults.harness.databases import assert_equal, documents, load_old, one, vector_of
from tests.faults.harness.scene import ACTOR, Scene
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
KEY = ("rust", "serde", "page")
ROWS = 1000


@pytest.mark.parametrize("reached", ["old", "new"])
async def test_a_proxy_killed_when_one_store_has_the_write_leaves_it_to_the_others(
    scene: Scene, reached: str
) -> None:
    """Whatever the primary holds in the end is on both; the key is dirty once the lease is over."""
    scene.overrides.update(
        {
            "ledger": {"lease_s": 5.0},  # killed before the write is given up, however busy we are
            "writes": {"primary_deadline_s": 4.0, "secondary_deadline_s": 4.0},
        }
    )
    other = "new" if reached == "old" else "old"
    relay = await scene.relay(other)
    replica = await scene.serve("first")
    del scene.relays[other]
    second = await scene.serve("second")
    await scene.phase(replica, Phase.DUAL_WRITE)
    await second.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await replica.client.upsert("documents", ("rust", "serde", "first"), {"content": "c"})
    relay.hold()
    writing = asyncio.create_task(
        replica.client.upsert("documents", KEY, {"content": "c"}, vector=vector_of("c"))
    )
    await until(
        lambda: KEY in documents(scene.dbs.dsn(reached), reached) and relay.held_bytes > 0,
        what=f"the write on the {reached} store alone",
    )
    await replica.process.kill()
    await relay.refuse()
    with pytest.raises(CallError) as caught:
        await writing
    assert caught.value.maybe_applied
    await until(lambda: len(scene.dirty()) == 1, what="the sweep of the dead replica's intent")
    assert scene.dirty()[0][1] == "left by a dead replica"
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)
    assert (KEY in documents(scene.dbs.new, "new")) is (reached == "old")


async def test_a_backfill_killed_again_and_again_repeats_a_batch_a_range_at_most(
    scene: Scene,
) -> None:
    batch, workers = 50, 2
    load_old(
        scene.dbs.old, {f"crate-{n}": [f"page-{m:04}" for m in range(ROWS // 4)] for n in range(4)}
    )
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    job = await replica.control.start_job(
        JobKind.BACKFILL, {"rows_per_s_max": 1000.0, "build_indexes": False}, actor=ACTOR
    )
    kills = 0
    for share in (0.1, 0.35, 0.6):
        reconciler = await scene.reconcile()
        await until(partial(has_done, scene, job.job_id, share), what=f"{share:.0%} of the rows")
        await reconciler.kill()
        kills += 1
    await scene.reconcile()
    ended = await scene.ended(replica, job.job_id)
    assert ended.state.value == "done", ended.error
    documents_done = ended.summary["collections"]["documents"]
    assert documents_done["rows"] == ROWS, "nothing was skipped or counted twice"
    assert documents_done["copied"] + documents_done["unchanged"] == ROWS
    assert documents_done["unchanged"] <= kills * workers * batch, "that is what was repeated"
    inserted = one(
        scene.dbs.new, "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'documents'"
    )
    assert inserted <= ROWS + kills * workers * batch
    await scene.quiet()
    assert_equal(scene.dbs)


def has_done(scene: Scene, job_id: int, share: float) -> bool:
    """True if the job's checkpoints have passed this share of the documents."""
    rows = scene.ask(
        "SELECT coalesce(sum((tally->>'rows')::int), 0) FROM crossfade.ranges"
        " WHERE job_id = %s AND collection = 'documents'",
        job_id,
    )
    return bool(rows[0][0] >= share * ROWS)
