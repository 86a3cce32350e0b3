"""The read path keeps rules R1 to R4."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.errors import Reason, Rejected, Unavailable
from proxy.ledger.types import Phase
from proxy.model import Key, Record, Value, Write, WriteOp
from proxy.query import (
    Compare,
    CompareOp,
    CountQuery,
    JsonEquals,
    ListQuery,
    Order,
    Projection,
    SearchQuery,
)
from tests.doc_server import vector
from tests.rig import Rig, context, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")
OTHER: Key = ("rust", "serde", "b")
BIRD: Key = ("birdeye", "docs", "a")
DOWN = Unavailable("gone", where="store")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with replica() as made:
        await made.go(Phase.DUAL_WRITE)
        await with_source(made)
        for key in (KEY, OTHER):
            await made.plane.write(upsert(key, "first"), context())
        await made.settle.flush()
        yield made


async def read(rig: Rig, *keys: Key) -> tuple[list[str | None], str, str]:
    got = await rig.plane.get("documents", keys, Projection(), context())
    contents = [None if item is None else str(item.fields["content"]) for item in got.records]
    return contents, got.served.store, got.served.reason


async def behind(rig: Rig, key: Key, content: str) -> None:
    """Let the secondary miss a write."""
    rig.stores["new"].fail_apply = DOWN
    await rig.plane.write(upsert(key, content), context())
    rig.stores["new"].fail_apply = None


@pytest.mark.parametrize("phase", [Phase.DUAL_WRITE, Phase.SHADOW])
async def test_before_the_ramp_the_primary_answers_whatever_the_flag_says(
    rig: Rig, phase: Phase
) -> None:
    await rig.go(phase)
    rig.chooser.new = True
    assert (await read(rig, KEY))[1] == "old"


@pytest.mark.parametrize("new", [True, False])
async def test_in_the_ramp_the_flag_decides(rig: Rig, new: bool) -> None:
    await rig.go(Phase.RAMP, percent=50)
    rig.chooser.new = new
    assert await read(rig, KEY) == (["first"], "new" if new else "old", "routed")


async def test_a_dirty_key_is_read_from_the_primary_and_only_that_key(rig: Rig) -> None:
    await rig.go(Phase.RAMP, percent=100)
    rig.chooser.new = True
    await behind(rig, KEY, "second")
    assert await read(rig, KEY) == (["second"], "old", "fenced"), "not even settled yet"
    await rig.settle.flush()
    assert await read(rig, KEY) == (["second"], "old", "fenced")
    assert (await read(rig, OTHER))[1] == "new"
    assert (await read(rig, OTHER, KEY))[0] == ["first", "second"]


async def test_a_write_through_one_replica_is_read_through_another(rig: Rig) -> None:
    await rig.go(Phase.RAMP, percent=100)
    async with replica(rig.ledger, rig.stores) as other:
        other.chooser.new = True
        await behind(rig, KEY, "second")
        assert (await read(other, KEY))[0] == ["second"]


async def test_a_fenced_key_is_never_read_from_the_secondary_even_if_the_primary_is_down(
    rig: Rig,
) -> None:
    await rig.go(Phase.RAMP, percent=100)
    rig.chooser.new = True
    await behind(rig, KEY, "second")
    rig.stores["old"].fail_reads = DOWN
    with pytest.raises(Unavailable):
        await read(rig, KEY)


async def test_the_other_store_answers_when_the_chosen_one_fails(rig: Rig) -> None:
    await rig.go(Phase.RAMP, percent=100)
    rig.chooser.new = True
    rig.stores["new"].fail_reads = DOWN
    assert await read(rig, KEY) == (["first"], "old", "fallback")


async def test_before_the_ramp_there_is_no_falling_back(rig: Rig) -> None:
    rig.stores["old"].fail_reads = DOWN
    with pytest.raises(Unavailable):
        await read(rig, KEY)


async def test_a_collection_with_too_many_dirty_keys_is_served_by_the_primary(rig: Rig) -> None:
    await rig.go(Phase.RAMP, percent=100)
    rig.chooser.new = True
    query = SearchQuery(collection="documents", vector=vector(1))
    assert (await rig.plane.search(query, context())).served.store == "new"
    rig.dirt.count = 11
    assert (await rig.plane.search(query, context())).served.store == "old"


async def test_a_field_of_one_store_only_is_read_there_or_refused_by_name(rig: Rig) -> None:
    wanted = JsonEquals(field="metadata", path=("format",), value="md")
    query = ListQuery(collection="documents", filter=wanted)
    with pytest.raises(Rejected, match="metadata") as caught:
        await rig.plane.list_records(query, context())
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    await rig.go(Phase.RAMP, percent=0)
    assert (await rig.plane.list_records(query, context())).served.store == "new"


async def test_pages_follow_each_other_without_gap_or_repeat(rig: Rig) -> None:
    for n in range(7):
        await rig.plane.write(upsert(("rust", "serde", f"n{n}"), token_count=n % 3), context())
    seen: list[Key] = []
    query = ListQuery(
        collection="documents", order=(Order(field="token_count", descending=True),), limit=2
    )
    while True:
        page = await rig.plane.list_records(query, context())
        seen.extend(record.key for record in page.records)
        if page.next_after is None:
            break
        query = ListQuery(collection="documents", order=query.order, limit=2, after=page.next_after)
    assert len(seen) == len(set(seen)) == 9


@pytest.mark.parametrize("descending", [True, False])
async def test_a_mask_without_the_sort_field_does_not_end_the_pages_early(
    rig: Rig, descending: bool
) -> None:
    for n in range(7):
        await rig.plane.write(upsert(("rust", "serde", f"n{n}"), token_count=n % 3), context())
    query = ListQuery(
        collection="documents",
        order=(Order(field="token_count", descending=descending),),
        limit=2,
        projection=Projection(fields=("content",)),
    )
    seen: list[Record] = []
    after: tuple[Value, ...] | None = None
    while True:
        page = await rig.plane.list_records(replace(query, after=after), context())
        seen.extend(page.records)
        after = page.next_after
        if after is None:
            break
    assert len(seen) == len({record.key for record in seen}) == 9
    assert all(set(record.fields) == {"content"} for record in seen)


async def test_counts_come_by_group(rig: Rig) -> None:
    counted = await rig.plane.count(
        CountQuery(collection="documents", group_by="source_name"), context()
    )
    assert [(group.value, group.count) for group in counted.groups] == [("serde", 2)]


async def test_observers_are_told_what_was_read_and_from_whom(rig: Rig) -> None:
    filter = Compare(field="source_name", op=CompareOp.EQ, value="serde")
    query = SearchQuery(collection="documents", vector=vector(1), filter=filter)
    await rig.plane.search(query, context())
    assert rig.seen.readings == [], "dual_write does not shadow"
    await rig.go(Phase.SHADOW)
    await rig.plane.search(query, context())
    (reading,) = rig.seen.readings
    assert (reading.control_store, reading.candidate_store) == ("old", "new")
    assert reading.query == query


async def test_a_get_keeps_the_order_and_leaves_holes(rig: Rig) -> None:
    missing: Key = ("rust", "serde", "nowhere")
    got = await rig.plane.get("documents", [OTHER, missing, KEY], Projection(), context())
    keys = [None if record is None else record.key for record in got.records]
    assert keys == [OTHER, None, KEY]


async def test_a_projection_reads_no_more_than_it_names(rig: Rig) -> None:
    got = await rig.plane.get("documents", [KEY], Projection(fields=("content",)), context())
    record = got.records[0]
    assert isinstance(record, Record)
    assert set(record.fields) == {"content"}


async def with_bird(rig: Rig) -> None:
    """Put a record where the new store alone can hold it."""
    await rig.stores["new"].apply(
        [
            Write(op=WriteOp.UPSERT, collection="sources", key=BIRD[:2], fields={}),
            Write(op=WriteOp.UPSERT, collection="documents", key=BIRD, fields={"content": "x"}),
        ],
        atomic=True,
        deadline_s=5,
    )


@pytest.mark.parametrize(
    ("phase", "primary"),
    [
        (Phase.DUAL_WRITE, "old"),
        (Phase.SHADOW, "old"),
        (Phase.RAMP, "old"),
        (Phase.NEW_PRIMARY, "new"),
        (Phase.NEW_ONLY, "new"),
    ],
)
async def test_a_record_of_the_new_store_alone_is_found_in_every_phase_that_may_write_it(
    rig: Rig, phase: Phase, primary: str
) -> None:
    await with_bird(rig)
    await rig.go(phase, primary=primary)
    assert await read(rig, BIRD) == (["x"], "new", "routed"), "and who answered is named"
    assert (await read(rig, BIRD, KEY))[0] == ["x", "first"]


async def test_in_old_only_the_new_store_answers_for_nothing(rig: Rig) -> None:
    await with_bird(rig)
    await rig.go(Phase.OLD_ONLY)
    assert await read(rig, BIRD) == ([None], "old", "routed")
