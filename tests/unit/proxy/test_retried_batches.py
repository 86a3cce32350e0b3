"""An atomic batch whose first try may have been applied, sent again with its idempotency key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from proxy.errors import Ambiguous, Reason, Rejected, Unavailable
from proxy.model import JsonValue, Key, Write, WriteOp
from proxy.query import SearchMode
from proxy.stores.base import Capabilities
from tests.rig import Rig, context, upsert

A: Key = ("rust", "serde", "a")
B: Key = ("rust", "serde", "b")
C: Key = ("rust", "serde", "c")
LOST = Ambiguous("applied, but the answer was lost", where="old")


def insert(key: Key, content: str = "mine") -> Write:
    return Write(op=WriteOp.INSERT, collection="documents", key=key, fields={"content": content})


def delete(key: Key) -> Write:
    return Write(op=WriteOp.DELETE, collection="documents", key=key)


async def first_try(rig: Rig, batch: Sequence[Write], *, applied: bool = True) -> None:
    """Send a batch whose answer is lost."""
    old = rig.stores["old"]
    if applied:
        await old.apply(batch, atomic=True, deadline_s=5)
    old.fail_apply = LOST
    with pytest.raises(Ambiguous):
        await rig.plane.batch(batch, atomic=True, context=context("k"))
    await rig.settled()
    old.fail_apply = None
    old.applied.clear()


async def contents(rig: Rig, *keys: Key) -> list[object]:
    """Return the content of records on the old store, None for those that are not there."""
    records = [await rig.stored("old", key) for key in keys]
    return [record and record.fields["content"] for record in records]


async def test_a_retry_of_inserts_that_were_applied_succeeds_at_once(rig: Rig) -> None:
    batch = [insert(A), insert(B), insert(C)]
    await first_try(rig, batch)
    items = await rig.plane.batch(batch, atomic=True, context=context("k"))
    assert [item.ack.key for item in items if item.ack is not None] == [A, B, C]
    await rig.settled()
    again = await rig.plane.batch(batch, atomic=True, context=context("k"))
    assert all(item.ack is not None and item.ack.replayed for item in again)


async def test_a_retry_finds_all_its_own_records_with_one_look(rig: Rig) -> None:
    keys: list[Key] = [("rust", "serde", f"page/{number}") for number in range(100)]
    batch = [insert(key) for key in keys]
    await first_try(rig, batch)
    await rig.plane.batch(batch, atomic=True, context=context("k"))
    assert len(rig.stores["old"].applied) <= len(batch), "the batch was sent once"


async def test_a_retry_writes_what_is_not_there_and_leaves_alone_what_is(rig: Rig) -> None:
    batch = [insert(A), upsert(B, "mine"), insert(C)]
    await first_try(rig, batch)
    await rig.plane.write(delete(C), context())
    items = await rig.plane.batch(batch, atomic=True, context=context("k"))
    assert all(item.ack is not None for item in items)
    assert await contents(rig, A, B, C) == ["mine", "mine", "mine"]


async def test_a_retry_that_meets_the_record_of_another_writes_nothing(rig: Rig) -> None:
    batch = [insert(A), insert(B), insert(C)]
    await first_try(rig, batch, applied=False)
    await rig.plane.write(upsert(B, "another's"), context())
    with pytest.raises(Rejected) as caught:
        await rig.plane.batch(batch, atomic=True, context=context("k"))
    assert caught.value.reason is Reason.ALREADY_EXISTS
    assert await contents(rig, A, B, C) == [None, "another's", None]


@pytest.mark.parametrize("order", ["first", "last"])
async def test_a_retry_makes_again_what_it_deletes_itself(rig: Rig, order: str) -> None:
    await rig.plane.write(upsert(A, "before"), context())
    anew = [delete(A), insert(A)]
    batch = [*anew, insert(B)] if order == "first" else [insert(B), *anew]
    await first_try(rig, batch)
    items = await rig.plane.batch(batch, atomic=True, context=context("k"))
    assert all(item.ack is not None for item in items)
    assert await contents(rig, A, B) == ["mine", "mine"]


async def test_a_retry_whose_records_cannot_be_read_says_neither_yes_nor_no(rig: Rig) -> None:
    batch = [insert(A), insert(B)]
    await first_try(rig, batch)
    rig.stores["old"].fail_reads = Unavailable("gone", where="old")
    with pytest.raises(Unavailable, match="whose it is"):
        await rig.plane.batch(batch, atomic=True, context=context("k"))


async def test_a_batch_that_cannot_be_whole_is_refused_for_one_question_to_the_ledger(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Capabilities(transactions=False, search_modes=frozenset({SearchMode.VECTOR}))
    monkeypatch.setattr(rig.stores["old"], "capabilities", plain, raising=False)
    asked: list[str] = []
    real = rig.ledger.answered

    async def answered(idem: str, digest: str) -> Mapping[str, JsonValue] | None:
        asked.append(idem)
        return await real(idem, digest)

    monkeypatch.setattr(rig.ledger, "answered", answered)
    with pytest.raises(Rejected, match="no transactions"):
        await rig.plane.batch([upsert(A), upsert(B)], atomic=True, context=context("k"))
    assert asked == ["k#0"]
