"""Falling back, and reading beside a swap, never shows a client less than was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace as changed

import pytest

from proxy.errors import Unavailable
from proxy.ledger.types import EventDraft, Phase
from proxy.model import Key, Write, WriteOp
from proxy.query import (
    And,
    Compare,
    CompareOp,
    CountQuery,
    Filter,
    Like,
    ListQuery,
    Not,
    Or,
    Projection,
    SearchQuery,
)
from tests.doc_server import vector
from tests.rig import Rig, context, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")
DOWN = Unavailable("gone", where="store")
SEARCH = SearchQuery(collection="documents", vector=vector(1))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with replica() as made:
        await made.go(Phase.DUAL_WRITE)
        await with_source(made)
        await made.plane.write(upsert(KEY, "first"), context())
        await made.settle.flush()
        yield made


async def content(rig: Rig) -> object:
    got = await rig.plane.get("documents", [KEY], Projection(), context())
    (record,) = got.records
    return None if record is None else record.fields["content"]


async def behind(rig: Rig, side: str, text: str) -> None:
    """Let one store miss a write that is acknowledged."""
    rig.stores[side].fail_apply = DOWN
    assert (await rig.plane.write(upsert(KEY, text), context())).secondary_pending
    rig.stores[side].fail_apply = None


async def test_a_dirty_key_is_not_read_from_the_secondary_when_the_chosen_primary_fails(
    rig: Rig,
) -> None:
    await rig.go(Phase.RAMP, percent=0)
    await behind(rig, "new", "second")
    rig.stores["old"].fail_reads = DOWN
    with pytest.raises(Unavailable):
        await content(rig)


async def test_a_clean_key_is_read_from_the_secondary_when_the_chosen_primary_fails(
    rig: Rig,
) -> None:
    await rig.go(Phase.RAMP, percent=0)
    rig.stores["old"].fail_reads = DOWN
    assert await content(rig) == "first"


async def test_a_collection_with_too_many_dirty_keys_does_not_fall_back(rig: Rig) -> None:
    await rig.go(Phase.RAMP, percent=0)
    rig.dirt.count = 11
    rig.stores["old"].fail_reads = DOWN
    side = rig.reader._parts.sides["old"]
    for _ in range(5):
        side.breaker.failed()
    with pytest.raises(Unavailable, match="keeps failing"):
        await rig.plane.search(SEARCH, context())
    rig.dirt.count = 0
    assert (await rig.plane.search(SEARCH, context())).served.reason == "fallback"


@pytest.mark.parametrize(("phase", "primary"), [(Phase.NEW_PRIMARY, "new"), (Phase.RAMP, "old")])
async def test_a_replica_that_lags_behind_a_swap_reads_what_was_written_after_it(
    rig: Rig, phase: Phase, primary: str
) -> None:
    before = "old" if primary == "new" else "new"
    source_phase = Phase.RAMP if primary == "new" else Phase.NEW_PRIMARY
    await rig.go(source_phase, primary=before, percent=100)
    async with replica(rig.ledger, rig.stores) as late:
        late.chooser.new = True
        routing = await rig.ledger.routing()
        held = await rig.ledger.change_routing(
            routing.epoch, changed(routing, hold=True), EventDraft(kind="hold", actor="test")
        )
        await rig.acknowledged(held.epoch)
        await late_stops_following(late)
        swapped = changed(routing, phase=phase, primary=primary, hold=False)
        await rig.ledger.change_routing(
            held.epoch, swapped, EventDraft(kind="swap", actor="test"), drained=True
        )
        while rig.member.current.hold:
            await asyncio.sleep(0)
        await behind(rig, before, "after the swap")
        assert late.member.current.hold, "it does not know yet"
        assert await content(late) == "after the swap"


async def test_a_replica_that_slept_past_its_lease_asks_before_it_reads(rig: Rig) -> None:
    async with replica(rig.ledger, rig.stores, lease_s=0.2) as sleeper:
        sleeper.following.cancel()
        await asyncio.wait({sleeper.following})
        routing = await rig.ledger.routing()
        while sleeper.member.lease_left_s() > 0:
            await asyncio.sleep(0.01)
        await rig.go(Phase.NEW_ONLY, primary="new", percent=100)
        await rig.plane.write(upsert(KEY, "on the new store alone"), context())
        assert sleeper.member.current.phase is routing.phase, "it does not know yet"
        assert await content(sleeper) == "on the new store alone"


async def late_stops_following(rig: Rig) -> None:
    """End the replica's own chore; it learns of a new routing only if it asks."""
    while not rig.member.current.hold:
        await asyncio.sleep(0)
    rig.following.cancel()
    await asyncio.wait({rig.following})


