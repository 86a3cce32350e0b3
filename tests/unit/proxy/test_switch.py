"""Phase steps: what is allowed, what is checked, and the swap that fails no write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import SwitchSettings
from proxy.control.evidence import finished_backfill
from proxy.control.preconditions import JudgeSettings
from proxy.control.service import ControlParts, ControlService
from proxy.control.switch import Switch, release_forgotten_hold
from proxy.controlplane import Precondition
from proxy.errors import Reason, Rejected, Unavailable
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import EventDraft, JobKind, JobState, Phase, Routing
from proxy.model import JsonValue, Key, Write, WriteOp
from proxy.routing.phases import ORDER, allowed_targets, step
from proxy.stores.breaker import Breaker
from proxy.stores.sides import Side, Sides
from tests.rig import Rig, context, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")


async def _open_gate() -> Sequence[Precondition]:
    return []


async def _empty_report() -> dict[str, Any]:
    return {}


def control(
    rig: Rig,
    *,
    drain_timeout_s: float = 2.0,
    ack_timeout_s: float = 5.0,
    drain: Callable[[], Awaitable[None]] | None = None,
) -> ControlService:
    clock = SystemClock()

    async def repair() -> None:
        """Repair the dirty documents, as the wiring does it with the reconciler."""
        for item in await rig.ledger.dirty_keys("documents", limit=100):
            copy = await rig.ledger.begin_copy("documents")
            routing = await rig.ledger.routing()
            names = ("old", "new") if routing.primary == "old" else ("new", "old")
            record = await rig.stored(names[0], item.key)
            if record is not None:
                write = Write(
                    op=WriteOp.UPSERT, collection="documents", key=item.key, fields=record.fields
                )
                await rig.stores[names[1]].apply([write], atomic=True, deadline_s=5)
            await rig.ledger.finish_copy(copy, touched=[item.key])

    settings = SwitchSettings(drain_timeout_s=drain_timeout_s, ack_timeout_s=ack_timeout_s)
    sides = Sides(
        {
            name: Side(store=store, breaker=Breaker(clock, failures_max=5, open_s=5))
            for name, store in rig.stores.items()
        }
    )
    return ControlService(
        ControlParts(
            migration="m",
            ledger=rig.ledger,
            sides=sides,
            switch=Switch(rig.ledger, clock, settings, drain=drain or repair),
            engines={"old": "memory", "new": "memory"},
            judge=JudgeSettings(dirty_reads_max=1000, dirty_swap_max=0),
            gate=_open_gate,
            report=_empty_report,
        )
    )


async def change(service: ControlService, target: Phase, **options: Any) -> Any:
    arguments = {"dry_run": False, "force": False, "actor": "me", "reason": "test", **options}
    return await service.change_phase(target, **arguments)


async def proven(rig: Rig) -> None:
    """Leave the traces of a finished backfill and a clean verify."""
    job = await rig.ledger.create_job(JobKind.BACKFILL, {})
    await rig.ledger.claim_job(job.job_id, owner="t", lease_s=60)
    await rig.ledger.end_job(job.job_id, owner="t", state=JobState.DONE, summary={})
    await rig.stores["new"].build_index("documents")
    await verified(rig)


async def verified(rig: Rig) -> None:
    value: dict[str, JsonValue] = {
        "job_id": 1,
        "at": SystemClock().now().isoformat(),
        "epoch": (await rig.ledger.routing()).epoch,
        "clean": True,
    }
    await rig.ledger.set_flag("last_verify", value, actor="t", reason="")


def test_steps_go_one_phase_forward_and_never_out_of_new_only() -> None:
    for n, phase in enumerate(ORDER[:-1]):
        forward = [target for target in allowed_targets(phase) if ORDER.index(target) > n]
        assert forward == [ORDER[n + 1]]
    assert allowed_targets(Phase.NEW_ONLY) == ()
    assert step(Phase.NEW_PRIMARY, Phase.DUAL_WRITE) is None, "the way back is the swap to ramp"
    taken = step(Phase.NEW_PRIMARY, Phase.RAMP)
    assert taken is not None
    assert taken.swap


async def test_a_step_is_refused_while_a_precondition_is_false_and_says_which() -> None:
    async with replica() as rig:
        service = control(rig)
        assert (await change(service, Phase.DUAL_WRITE)).applied
        refused = await change(service, Phase.SHADOW)
        assert not refused.applied
        failed = {item.name for item in refused.preconditions if not item.passed}
        assert failed == {"backfill complete", "verified", "indexes valid"}
        assert all(item.remedy for item in refused.preconditions if not item.passed)
        assert (await rig.ledger.routing()).phase is Phase.DUAL_WRITE


async def test_a_dry_run_changes_nothing() -> None:
    async with replica() as rig:
        told = await change(control(rig), Phase.DUAL_WRITE, dry_run=True)
        assert not told.applied
        assert "Would" in told.message
        assert (await rig.ledger.routing()).epoch == 1


async def test_force_goes_through_and_is_logged_with_who_and_why() -> None:
    async with replica() as rig:
        service = control(rig)
        await change(service, Phase.DUAL_WRITE)
        assert (await change(service, Phase.SHADOW, force=True, reason="I know")).applied
        event = (await rig.ledger.events())[-1]
        assert (event.actor, event.reason, event.detail["forced"]) == ("me", "I know", True)


async def test_a_step_that_does_not_exist_names_those_that_do() -> None:
    async with replica() as rig:
        with pytest.raises(Rejected) as caught:
            await change(control(rig), Phase.NEW_PRIMARY)
        assert caught.value.reason is Reason.FAILED_PRECONDITION
        assert "dual_write" in str(caught.value.violations[0])


async def to_ramp(rig: Rig, service: ControlService) -> None:
    await change(service, Phase.DUAL_WRITE)
    await with_source(rig)
    await proven(rig)
    for target in (Phase.SHADOW, Phase.RAMP):
        assert (await change(service, target)).applied
    moved = await service.set_traffic(100, dry_run=False, force=False, actor="me", reason="")
    assert moved.applied


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


async def test_swap_and_rollback_under_writes_lose_and_fail_nothing() -> None:
    async with replica() as rig, replica(rig.ledger, rig.stores) as other:
        service = control(rig)
        await to_ramp(rig, service)
        stop = asyncio.Event()
        written: dict[Key, str] = {}

        async def keep_writing(through: Rig, name: str) -> None:
            n = 0
            while not stop.is_set():
                key: Key = ("rust", "serde", f"{name}{n % 20}")
                await through.plane.write(upsert(key, str(n)), context())
                written[key] = str(n)
                n += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(keep_writing(rig, "a"))
            group.create_task(keep_writing(other, "b"))
            there = await change(service, Phase.NEW_PRIMARY)
            assert there.applied, there.message
            assert there.routing.primary == "new"
            back = await change(service, Phase.RAMP)
            assert back.applied, back.message
            assert (back.routing.primary, back.routing.percent) == ("old", 0.0)
            stop.set()
        await other.settle.flush()
        assert await rig.dirty() == set()
        assert len(written) > 2
        for key, content in written.items():
            for side in ("old", "new"):
                record = await rig.stored(side, key)
                assert record is not None
                assert record.fields["content"] == content


async def test_dirty_keys_are_drained_before_the_roles_change() -> None:
    async with replica() as rig:
        service = control(rig)
        await to_ramp(rig, service)
        await rig.plane.write(upsert(KEY), context())
        await rig.settle.flush()
        await rig.ledger.mark_dirty("documents", [KEY], reason="test")
        assert (await change(service, Phase.NEW_PRIMARY)).applied


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


async def test_numbers_go_on_past_the_old_stores_after_a_swap() -> None:
    async with replica() as rig:
        service = control(rig)
        await to_ramp(rig, service)
        insert = Write(
            op=WriteOp.INSERT,
            collection="crate_configs",
            key=(),
            fields={"name": "a"},
            set_vector=False,
        )
        before = [(await rig.plane.write(insert, context())).key[0] for _ in range(3)]
        assert (await change(service, Phase.NEW_PRIMARY)).applied
        after = [(await rig.plane.write(insert, context())).key[0] for _ in range(3)]
        assert len({*before, *after}) == 6
        assert min(int(n) for n in after) > max(int(n) for n in before)
        assert await rig.dirty("crate_configs") == set()


async def test_new_only_needs_a_verify_under_the_new_roles() -> None:
    async with replica() as rig:
        service = control(rig)
        await to_ramp(rig, service)
        await change(service, Phase.NEW_PRIMARY)
        refused = await change(service, Phase.NEW_ONLY)
        assert [item.name for item in refused.preconditions if not item.passed] == ["verified"]
        await verified(rig)
        final = await change(service, Phase.NEW_ONLY)
        assert final.applied
        assert "no way back" in final.message


async def test_a_hold_whose_keeper_died_is_released_by_anybody() -> None:
    async with replica() as rig:
        clock = SystemClock()
        routing = await rig.ledger.routing()
        from dataclasses import replace

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


async def test_traffic_outside_the_ramp_or_the_range_is_refused() -> None:
    async with replica() as rig:
        service = control(rig)
        options: dict[str, Any] = {"dry_run": False, "force": True, "actor": "", "reason": ""}
        assert not (await service.set_traffic(10, **options)).applied
        with pytest.raises(Rejected):
            await service.set_traffic(101, **options)


async def test_status_names_the_next_step_and_what_is_missing() -> None:
    async with replica() as rig:
        service = control(rig)
        status = await service.status()
        assert any("dual_write: every precondition holds" in text for text in status.next_steps)
        await change(service, Phase.DUAL_WRITE)
        status = await service.status()
        assert any("crossfade backfill" in text for text in status.next_steps)


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


async def test_a_swap_whose_answer_is_lost_is_reported_as_the_swap_it_was() -> None:
    ledger = Deaf()
    async with replica(ledger) as rig:
        service = control(rig)
        await to_ramp(rig, service)
        ledger.lose = "swap"
        done = await change(service, Phase.NEW_PRIMARY)
        assert done.applied, done.message
        assert done.routing == await ledger.routing()
        assert (done.routing.primary, done.routing.hold) == ("new", False)


async def test_a_hold_whose_answer_is_lost_does_not_outlive_its_swap() -> None:
    ledger = Deaf()
    async with replica(ledger) as rig:
        service = control(rig)
        await to_ramp(rig, service)
        ledger.lose = "hold"
        done = await change(service, Phase.NEW_PRIMARY)
        assert done.applied, done.message
        routing = await ledger.routing()
        assert (routing.primary, routing.hold) == ("new", False)


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


async def test_the_way_back_needs_no_answer_of_the_store_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with replica() as rig:
        service = control(rig)
        await to_ramp(rig, service)
        assert (await change(service, Phase.NEW_PRIMARY)).applied
        insert = Write(
            op=WriteOp.INSERT,
            collection="crate_configs",
            key=(),
            fields={"name": "a"},
            set_vector=False,
        )
        before = [int((await rig.plane.write(insert, context())).key[0]) for _ in range(3)]
        await rig.settled()
        asked: list[str] = []
        monkeypatch.setattr(rig.stores["new"], "next_ids", _dead(asked), raising=False)
        back = await change(service, Phase.RAMP, force=True)
        assert back.applied, back.message
        assert asked
        after = int((await rig.plane.write(insert, context())).key[0])
        assert after > max(before)


def _dead(asked: list[str]) -> Any:
    async def next_ids(collection: str, *_: Any) -> list[int]:
        asked.append(collection)
        raise Unavailable("It is down.", where="store new")

    return next_ids


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


async def test_a_step_back_to_shadow_begins_a_new_period_of_the_gate() -> None:
    async with replica() as rig:
        service = control(rig)
        await to_ramp(rig, service)
        back = await change(service, Phase.SHADOW)
        assert back.applied, back.message
        assert (await rig.ledger.flags())["shadow"] == {"epoch": back.routing.epoch}


async def test_a_whole_backfill_is_found_behind_many_partial_ones() -> None:
    async with replica() as rig:
        await proven(rig)
        for _ in range(30):
            await rig.ledger.create_job(JobKind.BACKFILL, {"collections": ["documents"]})
        found = await finished_backfill(rig.ledger, {})
        assert found is not None
        assert not found.params
