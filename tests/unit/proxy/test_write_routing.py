"""Writes while the routing changes or cannot be known: epochs, holds, leases, a ledger down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import WriteSettings
from proxy.errors import Ambiguous, Unavailable
from proxy.ledger.base import Ledger
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import EventDraft, Intent, IntentDraft, Phase, Routing
from proxy.model import Key
from tests.rig import Rig, context, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")


async def followed(rig: Rig) -> int:
    """Step to dual_write; return the epoch once the replica follows it, acknowledged or not."""
    changed = await rig.ledger.change_routing(
        (await rig.ledger.routing()).epoch,
        Routing(epoch=0, phase=Phase.DUAL_WRITE, primary="old"),
        EventDraft(kind="phase", actor="test"),
    )
    while rig.member.current.epoch != changed.epoch:
        await asyncio.sleep(0)
    return changed.epoch


async def test_an_epoch_is_not_acknowledged_while_a_write_given_up_may_still_land() -> None:
    async with replica(writes=WriteSettings(late_write_s=0.2)) as rig:
        await with_source(rig)
        rig.stores["old"].fail_apply = Ambiguous("who knows", where="old")
        with pytest.raises(Ambiguous):
            await rig.plane.write(upsert(KEY), context())
        epoch = await followed(rig)
        (alive,) = await rig.ledger.replicas()
        assert alive.acked_epoch < epoch
        await rig.acknowledged(epoch)


class LedgerDown:
    """A ledger whose appends fail while `down`."""

    def __init__(self, inner: Ledger) -> None:
        self.inner = inner
        self.down = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def append(
        self, drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        if self.down:
            raise Unavailable("no ledger", where="ledger")
        return await self.inner.append(drafts, epoch=epoch, replica_id=replica_id)


@pytest.mark.parametrize("policy", ["refuse", "primary_alone"])
async def test_without_the_ledger_writes_are_refused_or_go_to_the_primary_alone(
    policy: str,
) -> None:
    ledger = LedgerDown(MemoryLedger(SystemClock()))
    settings = WriteSettings.model_validate({"ledger_down": policy})
    async with replica(ledger, writes=settings) as rig:  # type: ignore[arg-type]  # delegates
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        ledger.down = True
        if policy == "refuse":
            with pytest.raises(Unavailable, match="no ledger"):
                await rig.plane.write(upsert(KEY), context())
            assert await rig.stored("old", KEY) is None
            return
        await rig.plane.write(upsert(KEY), context())
        assert await rig.stored("old", KEY) is not None
        assert await rig.stored("new", KEY) is None
        assert rig.writer.owes_full_verify


async def test_held_writes_wait_and_do_not_fail(rig: Rig) -> None:
    routing = await rig.ledger.routing()
    held = await rig.ledger.change_routing(
        routing.epoch,
        Routing(epoch=0, phase=routing.phase, primary="old", hold=True),
        EventDraft(kind="hold", actor="test"),
    )
    await rig.acknowledged(held.epoch)
    waiting = asyncio.create_task(rig.plane.write(upsert(KEY), context()))
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done()
    assert await rig.stored("old", KEY) is None
    await rig.ledger.change_routing(
        held.epoch,
        Routing(epoch=0, phase=Phase.NEW_PRIMARY, primary="new"),
        EventDraft(kind="swap", actor="test"),
        drained=True,
    )
    await asyncio.wait_for(waiting, timeout=5)
    assert await rig.stored("new", KEY) is not None
    assert await rig.dirty() == set()


async def test_an_epoch_is_acknowledged_only_when_earlier_writes_have_ended() -> None:
    async with replica() as rig:
        await with_source(rig)
        gate = rig.stores["old"].gate = asyncio.Event()
        rig.stores["old"].entered.clear()
        writing = asyncio.create_task(rig.plane.write(upsert(KEY), context()))
        await rig.stores["old"].entered.wait()
        epoch = await followed(rig)
        (alive,) = await rig.ledger.replicas()
        assert alive.acked_epoch < epoch, "a write of old_only is still on its way (B0)"
        gate.set()
        await writing
        await rig.acknowledged(epoch)


async def test_a_lost_lease_costs_a_new_registration_and_no_write(rig: Rig) -> None:
    first = rig.member.replica_id
    await rig.ledger.renew_replica(first, acked_epoch=1, lease_s=0)
    await rig.ledger.sweep()
    await rig.plane.write(upsert(KEY), context())
    assert rig.member.replica_id != first
    assert await rig.stored("new", KEY) is not None


async def test_a_replica_paused_past_its_lease_calls_no_store_under_its_old_identity(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = rig.ledger.append

    async def append_and_pause(
        drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        intents = await inner(drafts, epoch=epoch, replica_id=replica_id)
        monkeypatch.setattr(rig.ledger, "append", inner)
        monkeypatch.setattr(rig.member, "_lease_until_s", 0.0)
        await rig.ledger.renew_replica(replica_id, acked_epoch=1, lease_s=0)
        await rig.ledger.sweep()
        return intents

    before = rig.member.replica_id
    monkeypatch.setattr(rig.ledger, "append", append_and_pause)
    await rig.plane.write(upsert(KEY), context())
    assert rig.member.replica_id != before
    assert len([write for write in rig.stores["old"].applied if write.key == KEY]) == 1
    assert await rig.dirty() == {KEY}, "the intent of the old identity was taken over"
