"""The ledger's contract for writes and copies: intents, overlap, marks, idempotency keys."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import Rejected, Unavailable
from proxy.ledger.base import Ledger
from proxy.ledger.types import (
    IntentDraft,
    Settlement,
)
from tests.contract.ledgers import KEY, OTHER, append, dirty, settle


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


async def test_a_key_written_twice_by_one_append_is_fenced_until_both_are_settled(
    ledger: Ledger,
) -> None:
    first, second = await append(ledger, "r1", KEY, KEY)
    assert first.seq != second.seq
    await settle(ledger, first)
    assert await ledger.fenced("documents", [KEY]) == {KEY}
    await ledger.release_replica("r1")
    assert await ledger.sweep() == 1
    assert await dirty(ledger) == {KEY}


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


async def test_a_snapshot_that_is_gone_vouches_for_no_key(ledger: Ledger) -> None:
    copy = await ledger.begin_copy("documents", copying=False)
    (newer,) = await append(ledger, "r1", KEY)
    await settle(ledger, newer)
    await ledger.abandon_copy(copy)  # as others do to those that expired some time ago
    await ledger.prune()
    assert await ledger.settled_since(copy, [KEY, OTHER]) == {KEY, OTHER}


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


async def test_a_try_that_did_nothing_and_ends_late_spares_the_answer_of_the_next(
    ledger: Ledger,
) -> None:
    (first,) = await append(ledger, "r1", KEY, idem="k1")
    await ledger.release_replica("r1")
    await ledger.sweep()
    (second,) = await append(ledger, "r2", KEY, idem="k1")
    assert second.resumed
    await ledger.settle([Settlement(intent=second, clean=True, answer={"existed": True})])
    # r1 was not dead, only cut off: now it tells that its write was refused.
    await ledger.settle([Settlement(intent=first, clean=True, forget=True)])
    assert await ledger.answered("k1", "d") == {"existed": True}


@pytest.mark.parametrize("repeated", ["before", "after"])
async def test_a_settle_that_is_repeated_forgets_nothing_of_the_next_try(
    ledger: Ledger, repeated: str
) -> None:
    (first,) = await append(ledger, "r1", KEY, idem="k1")
    nothing = Settlement(intent=first, clean=True, forget=True)
    await ledger.settle([nothing])  # and its answer is lost
    assert await ledger.recall("k1") is None
    (second,) = await append(ledger, "r1", KEY, idem="k1")
    assert not second.resumed
    done = Settlement(intent=second, clean=True, answer={"existed": True})
    await ledger.settle([nothing, done] if repeated == "before" else [done, nothing])
    assert await ledger.answered("k1", "d") == {"existed": True}


async def test_an_answer_that_is_told_is_kept_whatever_else_is_told_with_it(
    ledger: Ledger,
) -> None:
    (intent,) = await append(ledger, "r1", KEY, idem="k1")
    done = Settlement(intent=intent, clean=True, answer={"existed": True})
    await ledger.settle([done, Settlement(intent=intent, clean=True, forget=True)])
    assert await ledger.answered("k1", "d") == {"existed": True}


async def test_an_idempotency_key_is_busy_for_a_second_draft_of_one_append(
    ledger: Ledger,
) -> None:
    with pytest.raises(Unavailable):
        await append(ledger, "r1", KEY, OTHER, idem="k1")
    assert await ledger.unsettled() == 0
    assert await ledger.recall("k1") is None
    (first,) = await append(ledger, "r1", KEY, idem="k1")
    assert not first.resumed


async def test_two_writes_of_one_key_are_answered_each_under_its_idempotency_key(
    ledger: Ledger,
) -> None:
    epoch = (await ledger.routing()).epoch
    drafts = [
        IntentDraft(
            collection="documents", key=KEY, op="insert", idempotency_key=idem, request_digest=idem
        )
        for idem in ("k1", "k2")
    ]
    first, second = await ledger.append(drafts, epoch=epoch, replica_id="r1")
    assert (first.idempotency_key, second.idempotency_key) == ("k1", "k2")
    done = Settlement(intent=first, clean=True, answer={"existed": False})
    await ledger.settle([done, Settlement(intent=second, clean=True, forget=True)])
    again, anew = await ledger.append(drafts, epoch=epoch, replica_id="r1")
    assert again.earlier == {"existed": False}
    assert anew.earlier is None
    assert anew.seq > 0
    assert not anew.resumed


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
