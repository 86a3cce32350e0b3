"""A replica that is suspended (SIGSTOP) past its lease, and a swap while one is."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from crossfade.client.control_types import JobKind, Phase
from crossfade.client.errors import CallError

from tests.faults.harness.databases import assert_equal, documents, vector_of
from tests.faults.harness.scene import ACTOR, Replica, Scene
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
KEYS = [("rust", "serde", f"page-{number}") for number in range(40)]


def alive(scene: Scene) -> list[str]:
    """Return the ids of the replicas whose lease runs."""
    rows = scene.ask(
        "SELECT replica_id FROM crossfade.replicas"
        " WHERE NOT swept AND lease_until > clock_timestamp()"
    )
    return [row[0] for row in rows]


async def write_all(replica: Replica, content: str) -> list[asyncio.Task[object]]:
    """Send one write of each key, and do not wait for the answers."""
    return [
        asyncio.create_task(
            replica.client.upsert("documents", key, {"content": content}, vector=vector_of("v"))
        )
        for key in KEYS
    ]


async def ready_to_swap(scene: Scene, replica: Replica) -> None:
    """Fill both stores and go to the ramp at 100 %."""
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await asyncio.gather(*await write_all(replica, "first"))
    assert (await scene.job(replica, JobKind.BACKFILL)).state.value == "done"
    await scene.phase(replica, Phase.SHADOW, Phase.RAMP)
    await replica.control.set_traffic(100, actor=ACTOR, reason="a test", force=True)


async def test_writes_that_slept_past_a_swap_never_undo_what_was_written_after_it(
    scene: Scene,
) -> None:
    sleeper, other = await scene.serve("sleeper"), await scene.serve("other")
    await scene.reconcile()
    await scene.phase(other, Phase.DUAL_WRITE)
    await ready_to_swap(scene, other)
    writing = await write_all(sleeper, "slept")
    await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
    sleeper.process.pause()
    gone = set(alive(scene))
    await until(lambda: len(alive(scene)) == 1, what="the end of its lease")
    gone -= set(alive(scene))
    await scene.swap(other)
    before = {key: row[0] for key, row in documents(scene.dbs.new, "new").items()}
    await asyncio.gather(*await write_all(other, "after"))
    sleeper.process.resume()
    ended = await asyncio.gather(*writing, return_exceptions=True)
    late = {
        key
        for key, one in zip(KEYS, ended, strict=True)
        if not isinstance(one, BaseException) and before.get(key) != "slept"
    }
    await until(lambda: len(alive(scene)) == 2, what="its return under a new name")
    assert not gone & set(alive(scene))
    await scene.quiet()
    assert_equal(scene.dbs)
    for key, row in documents(scene.dbs.new, "new").items():
        # A write that was acknowledged after the pause began anew, under the new routing.
        assert row[0] == "after" or (key in late and row[0] == "slept"), key

    async def awake() -> bool:
        with contextlib.suppress(CallError):  # calls that timed out in its sleep opened breakers
            fields = {"content": "awake"}
            answer = await sleeper.client.upsert("documents", KEYS[0], fields)
            return not answer.secondary_pending
        return False

    await until(awake, what="a clean write through it")


async def test_a_swap_while_a_replica_is_suspended_is_refused_and_changes_nothing(
    scene: Scene,
) -> None:
    scene.overrides.update({"ledger": {"lease_s": 20.0}, "writes": {"hold_max_s": 10.0}})
    sleeper, other = await scene.serve("sleeper"), await scene.serve("other")
    await scene.reconcile()
    await scene.phase(other, Phase.DUAL_WRITE)
    await ready_to_swap(scene, other)
    status = await other.control.status()
    before = status.routing
    sleeper.process.pause()
    swapping = asyncio.create_task(
        other.control.change_phase(Phase.NEW_PRIMARY, actor=ACTOR, reason="a test", force=True)
    )
    writing = [
        asyncio.create_task(other.client.upsert("documents", key, {"content": "held"}))
        for key in KEYS
    ]
    change = await swapping
    assert not change.applied
    assert "did not stop writing in time" in change.message
    named = [one.replica_id for one in status.replicas if one.replica_id in change.message]
    assert len(named) == 1, "it says which one"
    await asyncio.gather(*writing)  # held for a while, none failed
    after = (await other.control.status()).routing
    assert (after.phase, after.primary, after.hold) == (before.phase, before.primary, False)
    events = await other.control.events(limit=1000)
    assert [event.kind for event in events][-2:] == ["hold", "release"]
    sleeper.process.resume()
    await scene.swap(other)
    await scene.quiet()
    assert_equal(scene.dbs)
