"""Replicas that were killed and may have written unknown to the ledger are given up by force."""

from __future__ import annotations

from proxy.clock import SystemClock
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import Phase
from proxy.routing.replicas import behind
from tests.rig import replica
from tests.unit.proxy.control import change, control


async def test_force_gives_up_replicas_that_were_killed_and_asks_for_a_full_verify() -> None:
    ledger = MemoryLedger(SystemClock())
    async with replica(ledger) as rig:
        service = control(rig, ack_timeout_s=0.1)
        for name, ago_s in (("long-dead", 61.0), ("just-dead", 1.0)):
            await ledger.register_replica(
                name, address="", lease_s=-ago_s, ledger_down="primary_alone"
            )
        refused = await change(service, Phase.DUAL_WRITE)
        assert [item.name for item in refused.preconditions if not item.passed] == [
            "replicas follow"
        ]
        assert (await change(service, Phase.DUAL_WRITE, force=True)).applied
        epoch = (await ledger.routing()).epoch
        late = {item.replica_id for item in behind(await ledger.replicas(), epoch)}
        assert late == {"just-dead"}
        assert (await ledger.flags())["full_verify_needed"]
        changed = [event for event in await ledger.events() if event.kind == "phase"][-1]
        assert changed.detail["forgotten_replicas"] == ["long-dead"]
