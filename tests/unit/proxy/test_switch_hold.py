"""A swap holds writes as shortly as it can, and whatever becomes of it, somebody releases them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.control.switch import release_forgotten_hold
from proxy.errors import Rejected, Unavailable
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import EventDraft, Phase, Routing
from proxy.model import Key
from tests.rig import Rig, context, replica, upsert
from tests.unit.proxy.control import change, control, to_ramp

KEY: Key = ("rust", "serde", "a")


async def test_stores_rest_before_writes_are_held_and_one_that_cannot_stops_no_swap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with replica() as rig:
        service = control(rig)
        await to_ramp(rig, service)
        held: dict[str, bool] = {}

        async def rests(*, for_s: float, deadline_s: float) -> None:
            assert min(for_s, deadline_s) > 0
            held["new"] = (await rig.ledger.routing()).hold

        async def cannot(*, for_s: float, deadline_s: float) -> None:
            held["old"] = (await rig.ledger.routing()).hold
            raise Unavailable("still busy", where="old")

        monkeypatch.setattr(rig.stores["new"], "rest", rests)
        monkeypatch.setattr(rig.stores["old"], "rest", cannot)
        assert (await change(service, Phase.NEW_PRIMARY)).applied
        assert held == {"new": False, "old": False}


async def test_a_swap_that_cannot_drain_releases_everything_unchanged_and_says_why() -> None:
    async with replica() as rig:
        service = control(rig, drain_timeout_s=0.1)
        await to_ramp(rig, service)
        gate = rig.stores["old"].gate = asyncio.Event()
        rig.stores["old"].entered.clear()
        stuck = asyncio.create_task(rig.plane.write(upsert(KEY), context()))
        await rig.stores["old"].entered.wait()
        refused = await change(service, Phase.NEW_PRIMARY)
        assert not refused.applied
        assert "did not stop writing in time" in refused.message
        routing = await rig.ledger.routing()
        assert (routing.primary, routing.phase, routing.hold) == ("old", Phase.RAMP, False)
        gate.set()
        await stuck
        rig.stores["old"].gate = None
        assert (await change(service, Phase.NEW_PRIMARY)).applied


async def test_a_swap_whose_caller_goes_away_is_finished() -> None:
    async with replica() as rig:
        service = control(rig)
        await to_ramp(rig, service)
        calling = asyncio.create_task(change(service, Phase.NEW_PRIMARY))
        while not (await rig.ledger.routing()).hold:
            await asyncio.sleep(0)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        async with asyncio.timeout(5):
            while (await rig.ledger.routing()).phase is not Phase.NEW_PRIMARY:
                await asyncio.sleep(0)
        assert not (await rig.ledger.routing()).hold


async def test_a_hold_whose_keeper_died_is_released_by_anybody() -> None:
    async with replica() as rig:
        clock = SystemClock()
        routing = await rig.ledger.routing()
        await rig.ledger.change_routing(
            routing.epoch, replace(routing, hold=True), EventDraft(kind="hold", actor="dead")
        )
        now_s = clock.monotonic_s()
        early = await release_forgotten_hold(rig.ledger, clock, held_since_s=now_s, hold_max_s=60)
        assert not early
        late = await release_forgotten_hold(
            rig.ledger, clock, held_since_s=now_s - 61, hold_max_s=60
        )
        assert late
        assert not (await rig.ledger.routing()).hold


async def test_traffic_does_not_change_under_a_hold_so_that_it_is_released() -> None:
    async with replica() as rig:
        service = control(rig)
        await to_ramp(rig, service)
        routing = await rig.ledger.routing()
        held = await rig.ledger.change_routing(
            routing.epoch, replace(routing, hold=True), EventDraft(kind="hold", actor="me")
        )
        with pytest.raises(Rejected, match="swap is under way"):
            await service.set_traffic(50, dry_run=False, force=True, actor="me", reason="now")
        assert (await rig.ledger.routing()).epoch == held.epoch


class Deaf(MemoryLedger):
    """Loses the answer to one change of routing, of the kind that a test names."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.lose = ""
        self._change = self.change_routing
        self.change_routing = self._change_unheard

    async def _change_unheard(
        self, expected_epoch: int, routing: Routing, event: EventDraft, **options: Any
    ) -> Routing:
        changed = await self._change(expected_epoch, routing, event, **options)
        if event.kind == self.lose:
            self.lose = ""
            raise Unavailable("The answer was lost.", where="ledger")
        return changed


@pytest.mark.parametrize("lost", ["swap", "hold"])
async def test_a_swap_whose_answer_is_lost_is_the_swap_it_was_and_leaves_no_hold(
    lost: str,
) -> None:
    ledger = Deaf()
    async with replica(ledger) as rig:
        service = control(rig)
        await to_ramp(rig, service)
        ledger.lose = lost
        done = await change(service, Phase.NEW_PRIMARY)
        assert done.applied, done.message
        assert done.routing == await ledger.routing()
        assert (done.routing.primary, done.routing.hold) == ("new", False)


async def test_writes_are_not_held_longer_than_the_drain_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with replica() as rig:
        service = control(rig, drain_timeout_s=0.2)
        await to_ramp(rig, service)
        monkeypatch.setattr(rig.stores["old"], "next_ids", _hang_under_hold(rig), raising=False)
        async with asyncio.timeout(5):
            refused = await change(service, Phase.NEW_PRIMARY)
        assert not refused.applied
        assert "0.2 s" in refused.message
        assert not (await rig.ledger.routing()).hold


def _hang_under_hold(rig: Rig) -> Any:
    async def hang(*_: Any) -> list[int]:
        if (await rig.ledger.routing()).hold:
            await asyncio.Event().wait()
        return [1]

    return hang


async def test_the_drain_of_a_held_swap_has_a_deadline() -> None:
    async with replica() as rig:
        await to_ramp(rig, control(rig))
        drains = 0

        async def drain() -> None:
            nonlocal drains
            drains += 1
            if drains > 1:
                await asyncio.Event().wait()

        service = control(rig, drain_timeout_s=0.2, drain=drain)
        await rig.ledger.mark_dirty("documents", [KEY], reason="test")
        async with asyncio.timeout(5):
            refused = await change(service, Phase.NEW_PRIMARY)
        assert not refused.applied
        assert "1 dirty keys" in refused.message
        assert not (await rig.ledger.routing()).hold


async def test_not_even_force_swaps_over_dirty_keys_and_the_message_says_why() -> None:
    async with replica() as rig:
        await to_ramp(rig, control(rig))

        async def drain() -> None:
            raise Unavailable("It is down.", where="store old")

        await rig.ledger.mark_dirty("documents", [KEY], reason="test")
        service = control(rig, drain=drain)
        with pytest.raises(Rejected, match="1 dirty keys cannot be repaired: It is down") as caught:
            await change(service, Phase.NEW_PRIMARY, force=True)
        assert "--force" in caught.value.hint
        assert not (await rig.ledger.routing()).hold
