"""Whatever is stored and asked, PostgreSQL answers as the store in memory does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.canonical import differing_fields, record_digest
from proxy.clock import SystemClock
from proxy.model import Applied, Key, Metric, Record, Write, WriteOp
from proxy.query import CountQuery, Filter, KeyRange, ListQuery, Order, SearchQuery
from proxy.stores.base import Store
from proxy.stores.memory import MemoryStore
from proxy.stores.postgres import PostgresStore
from tests import things

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SPEC = things.schema().collections["things"]
Pair = tuple[Store, Store]


@pytest.fixture
async def pair(new_database: Callable[[], str]) -> AsyncIterator[Pair]:
    dsn = new_database()
    things.create(dsn)
    memory = MemoryStore("new", things.schema(), SystemClock())
    postgres = PostgresStore("new", dsn, things.schema(), pool_min=1, pool_max=2)
    await postgres.open()
    yield memory, postgres
    await postgres.close()


async def refill(store: Store, writes: list[Write]) -> None:
    """Replace everything in the store by these writes."""
    keys = await store.list_keys(ListQuery(collection="things", limit=1000), deadline_s=10)
    gone = [Write(op=WriteOp.DELETE, collection="things", key=key) for key in keys]
    results = await store.apply([*gone, *writes], atomic=True, deadline_s=10)
    assert {result.applied for result in results} <= {Applied.DONE}, results


@SETTINGS
@given(st.lists(things.writes(), max_size=6))
async def test_records_read_back_and_digest_as_in_memory(pair: Pair, writes: list[Write]) -> None:
    names = [*things.NAMES, "rest"]
    found = []
    for store in pair:
        await refill(store, writes)
        keys = [write.key for write in writes]
        records = await store.get("things", keys, vectors=True, deadline_s=10)
        digests = await store.key_digests(
            "things", KeyRange(), fields=names, order="C", deadline_s=10
        )
        whole = await store.digest("things", KeyRange(), fields=names, order="C", deadline_s=10)
        assert [d.digest for d in digests] == [
            record_digest(SPEC, records[d.key], names) for d in digests
        ]
        assert whole.sum == sum(d.digest for d in digests) % 2**128
        found.append((records, digests))
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def assert_same(left: Mapping[Key, Record], right: Mapping[Key, Record]) -> None:
    """Compare in canonical form: 1e16 in JSON comes back as an integer."""
    assert left.keys() == right.keys()
    for key, record in left.items():
        assert record.fields.keys() == right[key].fields.keys()
        assert differing_fields(SPEC, record, right[key], [*things.NAMES, "rest"]) == ()


@SETTINGS
@given(st.lists(things.writes(), max_size=6), st.lists(things.filters, min_size=5, max_size=12))
async def test_filters_find_the_same_records(
    pair: Pair, writes: list[Write], filters: list[Filter]
) -> None:
    memory, postgres = pair
    for store in pair:
        await refill(store, writes)
    for filter in filters:
        query = ListQuery(collection="things", filter=filter)
        expected = await memory.list_keys(query, deadline_s=10)
        assert await postgres.list_keys(query, deadline_s=10) == expected
        counting = CountQuery(collection="things", filter=filter)
        assert await postgres.count(counting, deadline_s=10) == await memory.count(
            counting, deadline_s=10
        )


ORDERS = st.lists(
    st.builds(
        lambda field, descending: Order(field=field, descending=descending),
        st.sampled_from(
            ["text", "int", "float", "bool", "when", "naive", "p_text", "p_when", "num"]
        ),
        st.booleans(),
    ),
    max_size=2,
)


@SETTINGS
@given(st.lists(things.writes(), max_size=8), st.lists(ORDERS, min_size=2, max_size=4))
async def test_lists_are_ordered_and_paged_the_same(
    pair: Pair, writes: list[Write], orders: list[list[Order]]
) -> None:
    memory, postgres = pair
    for store in pair:
        await refill(store, writes)
    for order in orders:
        query = ListQuery(collection="things", order=tuple(order))
        expected = await memory.list_records(query, deadline_s=10)
        listed = await postgres.list_records(query, deadline_s=10)
        assert [record.key for record in listed] == [record.key for record in expected]
        for last in expected[:3]:
            values = {**last.fields, "kind": last.key[0], "num": last.key[1]}
            after = (*(values[term.field] for term in order), *last.key)
            query = ListQuery(collection="things", order=tuple(order), after=after, limit=2)
            page = await memory.list_keys(query, deadline_s=10)
            assert await postgres.list_keys(query, deadline_s=10) == page


@SETTINGS
@given(st.lists(things.writes(), min_size=1, max_size=4), st.data())
async def test_upserts_and_patches_leave_the_same_behind(
    pair: Pair, writes: list[Write], data: st.DataObject
) -> None:
    for store in pair:
        await refill(store, writes)
    for _ in range(3):
        target = data.draw(st.sampled_from(writes))
        names = data.draw(st.lists(st.sampled_from((*things.NAMES, "rest")), unique=True))
        change = Write(
            op=data.draw(st.sampled_from((WriteOp.UPSERT, WriteOp.PATCH))),
            collection="things",
            key=target.key,
            fields={name: data.draw(things.values(name)) for name in names},
            set_vector=False,
            keep=frozenset(
                data.draw(st.lists(st.sampled_from(names), unique=True)) if names else ()
            ),
        )
        answers = [await store.apply([change], atomic=False, deadline_s=10) for store in pair]
        ((left,), (right,)) = answers
        assert left.applied is right.applied is Applied.DONE, answers
        if left.record is not None and right.record is not None:
            assert_same({target.key: left.record}, {target.key: right.record})
    keys = [write.key for write in writes]
    assert_same(*[await store.get("things", keys, vectors=True, deadline_s=10) for store in pair])


@pytest.mark.parametrize("metric", list(Metric))
async def test_distances_are_the_same_in_every_metric(
    new_database: Callable[[], str], metric: Metric
) -> None:
    dsn = new_database()
    things.create(dsn)
    memory = MemoryStore("new", things.schema(metric), SystemClock())
    postgres = PostgresStore("new", dsn, things.schema(metric), pool_min=1, pool_max=2)
    await postgres.open()
    rng = np.random.default_rng(7)
    writes = [
        Write(
            op=WriteOp.INSERT,
            collection="things",
            key=("k", number),
            vector=rng.standard_normal(things.DIM).astype("<f4").tobytes(),
        )
        for number in range(30)
    ]
    query = SearchQuery(
        collection="things", vector=rng.standard_normal(things.DIM).astype("<f4").tobytes()
    )
    found = []
    for store in (memory, postgres):
        await store.apply(writes, atomic=True, deadline_s=10)
        found.append(await store.search(query, deadline_s=10))
    await postgres.close()
    for left, right in zip(found[0].hits, found[1].hits, strict=True):
        assert left.record.key == right.record.key
        assert left.distance == pytest.approx(right.distance, abs=1e-6)
        assert left.similarity == pytest.approx(right.similarity, abs=1e-6)
