"""The secondary is down: no write fails, what it missed is marked, and repaired afterwards."""

from __future__ import annotations

import time

import pytest
from crossfade.client import AsyncClient
from crossfade.client.control_types import Phase
from crossfade.client.errors import FailedPrecondition

from tests.faults.harness.databases import assert_equal, documents, execute, vector_of
from tests.faults.harness.scene import ACTOR, Replica, Scene
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults


async def write_some(client: AsyncClient, count: int, prefix: str = "page") -> None:
    """Upsert documents; each must be acknowledged as pending."""
    for number in range(count):
        key = ("rust", "serde", f"{prefix}-{number}")
        ack = await client.upsert("documents", key, {"content": "c"}, vector=vector_of("c"))
        assert ack.secondary_pending


async def breaker(replica: Replica) -> str:
    """Return the state of the new store's breaker."""
    status = await replica.control.status()
    return {store.name: store.breaker for store in status.stores}["new"]


async def test_writes_are_acknowledged_pending_and_repaired_when_it_is_back(scene: Scene) -> None:
    relay = await scene.relay("new")
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await relay.refuse()
    await write_some(replica.client, 8)
    assert await breaker(replica) != "closed"
    await scene.settled()
    assert len(scene.dirty()) == 8
    assert not documents(scene.dbs.new, "new")
    await relay.accept()
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)

    async def taken_in() -> bool:
        key = ("rust", "serde", "later")
        ack = await replica.client.upsert("documents", key, {"content": "c"})
        return not ack.secondary_pending

    await until(taken_in, what="a write that reaches both stores")
    assert await breaker(replica) == "closed"


async def test_a_secondary_that_hangs_costs_its_deadline_until_the_breaker_opens(
    scene: Scene,
) -> None:
    relay = await scene.relay("new")
    replica = await scene.serve(over={"writes": {"breaker_open_s": 60.0}})
    await scene.phase(replica, Phase.DUAL_WRITE)
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    relay.hold()
    began_s = time.monotonic()
    await write_some(replica.client, 3)
    assert time.monotonic() - began_s < 3 * (0.8 + 1.0)
    assert await breaker(replica) == "open"
    began_s = time.monotonic()
    await write_some(replica.client, 20, "fast")
    assert time.monotonic() - began_s < 10 * 0.8, "an open breaker asks nobody"
    relay.release()
    await scene.settled()
    assert len(scene.dirty()) == 23


async def test_bytes_that_arrive_after_a_write_was_given_up_are_repaired_over(
    scene: Scene,
) -> None:
    """A network that delivers late must not undo a repair: the key stays unsettled until then."""
    relay = await scene.relay("new")
    replica = await scene.serve(over={"writes": {"late_write_s": 2.0}})
    await scene.phase(replica, Phase.DUAL_WRITE)
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    del scene.relays["new"]
    await scene.reconcile()  # on a network of its own
    relay.hold()
    key = ("rust", "serde", "page")
    ack = await replica.client.upsert("documents", key, {"content": "stale"})
    assert ack.secondary_pending
    assert relay.held_bytes > 0
    relay.release()
    await scene.quiet()
    ack = await replica.client.upsert("documents", key, {"content": "fresh"})
    await scene.quiet()
    assert_equal(scene.dbs)


async def test_a_proxy_starts_and_serves_without_it_and_takes_it_in_when_it_answers(
    scene: Scene,
) -> None:
    first = await scene.serve("first")
    await scene.phase(first, Phase.DUAL_WRITE)
    await first.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await first.process.stop()
    relay = await scene.relay("new")
    await relay.refuse()
    replica = await scene.serve("second")
    await write_some(replica.client, 3)
    record = await replica.client.get("documents", ("rust", "serde", "page-0"))
    assert record is not None
    assert record.fields["content"] == "c"
    status = await replica.control.status()
    assert {store.name: store.healthy for store in status.stores} == {"old": True, "new": False}
    change = await replica.control.change_phase(Phase.SHADOW, actor=ACTOR)
    assert not change.applied
    assert "stores healthy" in change.message
    await relay.accept()

    async def answers() -> bool:
        written = await replica.client.upsert(
            "documents", ("rust", "serde", "again"), {"content": "c"}
        )
        return not written.secondary_pending

    await until(answers, what="a write that reaches both stores")
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)


async def test_one_that_comes_back_with_another_schema_stays_out(scene: Scene) -> None:
    relay = await scene.relay("new")
    await relay.refuse()
    replica = await scene.serve()
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    execute(scene.dbs.new, "ALTER TABLE documents RENAME COLUMN content TO body")
    await relay.accept()
    await until(
        lambda: "does not fit its layouts" in replica.process.tail(), what="a line in the log"
    )
    assert "content" in replica.process.tail()
    await replica.client.upsert("documents", ("rust", "serde", "page"), {"content": "c"})
    with pytest.raises(FailedPrecondition):
        await replica.control.change_phase(Phase.RAMP, actor=ACTOR)
    execute(scene.dbs.new, "ALTER TABLE documents RENAME COLUMN body TO content")
    await until(lambda: "the new store answers now" in replica.process.tail(), what="its return")
