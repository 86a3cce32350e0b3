"""A reconciler that is suspended (SIGSTOP) in the middle of its work, while another takes over."""

from __future__ import annotations

import pytest
from crossfade.client.control_types import JobKind, Phase

from tests.faults.harness.databases import assert_equal, load_old
from tests.faults.harness.scene import ACTOR, Scene
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
ROWS = 600


async def test_its_job_goes_on_elsewhere_and_what_it_does_on_waking_undoes_nothing(
    scene: Scene,
) -> None:
    load_old(scene.dbs.old, {"serde": [f"page-{n:04}" for n in range(ROWS)]})
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    sleeper = await scene.reconcile()
    job = await replica.control.start_job(
        JobKind.BACKFILL, {"rows_per_s_max": 150.0, "build_indexes": False}, actor=ACTOR
    )

    def owner() -> str:
        rows = scene.ask("SELECT owner FROM crossfade.jobs WHERE job_id = %s", job.job_id)
        return str(rows[0][0] or "")

    def rows_done() -> int:
        rows = scene.ask(
            "SELECT coalesce(sum((tally->>'rows')::int), 0) FROM crossfade.ranges"
            " WHERE job_id = %s AND collection = 'documents'",
            job.job_id,
        )
        return int(rows[0][0])

    await until(lambda: rows_done() >= ROWS // 6, what="some rows")
    sleeper.pause()
    first = owner()
    await scene.reconcile()
    await until(lambda: owner() not in ("", first), what="another owner")
    changed = [("rust", "serde", f"page-{n:04}") for n in range(0, ROWS, 50)]
    for key in changed:  # what the sleeper has read of these is old by now
        await replica.client.upsert("documents", key, {"content": "changed"})
    sleeper.resume()
    ended = await scene.ended(replica, job.job_id)
    assert ended.state.value == "done", ended.error
    await scene.quiet()
    assert_equal(scene.dbs)
    documents = ended.summary["collections"]["documents"]
    assert documents["rows"] == ROWS, "nothing was skipped or counted twice"
