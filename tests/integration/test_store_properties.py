"""Whatever is stored and asked, PostgreSQL answers as the store in memory does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.clock import SystemClock
from proxy.model import Applied, Metric, Write, WriteOp
from proxy.query import Filter, Order, SearchQuery
from proxy.stores.memory import MemoryStore
from proxy.stores.postgres import PostgresStore
from tests import things
from tests.integration.store_pair import (
    NAMES,
    ORDERS,
    Pair,
    assert_applied_alike,
    assert_found_alike,
    assert_left_alike,
    assert_listed_alike,
    assert_read_back_and_digested_alike,
    refill,
)

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
async def pair(new_database: Callable[[], str]) -> AsyncIterator[Pair]:
    dsn = new_database()
    things.create(dsn)
    memory = MemoryStore("new", things.schema(), SystemClock())
    postgres = PostgresStore("new", dsn, things.schema(), pool_min=1, pool_max=2)
    await postgres.open()
    yield memory, postgres
    await postgres.close()


@SETTINGS
@given(st.lists(things.writes(), max_size=6))
async def test_records_read_back_and_digest_as_in_memory(pair: Pair, writes: list[Write]) -> None:
    await refill(pair, writes, atomic=True)
    await assert_read_back_and_digested_alike(pair, [write.key for write in writes])


@SETTINGS
@given(st.lists(things.writes(), max_size=6), st.lists(things.filters, min_size=5, max_size=12))
async def test_filters_find_the_same_records(
    pair: Pair, writes: list[Write], filters: list[Filter]
) -> None:
    await refill(pair, writes, atomic=True)
    await assert_found_alike(pair, filters)


@SETTINGS
@given(st.lists(things.writes(), max_size=8), st.lists(ORDERS, min_size=2, max_size=4))
async def test_lists_are_ordered_and_paged_the_same(
    pair: Pair, writes: list[Write], orders: list[list[Order]]
) -> None:
    await refill(pair, writes, atomic=True)
    await assert_listed_alike(pair, orders)


@SETTINGS
@given(st.lists(things.writes(), min_size=1, max_size=4), st.data())
async def test_upserts_and_patches_leave_the_same_behind(
    pair: Pair, writes: list[Write], data: st.DataObject
) -> None:
    await refill(pair, writes, atomic=True)
    for _ in range(3):
        target = data.draw(st.sampled_from(writes))
        names = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
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
        (applied,) = await assert_applied_alike(pair, [change])
        assert applied.applied is Applied.DONE
    await assert_left_alike(pair, [write.key for write in writes])


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
