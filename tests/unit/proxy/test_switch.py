"""Phase steps: what is allowed, what is checked, and the swap that fails no write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.control.evidence import finished_backfill
from proxy.errors import Reason, Rejected, Unavailable
from proxy.ledger.types import JobKind, Phase
from proxy.model import Key, Write, WriteOp
from proxy.routing.phases import ORDER, allowed_targets, step
from tests.rig import Rig, context, replica, upsert
from tests.unit.proxy.control import change, control, proven, to_ramp, verified

KEY: Key = ("rust", "serde", "a")


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
        assert "`crossfade phase dual_write` is the next" in caught.value.hint
        with pytest.raises(Rejected, match="old_only already"):
            await change(control(rig), Phase.OLD_ONLY)


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
        assert (await service.status()).next_steps == [
            "nothing: the migration has ended, and the old store may be switched off"
        ]


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