async def test_a_clients_own_short_deadline_does_not_open_the_breaker(rig: Rig) -> None:
    side = rig.reader._parts.sides["old"]
    rig.stores["old"].fail_reads = DOWN
    for _ in range(20):
        with pytest.raises(Unavailable):
            await rig.plane.get("documents", [KEY], Projection(), context(deadline_s=1e-9))
    assert side.breaker.state == "closed"
    for _ in range(20):
        with pytest.raises(Unavailable):
            await content(rig)
    assert side.breaker.state == "open"


BIRD: Key = ("birdeye", "docs", "a")
RUST = Compare(field="doc_type", op=CompareOp.EQ, value="rust")
CONTENT = Like(field="content", pattern="%")


@pytest.fixture
async def without_new(rig: Rig) -> Rig:
    """The new store is primary, holds what the old one cannot, and fails."""
    await rig.stores["new"].apply(
        [
            Write(op=WriteOp.UPSERT, collection="sources", key=BIRD[:2], fields={}),
            Write(op=WriteOp.UPSERT, collection="documents", key=BIRD, fields={"content": "x"}),
        ],
        atomic=True,
        deadline_s=5,
    )
    await rig.go(Phase.NEW_PRIMARY, primary="new", percent=100)
    rig.chooser.new = True
    rig.stores["new"].fail_reads = DOWN
    return rig


@pytest.mark.parametrize("keys", [[BIRD], [KEY, BIRD]])
async def test_a_record_that_the_other_store_cannot_hold_is_not_missing_but_unavailable(
    without_new: Rig, keys: list[Key]
) -> None:
    with pytest.raises(Unavailable, match="gone"):
        await without_new.plane.get("documents", keys, Projection(), context())
    assert await content(without_new) == "first", "its own key falls back"


async def test_a_named_field_that_the_other_store_lacks_is_not_absent_but_unavailable(
    without_new: Rig,
) -> None:
    mask = Projection(fields=("content", "metadata"))
    with pytest.raises(Unavailable, match="gone"):
        await without_new.plane.get("documents", [KEY], mask, context())
    mask = Projection(fields=("content",))
    got = await without_new.plane.get("documents", [KEY], mask, context())
    assert (got.served.store, got.served.reason) == ("old", "fallback")


@pytest.mark.parametrize(
    "filter",
    [
        None,
        CONTENT,
        Or(parts=(RUST, CONTENT)),
        Not(part=RUST),
        Compare(field="doc_type", op=CompareOp.EQ, value="birdeye"),
    ],
)
async def test_a_list_a_count_and_a_search_never_omit_what_the_other_store_cannot_hold(
    without_new: Rig, filter: Filter | None
) -> None:
    plane = without_new.plane
    with pytest.raises(Unavailable, match="gone"):
        await plane.list_records(ListQuery(collection="documents", filter=filter), context())
    with pytest.raises(Unavailable, match="gone"):
        await plane.count(CountQuery(collection="documents", filter=filter), context())
    with pytest.raises(Unavailable, match="gone"):
        await plane.search(changed(SEARCH, filter=filter), context())


@pytest.mark.parametrize("filter", [RUST, And(parts=(CONTENT, And(parts=(RUST,))))])
async def test_a_query_for_what_the_other_store_can_hold_falls_back(
    without_new: Rig, filter: Filter
) -> None:
    plane = without_new.plane
    listed = await plane.list_records(ListQuery(collection="documents", filter=filter), context())
    assert [record.key for record in listed.records] == [KEY]
    counted = await plane.count(CountQuery(collection="documents", filter=filter), context())
    found = await plane.search(changed(SEARCH, filter=filter), context())
    assert {item.served.reason for item in (listed, counted, found)} == {"fallback"}
    grouped = CountQuery(collection="sources", filter=RUST, group_by="enabled")
    with pytest.raises(Unavailable, match="gone"):
        await plane.count(grouped, context())
