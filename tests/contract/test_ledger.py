"""The ledger's contract for all else: routing, swaps, leases, jobs, flags, opening."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psycopg
import pytest

from proxy.errors import Corrupt, LeaseLost, Reason, Rejected, StaleEpoch, Unavailable
from proxy.ledger.base import Ledger
from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.types import (
    Difference,
    EventDraft,
    IntentDraft,
    JobKind,
    JobState,
    Phase,
    RangeState,
    Routing,
)
from proxy.query import KeyRange
from tests.contract.ledgers import KEY, OTHER, append, dirty, settle


async def test_nothing_is_appended_under_an_epoch_that_has_ended(ledger: Ledger) -> None:
    routing = await ledger.routing()
    await ledger.change_routing(
        routing.epoch,
        Routing(epoch=0, phase=Phase.DUAL_WRITE, primary="old"),
        EventDraft(kind="phase", actor="me"),
    )
    with pytest.raises(StaleEpoch):
        await ledger.append(
            [IntentDraft(collection="documents", key=KEY, op="upsert")],
            epoch=routing.epoch,
            replica_id="r1",
        )
    with pytest.raises(StaleEpoch):
        await ledger.change_routing(routing.epoch, routing, EventDraft(kind="phase", actor="me"))


async def test_held_writes_are_not_appended(ledger: Ledger) -> None:
    held = await ledger.change_routing(
        (await ledger.routing()).epoch,
        Routing(epoch=0, phase=Phase.RAMP, primary="old", percent=50.0, hold=True),
        EventDraft(kind="hold", actor="me", detail={"why": "test"}),
    )
    assert held.hold
    assert held.percent == 50.0
    with pytest.raises(StaleEpoch):
        await append(ledger, "r1", KEY)
    assert [event.kind for event in await ledger.events()] == ["hold"]


@pytest.mark.parametrize("what", ["unsettled", "dirty", "copy"])
async def test_a_swap_needs_a_drained_ledger(ledger: Ledger, what: str) -> None:
    if what == "unsettled":
        await append(ledger, "r1", KEY)
    elif what == "dirty":
        await ledger.mark_dirty("documents", [KEY], reason="test")
    else:
        await ledger.begin_copy("documents")
    epoch = (await ledger.routing()).epoch
    target = Routing(epoch=0, phase=Phase.NEW_PRIMARY, primary="new")
    with pytest.raises(Rejected) as caught:
        await ledger.change_routing(
            epoch, target, EventDraft(kind="swap", actor="me"), drained=True
        )
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    assert (await ledger.routing()).primary == "old"


async def test_a_watermark_of_a_reader_does_not_hold_up_a_swap(ledger: Ledger) -> None:
    await ledger.begin_copy("documents", copying=False)
    epoch = (await ledger.routing()).epoch
    target = Routing(epoch=0, phase=Phase.NEW_PRIMARY, primary="new")
    swapped = await ledger.change_routing(
        epoch, target, EventDraft(kind="swap", actor="me"), drained=True, note="swap"
    )
    assert swapped.primary == "new"
    assert await ledger.flags() == {"swap": {"epoch": swapped.epoch}}


async def test_a_dead_replica_loses_its_intents_and_must_register_anew(ledger: Ledger) -> None:
    await ledger.register_replica("dead", address="", lease_s=60, ledger_down="refuse")
    (intent,) = await append(ledger, "dead", KEY)
    assert await ledger.sweep() == 0
    await ledger.renew_replica("dead", acked_epoch=1, lease_s=0)
    with pytest.raises(LeaseLost):
        await append(ledger, "dead", OTHER)
    assert await ledger.sweep() == 1
    assert await dirty(ledger) == {KEY}
    assert await ledger.unsettled() == 0
    with pytest.raises(LeaseLost):
        await ledger.renew_replica("dead", acked_epoch=1, lease_s=60)
    copy = await ledger.begin_copy("documents")
    await ledger.finish_copy(copy, touched=[KEY])
    assert await dirty(ledger) == set()
    await settle(ledger, intent)
    assert await dirty(ledger) == {KEY}, "a replica that comes back late marks its key again"


async def test_acknowledged_epochs_and_clean_exits_are_seen(ledger: Ledger) -> None:
    await ledger.renew_replica("r1", acked_epoch=7, lease_s=60)
    await ledger.release_replica("r2")
    replicas = {item.replica_id: item for item in await ledger.replicas()}
    assert replicas["r1"].alive
    assert replicas["r1"].acked_epoch == 7
    assert not replicas["r2"].alive
    assert replicas["r2"].clean_exit


async def test_a_change_wakes_who_waits(ledger: Ledger) -> None:
    epoch = (await ledger.routing()).epoch
    waiting = asyncio.create_task(ledger.wait_change(epoch, timeout_s=30))
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done(), "nothing has changed yet"
    started = time.monotonic()
    await ledger.change_routing(
        epoch,
        Routing(epoch=0, phase=Phase.DUAL_WRITE, primary="old"),
        EventDraft(kind="phase", actor="me"),
    )
    await asyncio.wait_for(waiting, timeout=10)
    await ledger.wait_change(epoch, timeout_s=30)
    assert time.monotonic() - started < 20, "who asks after the change does not wait either"


async def test_a_change_wakes_everybody_who_waits(ledger: Ledger) -> None:
    epoch = (await ledger.routing()).epoch
    started = time.monotonic()
    waiting = [asyncio.create_task(ledger.wait_change(epoch, timeout_s=30)) for _ in range(3)]
    await asyncio.wait(waiting, timeout=0.05)
    waiting.pop(0).cancel()  # nor does one that gives up take the news along
    await ledger.change_routing(
        epoch,
        Routing(epoch=0, phase=Phase.DUAL_WRITE, primary="old"),
        EventDraft(kind="phase", actor="me"),
    )
    await asyncio.wait_for(asyncio.gather(*waiting), timeout=10)
    assert time.monotonic() - started < 20, "each hears of it, not the first alone"


async def test_flags_and_events_are_kept(ledger: Ledger) -> None:
    await ledger.set_flag("full_verify_needed", True, actor="me", reason="test")
    await ledger.set_flag("last_verify", {"clean": True}, actor="me", reason="")
    assert await ledger.flags() == {"full_verify_needed": True, "last_verify": {"clean": True}}
    events = await ledger.events()
    assert [event.kind for event in events] == ["flag.full_verify_needed", "flag.last_verify"]
    assert await ledger.events(after=events[0].event_id) == events[1:]


async def test_a_job_has_one_owner_and_keeps_its_ranges(ledger: Ledger) -> None:
    job = await ledger.create_job(JobKind.BACKFILL, {"dry_run": False})
    assert job.state is JobState.REQUESTED
    ranges = [
        RangeState(job_id=0, collection="documents", number=n, keys=KeyRange(after=None, upto=KEY))
        for n in range(2)
    ]
    await ledger.add_ranges(job.job_id, ranges)
    claimed = await ledger.claim_job(job.job_id, owner="a", lease_s=60)
    assert claimed.state is JobState.RUNNING
    with pytest.raises(Rejected):
        await ledger.claim_job(job.job_id, owner="b", lease_s=60)
    copy = await ledger.begin_copy("documents")
    stored = (await ledger.ranges(job.job_id))[1]
    done = RangeState(
        job_id=job.job_id,
        collection="documents",
        number=1,
        keys=stored.keys,
        cursor=OTHER,
        done=True,
        tally={"rows": 3},
    )
    await ledger.finish_copy(copy, touched=[], progress=done)
    assert (await ledger.ranges(job.job_id))[1] == done
    asked = await ledger.want(job.job_id, JobState.PAUSED)
    assert asked.state is JobState.RUNNING
    assert asked.wanted is JobState.PAUSED
    renewed = await ledger.renew_job(job.job_id, owner="a", lease_s=60, summary={"rows": 3})
    assert renewed.wanted is JobState.PAUSED
    ended = await ledger.end_job(job.job_id, owner="a", state=JobState.PAUSED, summary={"rows": 3})
    assert ended.finished_at is None
    resumed = await ledger.want(job.job_id, JobState.RUNNING)
    assert resumed.state is JobState.REQUESTED
    again = await ledger.claim_job(job.job_id, owner="b", lease_s=60)
    assert again.summary == {"rows": 3}
    with pytest.raises(LeaseLost):
        await ledger.renew_job(job.job_id, owner="a", lease_s=60, summary={})
    assert (await ledger.jobs(kind=JobKind.BACKFILL))[0].owner == "b"
    assert await ledger.jobs(kind=JobKind.VERIFY) == []


async def test_an_ended_job_cannot_be_claimed_or_asked(ledger: Ledger) -> None:
    job = await ledger.create_job(JobKind.VERIFY, {})
    await ledger.claim_job(job.job_id, owner="a", lease_s=60)
    await ledger.end_job(job.job_id, owner="a", state=JobState.DONE, summary={})
    with pytest.raises(Rejected):
        await ledger.claim_job(job.job_id, owner="a", lease_s=60)
    with pytest.raises(Rejected):
        await ledger.want(job.job_id, JobState.PAUSED)
    with pytest.raises(Rejected):
        await ledger.job(10**9)


async def test_differences_and_dead_letters_are_kept_once_a_key(ledger: Ledger) -> None:
    job = await ledger.create_job(JobKind.VERIFY, {})
    difference = Difference(collection="documents", key=KEY, kind="missing")
    changed = Difference(
        collection="documents",
        key=KEY,
        kind="mismatched",
        fields=("content",),
        detail={"a": [1, 2]},
    )
    await ledger.add_differences(job.job_id, [difference])
    await ledger.add_differences(job.job_id, [changed])
    assert await ledger.differences(job.job_id) == [changed]
    await ledger.add_dead_letters(job.job_id, "documents", {KEY: "too long", OTHER: "NUL"})
    await ledger.add_dead_letters(job.job_id, "documents", {KEY: "still too long"})
    letters = await ledger.dead_letters()
    assert {item.key: item.reason for item in letters} == {KEY: "still too long", OTHER: "NUL"}
    assert await ledger.resolve_dead_letters("documents", [KEY], resolution="fixed") == 1
    assert [item.key for item in await ledger.dead_letters()] == [OTHER]


async def test_shadow_statistics_are_replaced_by_window(ledger: Ledger) -> None:
    await ledger.put_shadow("r1", "w1", {"queries": 1})
    await ledger.put_shadow("r1", "w1", {"queries": 2})
    await ledger.put_shadow("r2", "w1", {"queries": 5})
    assert await ledger.shadow() == [{"queries": 2}, {"queries": 5}]
    assert await ledger.shadow(since_epoch=10) == []


async def test_another_schema_version_is_refused_with_what_to_do(
    new_database: Callable[[], str],
) -> None:
    dsn = new_database()
    first = PostgresLedger(dsn, "m1")
    await first.open()
    await first.close()
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE crossfade.schema_version SET version = 99")
    second = PostgresLedger(dsn, "m1")
    with pytest.raises(Corrupt, match=r"version \[99\], this Crossfade needs"):
        await second.open()


async def test_a_ledger_that_is_not_there_is_unavailable() -> None:
    ledger = PostgresLedger("host=127.0.0.1 port=1 dbname=x connect_timeout=1", "m1")
    with pytest.raises(Unavailable, match=r"ledger\.dsn"):
        await ledger.open()


async def test_roles_are_not_swapped_while_writes_without_the_ledger_are_unverified(
    ledger: Ledger,
) -> None:
    routing = await ledger.routing()
    swap = EventDraft(kind="swap", actor="me")
    at = {"at": "2026-01-01T00:00:00+00:00"}
    await ledger.set_flag("full_verify_needed", at, actor="me", reason="")
    with pytest.raises(Rejected, match="primary alone"):
        await ledger.change_routing(routing.epoch, routing, swap, drained=True)
    await ledger.set_flag("full_verify_needed", False, actor="me", reason="")
    changed = await ledger.change_routing(routing.epoch, routing, swap, drained=True)
    assert changed.epoch == routing.epoch + 1


async def test_a_flag_is_cleared_only_if_it_is_still_the_one_that_was_seen(ledger: Ledger) -> None:
    seen, newer = {"at": "1"}, {"at": "2"}
    await ledger.set_flag("f", newer, actor="me", reason="")
    await ledger.set_flag("f", False, actor="me", reason="", only_if=seen)
    assert (await ledger.flags())["f"] == newer
    await ledger.set_flag("f", False, actor="me", reason="", only_if=newer)
    assert (await ledger.flags())["f"] is False
    assert len(await ledger.events()) == 2
