"""The ledger's contract, for every ledger: intents, overlap, copies, leases, swaps, jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from proxy.clock import SystemClock
from proxy.errors import Corrupt, LeaseLost, Reason, Rejected, StaleEpoch, Unavailable
from proxy.ledger.base import Ledger
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.types import (
    Difference,
    Intent,
    IntentDraft,
    JobKind,
    JobState,
    Phase,
    RangeState,
    Routing,
    Settlement,
)
from proxy.query import KeyRange

KEY = ("rust", "serde", "a/b")
OTHER = ("rust", "serde", 'quote"\\ \u00fc')


@pytest.fixture(params=["memory", "postgresql"])
async def ledger(
    request: pytest.FixtureRequest, new_database: Callable[[], str]
) -> AsyncIterator[Ledger]:
    made: Ledger
    if request.param == "memory":
        made = MemoryLedger(SystemClock())
    else:
        made = PostgresLedger(new_database(), "m1")
    await made.open()
    for replica in ("r1", "r2"):
        await made.register_replica(replica, address="", lease_s=60, ledger_down="refuse")
    yield made
    await made.close()


async def append(
    ledger: Ledger, replica: str, *keys: tuple[str, ...], idem: str = ""
) -> list[Intent]:
    epoch = (await ledger.routing()).epoch
    drafts = [
        IntentDraft(
            collection="documents", key=key, op="upsert", idempotency_key=idem, request_digest="d"
        )
        for key in keys
    ]
    return await ledger.append(drafts, epoch=epoch, replica_id=replica)


async def settle(ledger: Ledger, intent: Intent, *, clean: bool = True) -> None:
    await ledger.settle([Settlement(intent=intent, clean=clean, reason="" if clean else "failed")])


async def dirty(ledger: Ledger) -> set[tuple[str | int, ...]]:
    return {item.key for item in await ledger.dirty_keys("documents", limit=100)}


async def test_a_clean_write_leaves_nothing_dirty(ledger: Ledger) -> None:
    (intent,) = await append(ledger, "r1", KEY)
    assert await ledger.unsettled() == 1
    assert await ledger.fenced("documents", [KEY, OTHER]) == {KEY}
    await settle(ledger, intent)
    assert await ledger.unsettled() == 0
    assert await ledger.fenced("documents", [KEY, OTHER]) == frozenset()


async def test_an_unclean_write_leaves_its_key_dirty_and_fenced(ledger: Ledger) -> None:
    intents = await append(ledger, "r1", KEY, OTHER)
    await settle(ledger, intents[0])
    await settle(ledger, intents[1], clean=False)
    assert await ledger.dirty_counts() == {"documents": 1}
    assert await ledger.fenced("documents", [KEY, OTHER]) == {OTHER}


async def test_overlap_across_replicas_is_dirty_whoever_settles_first(ledger: Ledger) -> None:
    (first,) = await append(ledger, "r1", KEY)
    (second,) = await append(ledger, "r2", KEY)
    await settle(ledger, first)
    assert await dirty(ledger) == {KEY}
    await settle(ledger, second)
    assert await dirty(ledger) == {KEY}


async def test_an_intent_settled_before_mine_was_appended_does_not_overlap(ledger: Ledger) -> None:
    (first,) = await append(ledger, "r1", KEY)
    await settle(ledger, first)
    (second,) = await append(ledger, "r2", KEY)
    await settle(ledger, second)
    assert await dirty(ledger) == set()


async def test_settled_after_mine_was_appended_still_overlaps(ledger: Ledger) -> None:
    (first,) = await append(ledger, "r1", KEY)
    (second,) = await append(ledger, "r2", KEY)
    await settle(ledger, first)
    copy = await ledger.begin_copy("documents")
    await settle(ledger, second)
    await ledger.finish_copy(copy, touched=[KEY])
    assert await dirty(ledger) == {KEY}, "the second settle came after the snapshot"


async def test_a_lazy_settle_of_the_same_replica_is_no_overlap(ledger: Ledger) -> None:
    (first,) = await append(ledger, "r1", KEY)
    (second,) = await append(ledger, "r1", KEY)
    await ledger.settle([Settlement(intent=item, clean=True) for item in (first, second)])
    assert await dirty(ledger) == set()


async def test_step_2_and_5_of_the_copy_rule(ledger: Ledger) -> None:
    (before,) = await append(ledger, "r1", KEY)
    copy = await ledger.begin_copy("documents")
    assert copy.in_flight == {KEY}
    (after,) = await append(ledger, "r1", OTHER)
    await settle(ledger, before)
    await settle(ledger, after)
    third = ("rust", "serde", "c")
    outcome = await ledger.finish_copy(copy, touched=[OTHER, third], left_out=[KEY])
    assert outcome.dirty == {OTHER, KEY}
    assert await dirty(ledger) == {OTHER, KEY}


async def test_a_copy_clears_only_the_marks_its_snapshot_saw(ledger: Ledger) -> None:
    await ledger.mark_dirty("documents", [KEY, OTHER], reason="test")
    copy = await ledger.begin_copy("documents")
    await ledger.mark_dirty("documents", [OTHER], reason="again")
    outcome = await ledger.finish_copy(copy, touched=[KEY, OTHER])
    assert outcome.cleared == 1
    assert await dirty(ledger) == {OTHER}


async def test_a_key_is_copied_by_one_copy_at_a_time(ledger: Ledger) -> None:
    third = ("rust", "serde", "c")
    await ledger.mark_dirty("documents", [KEY, OTHER], reason="test")
    first = await ledger.begin_copy("documents", keys=[KEY, third, KEY])
    assert first.claimed == {KEY}, "a key that is not dirty is not claimed"
    second = await ledger.begin_copy("documents", keys=[KEY, OTHER])
    assert second.claimed == {OTHER}
    assert second.in_flight == {KEY}
    assert (await ledger.begin_copy("sources", keys=[KEY])).in_flight == set()
    await ledger.finish_copy(first, touched=[KEY])
    assert (await ledger.begin_copy("documents")).in_flight == {OTHER}
    await ledger.abandon_copy(second)
    assert (await ledger.begin_copy("documents", keys=[OTHER])).claimed == {OTHER}


async def test_a_claim_of_a_clean_key_holds_nobody_up(ledger: Ledger) -> None:
    await ledger.mark_dirty("documents", [OTHER], reason="test")
    mine = await ledger.begin_copy("documents", keys=[KEY, OTHER])  # and its answer is lost
    assert mine.claimed == {OTHER}
    seen = await ledger.begin_copy("documents", copying=False)
    assert seen.in_flight == {OTHER}, "verify would take a clean key for one in flight"


async def test_keys_of_a_copy_that_was_given_up_are_dirty_and_stay_claimed_for_a_while(
    ledger: Ledger,
) -> None:
    await ledger.mark_dirty("documents", [KEY], reason="test")
    copy = await ledger.begin_copy("documents", keys=[KEY])
    await ledger.abandon_copy(copy, written=[KEY, OTHER], late_s=0.2)
    assert await dirty(ledger) == {KEY, OTHER}
    assert (await ledger.begin_copy("documents", keys=[KEY])).in_flight == {KEY, OTHER}
    async with asyncio.timeout(10):
        while not (again := await ledger.begin_copy("documents", keys=[KEY, OTHER])).claimed:
            await ledger.abandon_copy(again)
            await asyncio.sleep(0.02)
    assert again.claimed == {KEY, OTHER}


async def test_a_finished_snapshot_cannot_be_finished_again(ledger: Ledger) -> None:
    copy = await ledger.begin_copy("documents")
    await ledger.finish_copy(copy, touched=[])
    with pytest.raises(Unavailable):
        await ledger.finish_copy(copy, touched=[KEY])
    assert await dirty(ledger) == {KEY}


async def test_settled_since_sees_newer_and_unsettled_intents(ledger: Ledger) -> None:
    (open_one,) = await append(ledger, "r1", KEY)
    copy = await ledger.begin_copy("documents", copying=False)
    (newer,) = await append(ledger, "r1", OTHER)
    await settle(ledger, newer)
    third = ("rust", "serde", "c")
    assert await ledger.settled_since(copy, [KEY, OTHER, third]) == {KEY, OTHER}
    await settle(ledger, open_one)
    await ledger.abandon_copy(copy)


async def test_nothing_is_appended_under_an_epoch_that_has_ended(ledger: Ledger) -> None:
    routing = await ledger.routing()
    await ledger.change_routing(
        routing.epoch,
        Routing(epoch=0, phase=Phase.DUAL_WRITE, primary="old"),
        kind="phase",
        actor="me",
        reason="",
        detail={},
    )
    with pytest.raises(StaleEpoch):
        await ledger.append(
            [IntentDraft(collection="documents", key=KEY, op="upsert")],
            epoch=routing.epoch,
            replica_id="r1",
        )
    with pytest.raises(StaleEpoch):
        await ledger.change_routing(
            routing.epoch, routing, kind="phase", actor="me", reason="", detail={}
        )


async def test_held_writes_are_not_appended(ledger: Ledger) -> None:
    held = await ledger.change_routing(
        (await ledger.routing()).epoch,
        Routing(epoch=0, phase=Phase.RAMP, primary="old", percent=50.0, hold=True),
        kind="hold",
        actor="me",
        reason="",
        detail={"why": "test"},
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
            epoch, target, kind="swap", actor="me", reason="", detail={}, drained=True
        )
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    assert (await ledger.routing()).primary == "old"


async def test_a_watermark_of_a_reader_does_not_hold_up_a_swap(ledger: Ledger) -> None:
    await ledger.begin_copy("documents", copying=False)
    epoch = (await ledger.routing()).epoch
    target = Routing(epoch=0, phase=Phase.NEW_PRIMARY, primary="new")
    swapped = await ledger.change_routing(
        epoch, target, kind="swap", actor="me", reason="", detail={}, drained=True, note="swap"
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


async def test_an_idempotency_key_answers_from_the_record(ledger: Ledger) -> None:
    (intent,) = await append(ledger, "r1", KEY, idem="k1")
    assert intent.earlier is None
    with pytest.raises(Unavailable):
        await append(ledger, "r2", KEY, idem="k1")
    await ledger.settle([Settlement(intent=intent, clean=True, answer={"ok": True})])
    (again,) = await append(ledger, "r2", KEY, idem="k1")
    assert again.seq == 0
    assert again.earlier == {"ok": True}
    assert await ledger.recall("k1") == KEY
    assert await ledger.recall("unknown") is None
    assert await ledger.answered("k1", "d") == {"ok": True}
    assert await ledger.answered("unknown", "d") is None
    with pytest.raises(Rejected):
        await ledger.answered("k1", "other")


async def test_an_unanswered_idempotency_key_resumes(ledger: Ledger) -> None:
    (intent,) = await append(ledger, "r1", KEY, idem="k1")
    await settle(ledger, intent, clean=False)
    (again,) = await append(ledger, "r2", KEY, idem="k1")
    assert again.seq > 0
    assert again.resumed


async def test_an_idempotency_key_whose_try_did_nothing_is_forgotten(ledger: Ledger) -> None:
    (intent,) = await append(ledger, "r1", KEY, idem="k1")
    (other,) = await append(ledger, "r1", KEY, idem="k2")
    await ledger.settle(
        [
            Settlement(intent=intent, clean=True, forget=True),
            Settlement(intent=other, clean=True, answer={"existed": True}),
        ]
    )
    assert await ledger.recall("k1") is None
    (again,) = await append(ledger, "r2", KEY, idem="k1")
    assert not again.resumed
    (kept,) = await append(ledger, "r2", KEY, idem="k2")
    assert kept.earlier == {"existed": True}


async def test_an_idempotency_key_is_not_forgotten_once_its_intent_was_taken_over(
    ledger: Ledger,
) -> None:
    (intent,) = await append(ledger, "r1", KEY, idem="k1")
    await settle(ledger, intent)
    (again,) = await append(ledger, "r2", KEY, idem="k1")
    await ledger.settle([Settlement(intent=intent, clean=True, forget=True)])
    assert again.resumed
    assert await ledger.recall("k1") == KEY


async def test_an_idempotency_key_is_busy_for_a_second_draft_of_one_append(
    ledger: Ledger,
) -> None:
    with pytest.raises(Unavailable):
        await append(ledger, "r1", KEY, OTHER, idem="k1")
    assert await ledger.unsettled() == 0
    assert await ledger.recall("k1") is None
    (first,) = await append(ledger, "r1", KEY, idem="k1")
    assert not first.resumed


async def test_an_idempotency_key_never_resumes_under_another_key(ledger: Ledger) -> None:
    (intent,) = await append(ledger, "r1", KEY, idem="k1")
    await settle(ledger, intent, clean=False)
    with pytest.raises(Unavailable):
        await append(ledger, "r2", OTHER, idem="k1")
    assert await ledger.recall("k1") == KEY
    (again,) = await append(ledger, "r2", KEY, idem="k1")
    assert again.resumed


async def test_an_idempotency_key_of_another_request_is_refused(ledger: Ledger) -> None:
    await append(ledger, "r1", KEY, idem="k1")
    draft = IntentDraft(
        collection="documents", key=KEY, op="upsert", idempotency_key="k1", request_digest="other"
    )
    with pytest.raises(Rejected):
        await ledger.append([draft], epoch=(await ledger.routing()).epoch, replica_id="r1")


async def test_pruning_forgets_only_what_nobody_can_need(ledger: Ledger) -> None:
    (first,) = await append(ledger, "r1", KEY)
    (second,) = await append(ledger, "r2", KEY)
    await settle(ledger, first)
    assert await ledger.prune() == 0, "the second still has to see that the first overlapped"
    await settle(ledger, second)
    copy = await ledger.begin_copy("documents")
    (third,) = await append(ledger, "r1", OTHER)
    await settle(ledger, third)
    await ledger.prune()
    outcome = await ledger.finish_copy(copy, touched=[OTHER])
    assert outcome.dirty == {OTHER}, "an open snapshot keeps later intents"
    assert await ledger.prune() >= 1


async def test_a_change_wakes_who_waits(ledger: Ledger) -> None:
    epoch = (await ledger.routing()).epoch
    waiting = asyncio.create_task(ledger.wait_change(epoch, timeout_s=30))
    await asyncio.wait({waiting}, timeout=0.05)
    await ledger.change_routing(
        epoch,
        Routing(epoch=0, phase=Phase.DUAL_WRITE, primary="old"),
        kind="phase",
        actor="me",
        reason="",
        detail={},
    )
    await asyncio.wait_for(waiting, timeout=10)
    await ledger.wait_change(epoch, timeout_s=30)


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
    options: dict[str, Any] = {"kind": "swap", "actor": "me", "reason": "", "detail": {}}
    at = {"at": "2026-01-01T00:00:00+00:00"}
    await ledger.set_flag("full_verify_needed", at, actor="me", reason="")
    with pytest.raises(Rejected, match="primary alone"):
        await ledger.change_routing(routing.epoch, routing, drained=True, **options)
    await ledger.set_flag("full_verify_needed", False, actor="me", reason="")
    changed = await ledger.change_routing(routing.epoch, routing, drained=True, **options)
    assert changed.epoch == routing.epoch + 1


async def test_a_flag_is_cleared_only_if_it_is_still_the_one_that_was_seen(ledger: Ledger) -> None:
    seen, newer = {"at": "1"}, {"at": "2"}
    await ledger.set_flag("f", newer, actor="me", reason="")
    await ledger.set_flag("f", False, actor="me", reason="", only_if=seen)
    assert (await ledger.flags())["f"] == newer
    await ledger.set_flag("f", False, actor="me", reason="", only_if=newer)
    assert (await ledger.flags())["f"] is False
    assert len(await ledger.events()) == 2
