"""The primary is down: writes are refused as UNAVAILABLE, nothing is lost, and it recovers."""

from __future__ import annotations

import time

import pytest
from crossfade.client.control_types import Phase
from crossfade.client.errors import CallError, DeadlineExceeded, Unavailable

from tests.faults.harness.databases import assert_equal, documents, vector_of
from tests.faults.harness.scene import Replica, Scene
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
KEY = ("rust", "serde", "page")


async def healthy(replica: Replica, name: str) -> bool:
    """True if a store answers."""
    status = await replica.control.status()
    return {store.name: store.healthy for store in status.stores}[name]


async def test_writes_and_reads_are_unavailable_with_advice_and_work_again_later(
    scene: Scene,
) -> None:
    relay = await scene.relay("old")
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    client = replica.client
    await client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await client.upsert("documents", KEY, {"content": "before"}, vector=vector_of("before"))
    await relay.refuse()
    for _ in range(5):
        with pytest.raises(Unavailable) as caught:
            await client.upsert("documents", KEY, {"content": "lost?"})
    error = caught.value
    assert error.detail.metadata["where"] == "old"
    assert error.detail.retry_after_s is not None
    assert error.detail.retry_after_s > 0
    assert error.request_id
    with pytest.raises(Unavailable):
        await client.get("documents", KEY)
    await relay.accept()

    async def works() -> bool:
        try:
            await client.upsert("documents", ("rust", "serde", "later"), {"content": "c"})
        except Unavailable:
            return False
        return True

    await until(works, what="a write that is acknowledged")
    found = await client.get("documents", KEY)
    assert found is not None
    assert found.fields["content"] == "before", "a refused write changed nothing"
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)


async def test_a_primary_that_hangs_is_deadline_exceeded_and_ends_equal_on_both(
    scene: Scene,
) -> None:
    relay = await scene.relay("old")
    # One connection: the next write of the kind finds its statements prepared.
    replica = await scene.serve(over={"old": {"pool_size_min": 1, "pool_size_max": 1}})
    await scene.phase(replica, Phase.DUAL_WRITE)
    client = replica.client
    await client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    first = ("rust", "serde", "first")  # takes numbers, prepares the statement
    await client.upsert("documents", first, {"content": "c"}, vector=vector_of("c"))
    relay.hold()
    with pytest.raises(DeadlineExceeded) as caught:
        await client.upsert("documents", KEY, {"content": "late"}, vector=vector_of("late"))
    assert caught.value.maybe_applied
    assert caught.value.detail.reason == "AMBIGUOUS"
    assert caught.value.detail.metadata["where"] == "old"
    relay.release()
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)


async def test_a_primary_that_hangs_before_the_write_begins_is_unavailable_soon(
    scene: Scene,
) -> None:
    relay = await scene.relay("old")
    replica = await scene.serve()
    await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    relay.hold()
    began_s = time.monotonic()
    with pytest.raises(Unavailable) as caught:  # it cannot even allocate a number
        await replica.client.upsert("documents", KEY, {"content": "never sent"})
    assert time.monotonic() - began_s < 4.0
    assert not caught.value.maybe_applied
    relay.release()


async def test_an_answer_that_is_lost_leaves_the_key_to_repair(scene: Scene) -> None:
    relay = await scene.relay("old")
    # One connection: the next write of the kind finds its statements prepared.
    replica = await scene.serve(over={"old": {"pool_size_min": 1, "pool_size_max": 1}})
    await scene.phase(replica, Phase.DUAL_WRITE)
    client = replica.client
    await client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    first = ("rust", "serde", "first")  # takes numbers, prepares the statement
    await client.upsert("documents", first, {"content": "c"}, vector=vector_of("c"))
    await scene.settled()
    relay.hold(up=False)
    with pytest.raises(CallError) as caught:
        await client.upsert(
            "documents", KEY, {"content": "applied"}, vector=vector_of("v"), idempotency_key="once"
        )
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert caught.value.maybe_applied
    assert KEY in documents(scene.dbs.old, "old"), "the primary has it, only its answer got lost"
    relay.cut()
    relay.release()
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)

    async def repeated() -> bool:
        try:
            await client.upsert(
                "documents",
                KEY,
                {"content": "applied"},
                vector=vector_of("v"),
                idempotency_key="once",
            )
        except Unavailable:
            return False
        return True

    await until(repeated, what="a retry with the same idempotency key")
    await scene.quiet()
    assert_equal(scene.dbs)


async def test_in_the_ramp_reads_are_answered_by_the_other_store_unless_the_key_is_dirty(
    scene: Scene,
) -> None:
    relay = await scene.relay("old")
    new = await scene.relay("new")
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    client = replica.client
    await client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await client.upsert("documents", KEY, {"content": "clean"}, vector=vector_of("v"))
    dirty = ("rust", "serde", "dirty")
    await client.upsert("documents", dirty, {"content": "first"}, vector=vector_of("v"))
    await scene.phase(replica, Phase.SHADOW, Phase.RAMP)
    await new.refuse()
    assert (await client.upsert("documents", dirty, {"content": "second"})).secondary_pending
    await new.accept()
    await until(lambda: healthy(replica, "new"), what="the new store again")
    await relay.refuse()
    found = await client.get("documents", KEY)
    assert found is not None
    assert found.served_by is not None
    assert (found.served_by.store, found.served_by.reason) == ("new", "fallback")
    with pytest.raises(Unavailable):
        await client.get("documents", dirty)
    result = await client.search("documents", vector_of("v"), limit=2)
    assert result.served_by.reason == "fallback"


async def test_a_proxy_does_not_start_without_its_primary_and_says_why(scene: Scene) -> None:
    relay = await scene.relay("old")
    await relay.refuse()
    config = scene.config()
    code, _, errors = await scene.command("serve", "--config", str(config))
    assert code == 3
    assert "The old store cannot be reached" in errors
    assert "Traceback" not in errors
