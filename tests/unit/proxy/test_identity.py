"""A replica that was taken for dead, or lost an answer of the ledger, goes on under a new name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import WriteSettings
from proxy.errors import LeaseLost, Unavailable
from proxy.ledger.group_commit import SettleQueue
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import EventDraft, Intent, IntentDraft, Phase, Settlement
from proxy.model import Key
from proxy.server.housekeeping import pay_debt
from tests.doc_server import source
from tests.rig import Rig, context, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")


class LossyLedger:
    """Appends for real, and then loses the answer, while `losing`; `gate` holds answers back."""

    def __init__(self) -> None:
        self._inner = MemoryLedger(SystemClock())
        self.losing = False
        self.gate: asyncio.Event | None = None
        self.appended = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(
        self, drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        """See `IntentLog.append`."""
        intents = await self._inner.append(drafts, epoch=epoch, replica_id=replica_id)
        self.appended.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.losing:
            raise Unavailable("the connection was lost", where="ledger")
        return intents

    async def die(self, replica_id: str) -> None:
        """Let a replica's lease run out."""
        await self._inner.renew_replica(replica_id, acked_epoch=1, lease_s=0)


async def test_an_append_whose_answer_was_lost_leaves_no_intent_open_for_ever() -> None:
    ledger = LossyLedger()
    async with replica(ledger) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        await rig.settle.flush()
        before = rig.member.replica_id
        ledger.losing = True
        with pytest.raises(Unavailable):
            await rig.plane.write(upsert(KEY), context("k"))
        ledger.losing = False
        assert await ledger.unsettled() == 1
        await rig.member.refresh()
        assert rig.member.replica_id != before
        await rig.member.release_former()
        assert await ledger.sweep() == 1
        assert await ledger.unsettled() == 0
        assert await rig.dirty() == {KEY}
        ack = await rig.plane.write(upsert(KEY), context("k"))
        assert ack.key == KEY, "and a retry with the same idempotency key gets through"


async def test_a_lease_that_has_run_out_cannot_be_renewed() -> None:
    async with replica() as rig:
        before = rig.member.replica_id
        await rig.ledger.renew_replica(before, acked_epoch=1, lease_s=0)
        with pytest.raises(LeaseLost):
            await rig.ledger.renew_replica(before, acked_epoch=1, lease_s=60)
        await rig.member.refresh()
        assert rig.member.replica_id != before


async def test_a_write_of_old_only_that_slept_through_its_lease_begins_anew() -> None:
    """Rule B0: nobody waits for a replica that is taken for dead, so it must not write late."""
    async with replica() as rig:
        await with_source(rig)
        await rig.stores["new"].apply([source()], atomic=True, deadline_s=5)
        gate = rig.stores["old"].gate = asyncio.Event()
        rig.stores["old"].entered.clear()
        first = asyncio.create_task(rig.plane.write(upsert(KEY, "first"), context()))
        await rig.stores["old"].entered.wait()
        second = asyncio.create_task(rig.plane.write(upsert(KEY, "second"), context()))
        while rig.writer.in_flight < 2:
            await asyncio.sleep(0)
        rig.stores["old"].gate = None
        before = rig.member.replica_id
        await rig.ledger.renew_replica(before, acked_epoch=1, lease_s=0)
        await rig.go(Phase.DUAL_WRITE)  # nobody alive holds it up
        while rig.member.replica_id == before:
            await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, second)
        for side in ("old", "new"):
            record = await rig.stored(side, KEY)
            assert record is not None, side
            assert record.fields["content"] == "second", side


async def test_a_write_whose_intent_was_taken_over_calls_no_store_under_its_old_name() -> None:
    ledger = LossyLedger()
    async with replica(ledger) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        gate = ledger.gate = asyncio.Event()
        ledger.appended.clear()
        applied = len(rig.stores["new"].applied)
        writing = asyncio.create_task(rig.plane.write(upsert(KEY), context()))
        await ledger.appended.wait()
        await ledger.die(rig.member.replica_id)
        await rig.member.refresh()
        assert len(rig.stores["new"].applied) == applied
        gate.set()
        await writing
        assert [write.key for write in rig.stores["new"].applied[applied:]] == [KEY]
        assert await rig.dirty() == {KEY}, "its first intent was taken over"


async def test_a_former_name_is_given_up_when_its_writes_have_ended() -> None:
    async with replica() as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        gate = rig.stores["new"].gate = asyncio.Event()
        rig.stores["new"].entered.clear()
        writing = asyncio.create_task(rig.plane.write(upsert(KEY), context()))
        await rig.stores["new"].entered.wait()
        former = rig.member.replica_id
        await rig.ledger.renew_replica(former, acked_epoch=1, lease_s=0)
        await rig.member.refresh()
        await rig.member.release_former()
        assert not await clean(rig, former), "its write is still running"
        gate.set()
        await writing
        await rig.member.release_former()
        assert await clean(rig, former)


async def clean(rig: Rig, replica_id: str) -> bool:
    """True if the replica has exited cleanly."""
    return next(
        item.clean_exit for item in await rig.ledger.replicas() if item.replica_id == replica_id
    )


async def test_a_debt_is_paid_before_the_replica_leaves() -> None:
    ledger = LossyLedger()
    settings = WriteSettings(ledger_down="primary_alone")
    async with replica(ledger, writes=settings) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        ledger.losing = True
        await rig.plane.write(upsert(KEY), context())
        assert rig.writer.written_alone == {("documents", KEY)}
        await pay_debt(rig.ledger, rig.member, rig.writer, SystemClock())
        assert (await rig.ledger.flags())["full_verify_needed"]
        assert not rig.writer.owes_full_verify
        assert await rig.dirty() == {KEY}, "so that it is fenced, and repaired before any verify"


async def test_an_epoch_is_acknowledged_only_once_the_debt_is_recorded() -> None:
    ledger = LossyLedger()
    settings = WriteSettings(ledger_down="primary_alone")
    async with replica(ledger, writes=settings) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        ledger.losing = True
        await rig.plane.write(upsert(KEY), context())
        assert rig.writer.written_alone == {("documents", KEY)}
        ledger.losing = False
        shadow = replace(await rig.ledger.routing(), phase=Phase.SHADOW)
        changed = await rig.ledger.change_routing(
            shadow.epoch, shadow, EventDraft(kind="phase", actor="test")
        )
        async with asyncio.timeout(5):
            while not any(
                item.replica_id == rig.member.replica_id and item.acked_epoch == changed.epoch
                for item in await rig.ledger.replicas()
            ):
                await asyncio.sleep(0)
        assert (await rig.ledger.flags())["full_verify_needed"]
        assert not rig.writer.owes_full_verify
        assert await rig.dirty() == {KEY}, "so that it is fenced, and repaired before any verify"


async def test_a_replica_whose_settlements_were_dropped_is_told_to_take_another_name() -> None:
    ledger = MemoryLedger(SystemClock())
    routing = await ledger.register_replica("r", address="", lease_s=60, ledger_down="refuse")
    drafts = [
        IntentDraft(collection="documents", key=("rust", "serde", name), op="upsert")
        for name in "ab"
    ]
    intents = await ledger.append(drafts, epoch=routing.epoch, replica_id="r")
    told: list[str] = []
    queue = SettleQueue(ledger, SystemClock(), delay_s=0, rows_max=1, on_drop=told.append)
    queue.add([Settlement(intent=item, clean=True) for item in intents])
    assert (told, queue.dropped) == (["r"], 1)
