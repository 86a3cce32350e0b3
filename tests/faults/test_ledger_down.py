"""The ledger is down: refused by default; by policy to the primary alone, durably marked (W6)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import psycopg
import pytest
from crossfade.client import WriteAck
from crossfade.client.control_types import JobKind, Phase
from crossfade.client.errors import CallError, Unavailable

from tests.faults.harness.databases import assert_equal, documents, one, vector_of
from tests.faults.harness.relay import Relay
from tests.faults.harness.scene import ACTOR, Replica, Scene
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
KEY = ("rust", "serde", "page")
ALONE = {"writes": {"ledger_down": "primary_alone"}}


async def dual_writing(scene: Scene, over: Mapping[str, object]) -> tuple[Relay, Replica]:
    """Start a replica in dual_write behind a relay to its ledger."""
    relay = await scene.relay("ledger")
    replica = await scene.serve(over=over)
    await scene.phase(replica, Phase.DUAL_WRITE)
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await scene.settled()
    return relay, replica


async def write(replica: Replica, content: str, idempotency_key: str = "") -> bool:
    """Upsert the document; False if it is refused as unavailable."""
    fields = {"content": content}
    try:
        await replica.client.upsert(
            "documents", KEY, fields, vector=vector_of(content), idempotency_key=idempotency_key
        )
    except Unavailable:
        return False
    return True


async def once(replica: Replica) -> WriteAck:
    """Upsert the document with one idempotency key."""
    fields = {"content": "once"}
    return await replica.client.upsert("documents", KEY, fields, idempotency_key="once")


def waiting_for_the_lock(scene: Scene) -> bool:
    """True if an append waits for the table that the test has locked."""
    return bool(
        one(
            scene.dbs.ledger,
            "SELECT count(*) FROM pg_locks WHERE NOT granted"
            " AND relation = 'crossfade.intents'::regclass",
        )
    )


async def test_writes_are_refused_with_advice_and_reach_no_store(scene: Scene) -> None:
    relay, replica = await dual_writing(scene, {})
    await relay.refuse()
    with pytest.raises(Unavailable) as caught:
        await replica.client.upsert("documents", KEY, {"content": "refused"})
    assert caught.value.detail.metadata["where"] == "ledger"
    assert caught.value.detail.retry_after_s
    assert not caught.value.maybe_applied
    assert not documents(scene.dbs.old, "old")
    assert await replica.client.get("documents", KEY) is None, "reads go on"
    await relay.accept()
    await until(lambda: write(replica, "accepted"), what="a write that is acknowledged")
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)
    assert [row[0] for row in documents(scene.dbs.old, "old").values()] == ["accepted"]


async def test_an_append_whose_answer_is_lost_blocks_neither_its_key_nor_the_swap(
    scene: Scene,
) -> None:
    relay, replica = await dual_writing(scene, {})
    with psycopg.connect(scene.dbs.ledger) as blocker:
        blocker.execute("LOCK TABLE crossfade.intents IN EXCLUSIVE MODE")
        writing = asyncio.create_task(once(replica))
        await until(lambda: waiting_for_the_lock(scene), what="the append in the server")
        relay.hold(up=False)
    await until(lambda: scene.left_over()[0] == 1, what="the intent nobody knows of")
    with pytest.raises(CallError):
        await writing
    await relay.refuse()
    await relay.accept()
    await scene.settled()

    async def repeated() -> bool:
        try:
            return (await once(replica)).key == KEY
        except Unavailable:
            return False

    await until(repeated, what="a retry with the same idempotency key")
    await scene.reconcile()
    await scene.quiet()
    await scene.phase(replica, Phase.SHADOW, Phase.RAMP)
    await replica.control.set_traffic(100, actor=ACTOR, reason="a test", force=True)
    await scene.swap(replica)
    assert_equal(scene.dbs)


async def test_a_ledger_that_hangs_refuses_within_its_deadline(scene: Scene) -> None:
    relay, replica = await dual_writing(scene, {})
    relay.hold()
    with pytest.raises(CallError) as caught:
        await replica.client.upsert("documents", KEY, {"content": "refused"})
    assert caught.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert not documents(scene.dbs.old, "old")
    relay.release()
    await until(lambda: write(replica, "accepted"), what="a write that is acknowledged")
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)


async def test_by_policy_writes_go_to_the_primary_alone_and_block_a_step_until_a_clean_verify(
    scene: Scene,
) -> None:
    relay, replica = await dual_writing(scene, ALONE)
    await relay.refuse()
    assert await write(replica, "alone")
    assert KEY in documents(scene.dbs.old, "old")
    assert KEY not in documents(scene.dbs.new, "new")
    await relay.accept()
    await until(lambda: bool(scene.flags().get("full_verify_needed")), what="the durable mark")
    await scene.reconcile()
    assert (await scene.job(replica, JobKind.BACKFILL)).state.value == "done"
    change = await replica.control.change_phase(Phase.SHADOW, actor=ACTOR)
    assert not change.applied
    (verified,) = [one for one in change.preconditions if one.name == "verified"]
    assert not verified.passed
    verify = await scene.job(replica, JobKind.VERIFY)
    assert verify.state.value == "done"
    await scene.quiet()
    if not verify.summary["clean"]:
        assert (await scene.job(replica, JobKind.VERIFY)).summary["clean"]
    assert not scene.flags()["full_verify_needed"]

    async def steps() -> bool:
        return (await replica.control.change_phase(Phase.SHADOW, actor=ACTOR)).applied

    await until(steps, what="the step to shadow")
    assert_equal(scene.dbs)


async def test_a_replica_that_wrote_alone_and_died_leaves_the_step_blocked(scene: Scene) -> None:
    relay, replica = await dual_writing(scene, ALONE)
    await relay.refuse()
    assert await write(replica, "alone")
    await replica.process.kill()
    await relay.accept()
    del scene.relays["ledger"]
    other = await scene.serve("other")
    await scene.reconcile()
    assert (await scene.job(other, JobKind.BACKFILL)).state.value == "done"
    change = await other.control.change_phase(Phase.SHADOW, actor=ACTOR)
    assert not change.applied
    details = " ".join(one.detail for one in change.preconditions if not one.passed)
    assert "without the ledger" in details or "no full verify" in details, details
    await scene.job(other, JobKind.VERIFY)
    await scene.quiet()
    assert_equal(scene.dbs)


async def test_a_replica_that_wrote_alone_and_stopped_in_order_leaves_the_mark(
    scene: Scene,
) -> None:
    relay, replica = await dual_writing(scene, ALONE)
    await relay.refuse()
    assert await write(replica, "alone")
    await relay.accept()
    assert await replica.process.stop() == 0
    flagged = bool(scene.flags().get("full_verify_needed"))
    clean = [row[0] for row in scene.ask("SELECT clean_exit FROM crossfade.replicas")]
    assert flagged or not all(clean), "it may not leave as if nothing had been"
