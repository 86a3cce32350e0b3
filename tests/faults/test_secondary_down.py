"""The secondary is down: no write fails, what it missed is marked, and repaired afterwards."""

from __future__ import annotations

import pytest
from crossfade.client.control_types import Phase

from tests.faults.harness.databases import assert_equal, documents, vector_of
from tests.faults.harness.scene import Scene

pytestmark = pytest.mark.faults


async def test_writes_are_acknowledged_pending_and_repaired_when_it_is_back(scene: Scene) -> None:
    relay = await scene.relay("new")
    replica = await scene.serve()
    await scene.phase(replica, Phase.DUAL_WRITE)
    client = replica.client
    await client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
    await relay.refuse()
    for number in range(8):
        key = ("rust", "serde", f"page-{number}")
        ack = await client.upsert("documents", key, {"content": "c"}, vector=vector_of("c"))
        assert ack.secondary_pending
    await scene.settled()
    status = await replica.control.status()
    assert {store.name: store.breaker for store in status.stores}["new"] != "closed"
    assert len(scene.dirty()) == 8
    assert not documents(scene.dbs.new, "new")
    await relay.accept()
    await scene.reconcile()
    await scene.quiet()
    assert_equal(scene.dbs)
