"""A client that goes away, or runs out of time, leaves both stores equal (rule W2)."""

from __future__ import annotations

import asyncio

import pytest
from crossfade.client.control_types import Phase
from crossfade.client.errors import CallError, DeadlineExceeded

from tests.faults.harness.databases import assert_equal, documents, vector_of
from tests.faults.harness.relay import Relay
from tests.faults.harness.scene import Replica, Scene
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
FIRST = ("rust", "serde", "first")
PATIENT = {
    "ledger": {"lease_s": 20.0},
    "writes": {"primary_deadline_s": 10.0, "secondary_deadline_s": 10.0},
}
"""No store is given up before the test lets it answer, however busy the machine is."""


async def dual_writing(scene: Scene, slow: str) -> tuple[Relay, Replica]:
    """Start a replica in dual_write behind a relay to one store."""
    relay = await scene.relay(slow)
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await replica.client.upsert("documents", FIRST, {"content": "c"}, vector=vector_of("c"))
    return relay, replica


def under_way(scene: Scene, relay: Relay) -> bool:
    """True if the ledger has the intent of a write and the relay holds what is sent."""
    return relay.held_bytes > 0 and scene.left_over()[0] > 0


@pytest.mark.parametrize("slow", ["old", "new"])
async def test_writes_cancelled_at_any_moment_end_on_both_stores_or_on_none(
    scene: Scene, slow: str
) -> None:
    relay, replica = await dual_writing(scene, slow)
    relay.delay_s = 0.1
    writes = [
        asyncio.create_task(
            replica.client.upsert(
                "documents",
                ("rust", "serde", f"page-{number}"),
                {"content": f"text {number}"},
                vector=vector_of(str(number)),
            )
        )
        for number in range(30)
    ]
    for number, write in enumerate(writes):  # now, and a little later, and later still
        asyncio.get_running_loop().call_later(0.012 * number, write.cancel)
    ended = await asyncio.gather(*writes, return_exceptions=True)
    assert any(isinstance(one, asyncio.CancelledError) for one in ended)
    relay.delay_s = 0.0
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)
    acknowledged = [n for n, one in enumerate(ended) if not isinstance(one, BaseException)]
    stored = documents(scene.dbs.old, "old")
    assert all(("rust", "serde", f"page-{number}") in stored for number in acknowledged)


async def test_a_write_whose_client_has_gone_runs_to_its_end_without_a_repair(
    scene: Scene,
) -> None:
    scene.overrides.update(PATIENT)
    relay, replica = await dual_writing(scene, "new")
    await scene.settled()
    key = ("rust", "serde", "page")
    relay.hold()
    writing = asyncio.create_task(
        replica.client.upsert("documents", key, {"content": "c"}, vector=vector_of("c"))
    )
    await until(lambda: under_way(scene, relay), what="the write on its way to the new store")
    writing.cancel()
    await asyncio.wait({writing})
    relay.release()
    await until(lambda: key in documents(scene.dbs.new, "new"), what="the write on the new store")
    await scene.settled()
    assert scene.dirty() == [], "nobody had to repair it"
    assert_equal(scene.dbs)


async def test_a_deadline_exceeded_is_ambiguous_and_the_write_ends_all_the_same(
    scene: Scene,
) -> None:
    scene.overrides.update(PATIENT)
    relay, replica = await dual_writing(scene, "old")
    await scene.settled()
    relay.hold()
    client = replica.client.scoped(timeout_s=1.0)
    key = ("rust", "serde", "page")
    writing = asyncio.create_task(
        client.upsert("documents", key, {"content": "c"}, vector=vector_of("c"))
    )
    await until(lambda: under_way(scene, relay), what="the write on its way to the old store")
    with pytest.raises(DeadlineExceeded) as caught:
        await writing
    assert caught.value.detail.reason == "AMBIGUOUS"
    assert caught.value.maybe_applied
    assert "idempotency key" in caught.value.message
    relay.release()
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)
    assert key in documents(scene.dbs.old, "old")


async def test_a_half_closed_or_cut_connection_is_replaced_and_nothing_is_lost(
    scene: Scene,
) -> None:
    relay, replica = await dual_writing(scene, "old")
    acknowledged, codes = [], set()
    for number, break_it in enumerate([relay.half_close, relay.cut] * 4):
        break_it()
        for attempt in range(3):
            key = ("rust", "serde", f"page-{number}-{attempt}")
            try:
                await replica.client.upsert("documents", key, {"content": "c"})
            except CallError as error:
                codes.add(error.code)
            else:
                acknowledged.append(key)
    assert len(acknowledged) >= 8
    assert codes <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)
    assert set(acknowledged) <= documents(scene.dbs.old, "old").keys()
