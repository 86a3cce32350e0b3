"""SIGTERM ends a process in order and leaves nothing in flight; a killed swap lets writes go."""

from __future__ import annotations

import asyncio
import signal

import pytest
from crossfade.client.control_types import JobKind, Phase
from crossfade.client.errors import CallError

from tests.faults.harness.databases import assert_equal, documents
from tests.faults.harness.scene import ACTOR, Scene
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults


async def test_a_signal_right_after_the_ready_line_ends_both_processes_in_order(
    scene: Scene,
) -> None:
    for start in (scene.start_serve, scene.start_reconcile):
        process = await start()
        await process.ready()
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0, process.tail()
        assert "Traceback" not in process.tail()
    assert scene.ask("SELECT bool_and(clean_exit) FROM crossfade.replicas") == [(True,)]


async def test_writes_under_way_are_answered_or_told_apart_when_the_proxy_stops(
    scene: Scene,
) -> None:
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})

    async def write_until_refused(name: str) -> tuple[list[str], list[str]]:
        acknowledged: list[str] = []
        for number in range(10_000):
            path = f"{name}-{number}"
            try:
                await replica.client.upsert("documents", ("rust", "serde", path), {"content": "c"})
            except CallError as error:
                return acknowledged, [path] if error.maybe_applied else []
            acknowledged.append(path)
        raise AssertionError("it never stopped")

    writers = [asyncio.create_task(write_until_refused(f"w{n}")) for n in range(8)]
    while not documents(scene.dbs.new, "new"):
        await asyncio.sleep(0.01)
    assert await replica.process.stop() == 0, replica.process.tail()
    told = await asyncio.gather(*writers)
    assert scene.left_over() == (0, 0), scene.dirty()
    assert_equal(scene.dbs)
    stored = {key[2] for key in documents(scene.dbs.old, "old")}
    acknowledged = {path for paths, _ in told for path in paths}
    unsure = {path for _, paths in told for path in paths}
    assert acknowledged <= stored <= acknowledged | unsure


async def test_writes_held_by_a_swap_whose_proxy_was_killed_go_on_and_none_fails(
    scene: Scene,
) -> None:
    # Long enough to kill it in, on a busy machine too.
    scene.overrides.update(
        {
            "ledger": {"lease_s": 10.0},
            "writes": {"hold_max_s": 8.0},
            "switch": {"drain_timeout_s": 4.0},
        }
    )
    keeper, other = await scene.serve("keeper"), await scene.serve("other")
    await scene.reconcile()
    await scene.phase(other, Phase.DUAL_WRITE)
    await other.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await scene.job(other, JobKind.BACKFILL)
    await scene.phase(other, Phase.SHADOW, Phase.RAMP)
    await other.control.set_traffic(100, actor=ACTOR, reason="a test", force=True)
    other.process.pause()  # so that the swap waits for it, writes held
    swapping = asyncio.create_task(
        keeper.control.change_phase(Phase.NEW_PRIMARY, actor=ACTOR, reason="a test", force=True)
    )
    held = "SELECT hold FROM crossfade.migrations"
    await until(lambda: scene.ask(held) == [(True,)], what="the hold")
    await keeper.process.kill()
    other.process.resume()
    with pytest.raises(CallError):
        await swapping
    patient = other.client.scoped(timeout_s=30.0)
    await patient.upsert("documents", ("rust", "serde", "held"), {"content": "c"})
    assert scene.ask(held) == [(False,)]
    (event,) = [one for one in await other.control.events(limit=1000) if one.kind == "release"]
    assert event.actor == "watchdog"
    await scene.quiet()
    assert_equal(scene.dbs)
