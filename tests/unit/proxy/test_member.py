"""A replica's membership: which epoch it says it has reached."""

from __future__ import annotations

import asyncio

import pytest

from proxy.clock import SystemClock
from proxy.errors import Unavailable
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import EventDraft, Phase, Routing
from proxy.routing.member import MemberSettings, Membership


class SlowDrain:
    """A drain that ends when it is told to, the first time."""

    def __init__(self) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1
        if self.times == 1:
            self.begun.set()
            await self.may_end.wait()


async def member_of(ledger: MemoryLedger, drain: SlowDrain) -> Membership:
    await ledger.open()
    settings = MemberSettings(lease_s=3600, hold_max_s=5, address="", ledger_down="refuse")
    return Membership(ledger, SystemClock(), settings, drain=drain)


async def next_epoch(ledger: MemoryLedger) -> int:
    before = await ledger.routing()
    target = Routing(epoch=before.epoch, phase=Phase.DUAL_WRITE, primary="old")
    event = EventDraft(kind="phase", actor="t")
    return (await ledger.change_routing(before.epoch, target, event)).epoch


async def acknowledged(ledger: MemoryLedger, epoch: int) -> None:
    async with asyncio.timeout(10):
        while (await ledger.replicas())[0].acked_epoch < epoch:
            await asyncio.sleep(0)


async def test_an_acknowledgement_that_comes_late_takes_no_later_one_back() -> None:
    ledger, drain = MemoryLedger(SystemClock()), SlowDrain()
    member = await member_of(ledger, drain)
    starting = asyncio.create_task(member.start())
    async with asyncio.timeout(10):
        await drain.begun.wait()
    epoch = await next_epoch(ledger)
    await member.refresh()
    await acknowledged(ledger, epoch)
    drain.may_end.set()
    await starting
    assert (await ledger.replicas())[0].acked_epoch == epoch


async def test_an_epoch_that_a_write_has_found_is_acknowledged_at_once() -> None:
    """The task that follows the routing sees no change any more, and no write is under way."""
    ledger, drain = MemoryLedger(SystemClock()), SlowDrain()
    drain.may_end.set()
    member = await member_of(ledger, drain)
    await member.start()
    epoch = await next_epoch(ledger)
    assert (await member.refresh()).epoch == epoch
    await acknowledged(ledger, epoch)
    assert (await ledger.replicas())[0].acked_epoch == epoch


async def test_a_ledger_that_stays_away_is_logged_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, drain = MemoryLedger(SystemClock()), SlowDrain()
    drain.may_end.set()
    member = await member_of(ledger, drain)
    await member.start()
    tried = asyncio.Semaphore(0)

    async def away(epoch: int, *, timeout_s: float) -> None:
        tried.release()
        raise Unavailable("nobody there", where="ledger")

    async def no_pause(seconds: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(ledger, "wait_change", away)
    monkeypatch.setattr(member._clock, "sleep", no_pause)
    running = asyncio.create_task(member.run())
    async with asyncio.timeout(10):
        for _ in range(20):
            await tried.acquire()
    running.cancel()
    said = [record.message for record in caplog.records if "out of reach" in record.message]
    assert said == ["the ledger is out of reach: nobody there"]


async def test_a_replica_that_has_left_does_not_join_again_when_its_last_write_ends() -> None:
    ledger, drain = MemoryLedger(SystemClock()), SlowDrain()
    drain.may_end.set()
    member = await member_of(ledger, drain)
    await member.start()
    async with member.admit() as ticket:
        member.linger(ticket, 0.01)
    await next_epoch(ledger)
    await member.refresh()
    await member.stop()
    async with asyncio.timeout(10):
        while member._lingering:
            await asyncio.sleep(0.005)
    for _ in range(10):
        await asyncio.sleep(0)
    assert [replica.alive for replica in await ledger.replicas()] == [False]
