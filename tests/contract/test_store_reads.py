"""The contract of lists, counts and filters, for every store and both layouts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from proxy.errors import Reason, Rejected
from proxy.model import Record, Value, Write, WriteOp
from proxy.query import (
    And,
    Compare,
    CompareOp,
    ContainsAny,
    CountQuery,
    Filter,
    Group,
    In,
    IsNull,
    JsonEquals,
    Like,
    ListQuery,
    Not,
    Or,
    Order,
    Projection,
)
from proxy.stores.base import Store
from proxy.stores.ordering import order_terms, row_values
from tests.doc_server import WHEN, document, source


async def fill(store: Store) -> None:
    """Store 2 sources, 9 documents and 4 crate configs."""
    writes = [source("serde"), source("tokio", config={"kind": "async", "n": 1})]
    for number in range(1, 10):
        writes.append(
            document(
                f"p/{number % 4}/{number}",
                name="serde" if number % 2 else "tokio",
                number=number,
                packed=None,
                content=f"Text {'A' if number > 4 else 'a'}{number}",
                token_count=None if number % 3 == 0 else number % 4,
                created_at=WHEN + dt.timedelta(days=number % 5),
            )
        )
    for number, features in enumerate((["a", "b"], ["b"], [], None), start=1):
        writes.append(config(number, features=features))
    for result in await store.apply(writes, atomic=False, deadline_s=10):
        assert result.applied.value == "done", result


def config(number: int, **fields: Value) -> Write:
    values: dict[str, Value] = {
        "name": f"crate{number}",
        "version_spec": "latest",
        "enabled": number % 2 == 0,
        "expected_docs": number * 10,
        "last_checked": None if number == 1 else WHEN + dt.timedelta(hours=number),
        "created_at": WHEN,
        "updated_at": WHEN,
    }
    return Write(
        op=WriteOp.UPSERT, collection="crate_configs", key=(number,), fields={**values, **fields}
    )


async def listed(store: Store, query: ListQuery) -> list[Record]:
    return await store.list_records(query, deadline_s=10)


async def numbers(store: Store, filter: Filter, collection: str = "documents") -> list[Value]:
    query = ListQuery(collection=collection, filter=filter)
    records = await listed(store, query)
    keys = await store.list_keys(query, deadline_s=10)
    assert keys == [record.key for record in records]
    counted = await store.count(CountQuery(collection=collection, filter=filter), deadline_s=10)
    assert counted == [Group(value=None, count=len(records))]
    if collection == "documents":
        found: list[Any] = [record.fields["original_id"] for record in records]
    else:
        found = [record.key[0] for record in records]
    return sorted(found)


def eq(field: str, value: Value) -> Compare:
    return Compare(field=field, op=CompareOp.EQ, value=value)


def compare(field: str, op: CompareOp, value: Value) -> Compare:
    return Compare(field=field, op=op, value=value)


async def test_a_list_is_ordered_by_key_and_paged_without_gaps(store: Store) -> None:
    await fill(store)
    query = ListQuery(collection="documents", limit=100)
    everything = [record.key for record in await listed(store, query)]
    assert everything == sorted(everything)
    assert len(everything) == 9
    assert await store.list_keys(query, deadline_s=10) == everything
    for limit in (1, 2, 4, 9):
        seen: list[object] = []
        after: tuple[Value, ...] | None = None
        while True:
            page = await listed(store, ListQuery(collection="documents", limit=limit, after=after))
            seen += [record.key for record in page]
            if len(page) < limit:
                break
            after = page[-1].key
        assert seen == everything


@pytest.mark.parametrize(
    "order",
    [
        (Order(field="token_count"),),
        (Order(field="token_count", descending=True),),
        (Order(field="created_at", descending=True), Order(field="token_count")),
        (Order(field="content"),),
        (Order(field="source_name", descending=True), Order(field="original_id", descending=True)),
    ],
    ids=["nulls last", "nulls first", "two terms", "bytes", "key field"],
)
async def test_every_order_pages_without_gaps(store: Store, order: tuple[Order, ...]) -> None:
    await fill(store)
    spec = store.schema.collections["documents"]
    everything = await listed(store, ListQuery(collection="documents", order=order))
    assert len(everything) == 9
    terms = order_terms(ListQuery(collection="documents", order=order), spec)
    values = [row_values(record, spec, terms) for record in everything]
    first = [value[0] for value in values]
    nulls = [n for n, value in enumerate(first) if value is None]
    if order[0].descending:
        assert nulls == list(range(len(nulls)))
    else:
        assert nulls == list(range(9 - len(nulls), 9))
    kept: list[Any] = [value for value in first if value is not None]
    assert kept == sorted(kept, reverse=order[0].descending)
    for limit in (1, 4):
        seen: list[object] = []
        after: tuple[Value, ...] | None = None
        while True:
            query = ListQuery(collection="documents", order=order, limit=limit, after=after)
            page = await listed(store, query)
            seen += [record.key for record in page]
            if len(page) < limit:
                break
            after = row_values(page[-1], spec, terms)
        assert seen == [record.key for record in everything]


async def test_an_offset_skips_rows(store: Store) -> None:
    await fill(store)
    everything = await listed(store, ListQuery(collection="documents"))
    page = await listed(store, ListQuery(collection="documents", offset=3, limit=4))
    assert page == everything[3:7]


async def test_a_projection_reads_only_what_was_asked_for(store: Store) -> None:
    await fill(store)
    for fields in (("content",), ("content", "original_id"), ("original_id",), ()):
        query = ListQuery(collection="documents", projection=Projection(fields=fields), limit=2)
        for record in await listed(store, query):
            assert set(record.fields) == set(fields)
            assert record.vector is None


async def test_filters_find_what_they_say(store: Store) -> None:
    await fill(store)
    for filter, expected in (
        (eq("source_name", "serde"), [1, 3, 5, 7, 9]),
        (eq("doc_type", "rust"), list(range(1, 10))),
        (eq("doc_type", "jupyter"), []),
        (eq("original_id", 4), [4]),
        (compare("original_id", CompareOp.GE, 8), [8, 9]),
        (compare("token_count", CompareOp.NE, 1), [2, 4, 7, 8]),
        (compare("token_count", CompareOp.LT, 2), [1, 4, 5, 8]),
        (compare("created_at", CompareOp.GT, WHEN + dt.timedelta(days=3)), [4, 9]),
        (compare("content", CompareOp.LT, "Text a"), [5, 6, 7, 8, 9]),
        (In(field="original_id", values=(2, 3, 77)), [2, 3]),
        (In(field="source_name", values=("tokio", "x")), [2, 4, 6, 8]),
        (In(field="source_name", values=()), []),
        (IsNull(field="token_count"), [3, 6, 9]),
        (Not(part=IsNull(field="token_count")), [1, 2, 4, 5, 7, 8]),
        (Not(part=eq("token_count", 1)), [2, 4, 7, 8]),
        (Like(field="doc_path", pattern="p/1/_"), [1, 5, 9]),
        (Like(field="content", pattern="%a%"), [1, 2, 3, 4]),
        (Like(field="content", pattern="%a%", ignore_case=True), list(range(1, 10))),
        (Like(field="content", pattern="Text\\_%"), []),
        (And(parts=()), list(range(1, 10))),
        (Or(parts=()), []),
        (And(parts=(eq("source_name", "serde"), compare("original_id", CompareOp.LT, 4))), [1, 3]),
        (Or(parts=(eq("original_id", 1), IsNull(field="token_count"))), [1, 3, 6, 9]),
    ):
        assert await numbers(store, filter) == expected, filter


async def test_filters_on_lists_bools_and_null_follow_three_valued_logic(store: Store) -> None:
    await fill(store)
    for filter, expected in (
        (ContainsAny(field="features", values=("a",)), [1]),
        (ContainsAny(field="features", values=("b", "z")), [1, 2]),
        (ContainsAny(field="features", values=()), []),
        (Not(part=ContainsAny(field="features", values=("a",))), [2, 3]),
        (eq("features", ["b"]), [2]),
        (compare("features", CompareOp.NE, ["b"]), [1, 3]),
        (eq("enabled", True), [2, 4]),
        (compare("last_checked", CompareOp.LE, WHEN + dt.timedelta(hours=2)), [2]),
        (
            Or(parts=(IsNull(field="last_checked"), compare("expected_docs", CompareOp.GT, 30))),
            [1, 4],
        ),
        (And(parts=(eq("enabled", True), compare("id", CompareOp.LT, 3))), [2]),
    ):
        assert await numbers(store, filter, "crate_configs") == expected, filter


async def test_json_is_compared_along_a_path_and_by_type(store: Store) -> None:
    await fill(store)
    new = store.name == "new"
    for filter, expected in (
        (JsonEquals(field="config", path=("kind",), value="async"), 1 if new else 0),
        (JsonEquals(field="config", path=("n",), value=1), 1 if new else 0),
        (JsonEquals(field="config", path=("n",), value="1"), 0),
        (JsonEquals(field="config", path=("n", "deeper"), value=1), 0),
        (Not(part=JsonEquals(field="config", path=("n",), value=2)), 1 if new else 0),
        (JsonEquals(field="config", path=("version",), value="1.0"), 0),
    ):
        found = await listed(store, ListQuery(collection="sources", filter=filter))
        assert len(found) == expected, filter


async def test_a_field_the_store_does_not_hold_is_null_in_a_filter(store: Store) -> None:
    await fill(store)
    found = await listed(store, ListQuery(collection="documents", filter=IsNull(field="metadata")))
    assert len(found) == (0 if store.name == "new" else 9)


async def test_counts_group_by_a_field_and_sum_another(store: Store) -> None:
    await fill(store)

    async def count(**more: Any) -> list[Group]:
        return await store.count(CountQuery(collection="documents", **more), deadline_s=10)

    assert await count() == [Group(value=None, count=9)]
    assert await count(sum_field="token_count") == [Group(value=None, count=9, sum=7.0)]
    assert await count(group_by="source_name", sum_field="original_id") == [
        Group(value="serde", count=5, sum=25.0),
        Group(value="tokio", count=4, sum=20.0),
    ]
    assert await count(group_by="doc_type") == [Group(value="rust", count=9)]
    assert await count(group_by="token_count") == [
        Group(value=0, count=2),
        Group(value=1, count=2),
        Group(value=2, count=1),
        Group(value=3, count=1),
        Group(value=None, count=3),
    ]


async def test_a_count_of_nothing_is_zero_and_groups_of_nothing_are_none(store: Store) -> None:
    assert await store.count(CountQuery(collection="documents"), deadline_s=10) == [
        Group(value=None, count=0)
    ]
    query = CountQuery(collection="documents", group_by="source_name")
    assert await store.count(query, deadline_s=10) == []


async def test_a_query_that_makes_no_sense_is_rejected(store: Store) -> None:
    for order in ("nonsense", "metadata"):
        with pytest.raises(Rejected, match="order_by"):
            await listed(store, ListQuery(collection="documents", order=(Order(field=order),)))
    with pytest.raises(Rejected, match="page_token"):
        await listed(store, ListQuery(collection="documents", after=("rust",)))
    with pytest.raises(Rejected, match="group_by"):
        await store.count(CountQuery(collection="documents", group_by="metadata"), deadline_s=10)
    with pytest.raises(Rejected, match="sum_field"):
        await store.count(CountQuery(collection="documents", sum_field="content"), deadline_s=10)
    await fill(store)
    with pytest.raises(Rejected, match="nonsense"):
        await listed(store, ListQuery(collection="documents", filter=eq("nonsense", 1)))
    with pytest.raises(Rejected) as caught:
        await listed(store, ListQuery(collection="nowhere"))
    assert caught.value.reason is Reason.NOT_FOUND
