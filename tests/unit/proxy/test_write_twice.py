"""A key that comes twice in a batch: each write of it ends, and is answered, on its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxy.config.settings import WriteSettings
from proxy.errors import Ambiguous, Reason, Rejected
from proxy.ledger.types import Phase
from proxy.model import Applied, Key, Write, WriteOp, WriteResult
from tests.rig import Rig, context, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")


def insert(content: str) -> Write:
    return Write(op=WriteOp.INSERT, collection="documents", key=KEY, fields={"content": content})


async def test_a_key_stays_fenced_while_one_of_its_writes_may_still_land() -> None:
    async with replica(writes=WriteSettings(late_write_s=60.0)) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await with_source(rig)
        patch = Write(
            op=WriteOp.PATCH,
            collection="documents",
            key=KEY,
            fields={"content": "x"},
            set_vector=False,
        )
        rig.stores["new"].fail_apply = Ambiguous("lost", where="new")
        # The patch finds nothing, so that nothing of it is due on the secondary.
        items = await rig.plane.batch([patch, upsert(KEY)], atomic=False, context=context())
        assert items[1].ack is not None
        assert items[1].ack.secondary_pending
        await rig.writer.drain(timeout_s=5)
        await rig.settle.flush()
        assert await rig.ledger.fenced("documents", [KEY]) == {KEY}
        # The replica is killed now: nobody but the sweep knows of the write.
        await rig.ledger.release_replica(rig.member.replica_id)
        await rig.ledger.sweep()
        marked = await rig.ledger.dirty_keys("documents", limit=10)
        assert [item.key for item in marked] == [KEY]


async def test_a_retry_repeats_what_was_done_and_refuses_again_what_was_refused(rig: Rig) -> None:
    for _ in range(2):
        items = await rig.plane.batch(
            [insert("first"), insert("second")], atomic=False, context=context("k")
        )
        assert items[0].ack is not None
        assert isinstance(items[1].error, Rejected)
        assert items[1].error.reason is Reason.ALREADY_EXISTS
        await rig.settled()
    assert await rig.dirty() == set()


async def test_a_retry_repeats_the_answer_of_each_write(rig: Rig) -> None:
    await rig.plane.write(upsert(KEY, "before"), context())
    delete = Write(op=WriteOp.DELETE, collection="documents", key=KEY)
    for replayed in (False, True):
        items = await rig.plane.batch([delete, insert("a")], atomic=False, context=context("k"))
        acks = [item.ack for item in items if item.ack is not None]
        assert [ack.existed for ack in acks] == [True, False]
        assert [ack.replayed for ack in acks] == [replayed, replayed]
        await rig.settled()


async def test_a_retry_does_what_was_not_done_and_only_that(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = rig.stores["old"]
    real = old.apply

    async def refuse_the_second(
        writes: Sequence[Write], *, atomic: bool, deadline_s: float
    ) -> list[WriteResult]:
        done = await real(writes[:1], atomic=atomic, deadline_s=deadline_s)
        return [*done, WriteResult(applied=Applied.REFUSED, detail="not today")]

    batch = [upsert(KEY, "first"), upsert(KEY, "second")]
    with monkeypatch.context() as patched:
        patched.setattr(old, "apply", refuse_the_second)
        items = await rig.plane.batch(batch, atomic=False, context=context("k"))
    assert items[0].ack is not None
    assert isinstance(items[1].error, Rejected)
    await rig.settled()
    old.applied.clear()
    items = await rig.plane.batch(batch, atomic=False, context=context("k"))
    assert all(item.ack is not None for item in items)
    assert [write.fields["content"] for write in old.applied] == ["second"]
    stored = await rig.stored("old", KEY)
    assert stored is not None
    assert stored.fields["content"] == "second"
