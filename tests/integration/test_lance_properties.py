"""Whatever is stored and asked, LanceDB answers as the store in memory does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy.clock import SystemClock
from proxy.config.settings import LanceSettings, StoreSettings
from proxy.model import Metric, Write, WriteOp
from proxy.query import (
    Compare,
    CompareOp,
    Filter,
    In,
    Like,
    Not,
    Order,
    SearchQuery,
)
from proxy.stores.lancedb import LanceStore
from proxy.stores.memory import MemoryStore
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
    max_examples=30,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def lance(folder: Path, metric: Metric = Metric.COSINE) -> LanceStore:
    quick = LanceSettings(flush_ms=0.0, optimize_commits=7)
    place = StoreSettings(engine="lancedb", uri=str(folder), lance=quick)
    return LanceStore("new", place, things.schema(metric), SystemClock())


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    memory = MemoryStore("new", things.schema(), SystemClock())
    store = lance(tmp_path)
    await store.open()
    yield memory, store
    await store.close()


@SETTINGS
@given(st.lists(things.writes(), max_size=6))
async def test_records_read_back_and_digest_as_in_memory(pair: Pair, writes: list[Write]) -> None:
    await refill(pair, writes, atomic=False)
    await assert_read_back_and_digested_alike(pair, [write.key for write in writes])


@SETTINGS
@given(st.lists(things.writes(), max_size=6), st.lists(things.filters, min_size=5, max_size=12))
async def test_filters_find_the_same_records(
    pair: Pair, writes: list[Write], filters: list[Filter]
) -> None:
    await refill(pair, writes, atomic=False)
    await assert_found_alike(pair, filters)


HOSTILE = st.sampled_from(
    [
        "'",
        "''",
        "' OR '1'='1",
        "\\'; DROP TABLE things; --",
        "`kind`",
        '"kind"',
        "a;b",
        "-- x",
        "/* x */",
        "%",
        "\\%",
        "_",
        "\\",
        "\\\\",
        "\n\r\t\0",
        "\u212a",
        "İ",
        "\u017f",
        "ΑΣ",
        "ß",
        "$1 {} ${x} :p ?",
        "x" * 70_000,
        "日本",
        "\U0001f600",
        "e\u0301",
        "NULL",
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@SETTINGS
@given(st.lists(HOSTILE, min_size=1, max_size=5, unique=True), st.lists(HOSTILE, max_size=4))
async def test_no_text_escapes_its_quotes(pair: Pair, stored: list[str], asked: list[str]) -> None:
    _, store = pair
    writes = [
        Write(
            op=WriteOp.UPSERT,
            collection="things",
            key=(text, number),
            fields={"text": text, "list": [text], "p_text": text},
        )
        for number, text in enumerate(stored)
    ]
    await refill(pair, writes, atomic=False)
    found = await store.get("things", [write.key for write in writes], vectors=False, deadline_s=10)
    assert {key[0] for key in found} == set(stored)
    filters: list[Filter] = [In(field="text", values=(*stored, *asked))]
    for text in [*stored, *asked]:
        filters += [
            Compare(field="text", op=CompareOp.EQ, value=text),
            Not(part=Compare(field="kind", op=CompareOp.LE, value=text)),
            Compare(field="list", op=CompareOp.EQ, value=[text]),
            Like(field="text", pattern=text),
            Like(field="text", pattern=f"%{text[-3:]}%", ignore_case=True),
        ]
    await assert_found_alike(pair, filters)


@SETTINGS
@given(st.lists(things.writes(), max_size=8), st.lists(ORDERS, min_size=2, max_size=4))
async def test_lists_are_ordered_and_paged_the_same(
    pair: Pair, writes: list[Write], orders: list[list[Order]]
) -> None:
    await refill(pair, writes, atomic=False)
    await assert_listed_alike(pair, orders, offset=1)


@SETTINGS
@given(st.lists(things.writes(), min_size=1, max_size=4), st.data())
async def test_batches_of_any_writes_leave_the_same_behind(
    pair: Pair, writes: list[Write], data: st.DataObject
) -> None:
    await refill(pair, writes, atomic=False)
    batch = []
    for _ in range(data.draw(st.integers(1, 6))):
        target = data.draw(st.sampled_from(writes))
        names = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
        op = data.draw(st.sampled_from(list(WriteOp)))
        batch.append(
            Write(
                op=op,
                collection="things",
                key=target.key,
                fields={name: data.draw(things.values(name)) for name in names},
                vector=data.draw(things.vectors),
                set_vector=op is WriteOp.INSERT or data.draw(st.booleans()),
                keep=frozenset(names[:1]),
            )
        )
    await assert_applied_alike(pair, batch)
    await assert_left_alike(pair, [write.key for write in writes])


@pytest.mark.parametrize("metric", list(Metric))
async def test_distances_are_the_same_in_every_metric(tmp_path: Path, metric: Metric) -> None:
    memory = MemoryStore("new", things.schema(metric), SystemClock())
    store = lance(tmp_path, metric)
    await store.open()
    rng = np.random.default_rng(7)
    rows = [rng.standard_normal(things.DIM).astype("<f4").tobytes() for _ in range(30)]
    rows += [rows[0]] * 400 + [bytes(4 * things.DIM)] * 3
    writes = [
        Write(op=WriteOp.INSERT, collection="things", key=("k", number * 7 % 433), vector=vector)
        for number, vector in enumerate(rows)
    ]
    for asked in (rng.standard_normal(things.DIM).astype("<f4").tobytes(), rows[0]):
        for limit in (1, 10, 200, 1000):
            query = SearchQuery(collection="things", vector=asked, limit=limit)
            found = []
            for side in (memory, store):
                await side.apply(writes, atomic=False, deadline_s=10)
                found.append(await side.search(query, deadline_s=10))
            left, right = found
            assert [h.record.key for h in left.hits] == [h.record.key for h in right.hits]
            distances = [hit.distance for hit in right.hits]
            assert distances == pytest.approx([hit.distance for hit in left.hits], abs=1e-9)
    await store.close()
