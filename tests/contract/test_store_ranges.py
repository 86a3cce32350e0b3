"""The contract of what the reconciler needs: ranges, pages, digests and bulk loads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.canonical import record_digest
from proxy.errors import Reason, Rejected
from proxy.layouts import ColumnKind
from proxy.model import Applied, Key, Write, WriteOp
from proxy.query import KeyRange
from proxy.stores.base import BulkTarget, RangeDigest, Store
from tests.doc_server import document, patch, source, vector

PATHS = ["a", "a/b", "a b", "B", "ä", "z\u00fc", "日本", "a\u0001", "a-b", "~", "Z", "aa"]


async def fill(store: Store) -> list[Key]:
    writes = [source("serde"), source("Serde-json"), source("tokio")]
    for number, path in enumerate(PATHS, start=1):
        name = ("serde", "Serde-json", "tokio")[number % 3]
        packed = None if number == 3 else vector(number)
        writes.append(
            document(
                path,
                name=name,
                number=number,
                packed=packed,
                token_count=None if number % 4 == 0 else number,
                content=f"ünï {path} \\ \" ' %",
            )
        )
    for result in await store.apply(writes, atomic=False, deadline_s=10):
        assert result.applied.value == "done", result
    keys = [write.key for write in writes if write.collection == "documents"]
    return sorted(keys, key=lambda key: [str(part).encode() for part in key])


def fields(store: Store) -> list[str]:
    return sorted(store.schema.stored_value_fields("documents"))


async def test_range_keys_are_ascending_and_bounds_are_open_below_closed_above(
    store: Store,
) -> None:
    keys = await fill(store)
    order = await store.key_order("documents")
    for after in (None, 0, 4, 11):
        for upto in (None, 0, 5, 11):
            span = KeyRange(
                after=None if after is None else keys[after],
                upto=None if upto is None else keys[upto],
            )
            start = 0 if after is None else after + 1
            stop = len(keys) if upto is None else upto + 1
            found = await store.range_keys("documents", span, order=order, deadline_s=10)
            assert found == keys[start:stop], span


async def test_bounds_need_not_be_keys_of_this_store(store: Store) -> None:
    keys = await fill(store)
    for bound, expected in (
        (("aaa", "zzz", "zzz"), 0),
        (("zzz", "a", "a"), len(keys)),
        (("rust", "serde", ""), len([key for key in keys if key < ("rust", "serde", "")])),
    ):
        below = KeyRange(upto=bound)
        found = await store.range_keys("documents", below, order="C", deadline_s=10)
        assert found == keys[:expected]
        above = KeyRange(after=bound)
        found = await store.range_keys("documents", above, order="C", deadline_s=10)
        assert found == keys[expected:]


@pytest.mark.parametrize("rows", [1, 3, 5, 12, 100])
async def test_split_covers_everything_once(store: Store, rows: int) -> None:
    keys = await fill(store)
    order = await store.key_order("documents")
    ranges = await store.split("documents", rows_per_range=rows, order=order)
    assert ranges[0].after is None
    assert ranges[-1].upto is None
    assert [item.upto for item in ranges[:-1]] == [item.after for item in ranges[1:]]
    seen: list[Key] = []
    for item in ranges:
        found = await store.range_keys("documents", item, order=order, deadline_s=10)
        assert len(found) <= rows
        seen += found
    assert seen == keys


async def test_what_was_answered_has_landed(store: Store) -> None:
    keys = await fill(store)
    await store.landed("documents", deadline_s=10)
    found = await store.get("documents", keys, vectors=False, deadline_s=10)
    assert sorted(found) == sorted(keys)


async def test_an_empty_collection_is_one_open_range(store: Store) -> None:
    assert await store.split("documents", rows_per_range=10, order="C") == [KeyRange()]


async def test_pages_walk_a_range_and_leave_out_what_is_excluded(store: Store) -> None:
    keys = await fill(store)
    order = await store.key_order("documents")
    seen: list[Key] = []
    after: Key | None = None
    while True:
        span = KeyRange(after=after, upto=keys[-2])
        async with store.page("documents", span, limit=4, order=order, deadline_s=10) as page:
            excluded = frozenset(page.keys[1:2])
            records = await page.records(excluded)
            assert [r.key for r in records] == [k for k in page.keys if k not in excluded]
            whole = await store.get("documents", page.keys, vectors=True, deadline_s=10)
            assert records == [whole[record.key] for record in records]
            seen += page.keys
            if len(page.keys) < 4:
                break
            after = page.keys[-1]
    assert seen == keys[:-1]


async def test_a_page_of_nothing_is_empty(store: Store) -> None:
    span = KeyRange(after=("rust", "x", "x"))
    async with store.page("documents", span, limit=4, order="C", deadline_s=10) as page:
        assert list(page.keys) == []
        assert await page.records(frozenset()) == []


async def test_a_page_is_one_moment(store: Store) -> None:
    keys = await fill(store)
    async with store.page("documents", KeyRange(), limit=50, order="C", deadline_s=10) as page:
        await change(store, patch("documents", keys[0], content="changed meanwhile"))
        records = await page.records(frozenset())
    assert records[0].fields["content"] != "changed meanwhile"


async def change(store: Store, write: Write) -> None:
    (result,) = await store.apply([write], atomic=False, deadline_s=10)
    assert result.applied is Applied.DONE, result


async def test_digests_are_those_of_the_canonical_form(store: Store) -> None:
    keys = await fill(store)
    spec = store.schema.collections["documents"]
    for names in (fields(store), ["content"], []):
        digests = await store.key_digests(
            "documents", KeyRange(), fields=names, order="C", deadline_s=10
        )
        whole = await store.get("documents", keys, vectors=True, deadline_s=10)
        assert [item.key for item in digests] == keys
        for item in digests:
            assert item.digest == record_digest(spec, whole[item.key], names), item.key


async def test_a_digest_does_not_depend_on_how_ranges_are_cut(store: Store) -> None:
    keys = await fill(store)
    names = fields(store)
    order = await store.key_order("documents")
    whole = await store.digest("documents", KeyRange(), fields=names, order=order, deadline_s=10)
    assert whole.rows == len(keys)
    each = await store.key_digests(
        "documents", KeyRange(), fields=names, order=order, deadline_s=10
    )
    assert whole.sum == sum(item.digest for item in each) % 2**128
    for rows in (1, 5):
        total = RangeDigest(rows=0, sum=0)
        for item in await store.split("documents", rows_per_range=rows, order=order):
            total += await store.digest("documents", item, fields=names, order=order, deadline_s=10)
        assert total == whole


async def test_a_digest_sees_every_change(store: Store) -> None:
    keys = await fill(store)
    names = fields(store)

    async def digest() -> int:
        found = await store.digest("documents", KeyRange(), fields=names, order="C", deadline_s=10)
        return found.sum

    seen = {await digest()}
    for number, write in enumerate(
        (
            patch("documents", keys[0], content="x"),
            patch("documents", keys[0], token_count=1234),
            patch("documents", keys[0], token_count=0),
            patch("documents", keys[0], packed=vector(77), set_vector=True),
            patch("documents", keys[0], packed=None, set_vector=True),
            document("new path", name="serde", number=90),
        ),
        start=2,
    ):
        await change(store, write)
        seen.add(await digest())
        assert len(seen) == number


async def test_an_order_the_store_does_not_know_is_rejected(store: Store) -> None:
    with pytest.raises(Rejected, match="klingon"):
        await store.range_keys("documents", KeyRange(), order="klingon", deadline_s=10)


async def test_bulk_rows_load_where_they_came_from_once(store: Store) -> None:
    keys = await fill(store)
    target = await store.bulk_target("documents", fields(store))
    columns = store.schema.layouts["documents"].columns
    if any(column.kind is ColumnKind.PARENT_ID for column in columns):
        assert target is None  # rows need the id of their parent
        return
    assert target is not None
    excluded = frozenset(keys[:2])
    async with store.page("documents", KeyRange(), limit=50, order="C", deadline_s=10) as page:
        before = {record.key: record for record in await page.records(frozenset())}
        chunks = [chunk async for chunk in page.bulk(excluded, target)]
    assert await _load(store, target, chunks, expect="already") == 0
    deletes = [Write(op=WriteOp.DELETE, collection="documents", key=key) for key in keys]
    await store.apply(deletes, atomic=False, deadline_s=10)
    assert await _load(store, target, chunks) == len(keys) - 2
    after = await store.get("documents", keys, vectors=True, deadline_s=10)
    assert set(after) == set(keys) - excluded
    for key, record in after.items():
        assert record.vector == before[key].vector
        for name in fields(store):
            assert record.fields[name] == before[key].fields[name]


async def _load(store: Store, target: BulkTarget, chunks: list[bytes], expect: str = "") -> int:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    if not expect:
        return await store.bulk_load("documents", target, stream(), deadline_s=10)
    with pytest.raises(Rejected) as caught:
        await store.bulk_load("documents", target, stream(), deadline_s=10)
    assert caught.value.reason is Reason.ALREADY_EXISTS
    return 0


async def test_a_foreign_bulk_format_is_refused(store: Store) -> None:
    await fill(store)
    foreign = BulkTarget(dialect="clay tablets", plan=None)
    async with store.page("documents", KeyRange(), limit=5, order="C", deadline_s=10) as page:
        with pytest.raises(Rejected) as caught:
            async for _ in page.bulk(frozenset(), foreign):
                pass
    assert caught.value.reason is Reason.UNIMPLEMENTED


async def test_unconvertible_says_why_and_only_when(store: Store) -> None:
    await fill(store)
    whole = await store.get("documents", [("rust", "serde", "a b")], vectors=True, deadline_s=10)
    (record,) = whole.values()
    assert await store.unconvertible(record) == ""
    for bad, word in (
        (replace(record, key=("rust", "s" * 256, "x")), "source_name"),
        (replace(record, fields={**record.fields, "content": None}), "content"),
        (replace(record, fields={**record.fields, "token_count": "7"}), "token_count"),
        (replace(record, vector=vector(1, 7)), "dimensions"),
    ):
        assert word in await store.unconvertible(bad)
    foreign = replace(record, key=("jupyter", "x", "y"))
    assert ("doc_type" in await store.unconvertible(foreign)) == (store.name == "old")


async def test_the_row_estimate_of_a_small_table_is_right(store: Store) -> None:
    assert await store.row_estimate("documents") == 0
    keys = await fill(store)
    assert await store.row_estimate("documents") == len(keys)


async def test_check_finds_nothing_wrong_with_the_right_tables(store: Store) -> None:
    assert await store.check() == []
    await store.ping(deadline_s=5)
    assert all(isinstance(value, float) for value in store.stats().values())
