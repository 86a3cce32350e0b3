"""Whatever is stored and asked, LanceDB answers as the store in memory does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy.canonical import differing_fields, record_digest
from proxy.clock import SystemClock
from proxy.config.settings import LanceSettings, StoreSettings
from proxy.model import Applied, Key, Metric, Record, Write, WriteOp
from proxy.query import (
    Compare,
    CompareOp,
    CountQuery,
    Filter,
    In,
    KeyRange,
    Like,
    ListQuery,
    Not,
    Order,
    SearchQuery,
)
from proxy.stores.base import Store
from proxy.stores.lancedb import LanceStore
from proxy.stores.memory import MemoryStore
from tests import things

SETTINGS = settings(
    max_examples=30,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SPEC = things.schema().collections["things"]
NAMES = [*things.NAMES, "rest"]
Pair = tuple[Store, Store]


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


async def refill(store: Store, writes: list[Write]) -> None:
    """Replace everything in the store by these writes."""
    keys = await store.list_keys(ListQuery(collection="things", limit=1000), deadline_s=10)
    gone = [Write(op=WriteOp.DELETE, collection="things", key=key) for key in keys]
    results = await store.apply([*gone, *writes], atomic=False, deadline_s=10)
    assert {result.applied for result in results} <= {Applied.DONE}, results


def assert_same(left: Mapping[Key, Record], right: Mapping[Key, Record]) -> None:
    """Compare in canonical form: 1e16 in JSON comes back as an integer."""
    assert left.keys() == right.keys()
    for key, record in left.items():
        assert record.fields.keys() == right[key].fields.keys()
        assert differing_fields(SPEC, record, right[key], NAMES) == ()


@SETTINGS
@given(st.lists(things.writes(), max_size=6))
async def test_records_read_back_and_digest_as_in_memory(pair: Pair, writes: list[Write]) -> None:
    found = []
    for store in pair:
        await refill(store, writes)
        keys = [write.key for write in writes]
        records = await store.get("things", keys, vectors=True, deadline_s=10)
        digests = await store.key_digests(
            "things", KeyRange(), fields=NAMES, order="C", deadline_s=10
        )
        whole = await store.digest("things", KeyRange(), fields=NAMES, order="C", deadline_s=10)
        assert [d.digest for d in digests] == [
            record_digest(SPEC, records[d.key], NAMES) for d in digests
        ]
        assert whole.sum == sum(d.digest for d in digests) % 2**128
        found.append((records, digests))
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@SETTINGS
@given(st.lists(things.writes(), max_size=6), st.lists(things.filters, min_size=5, max_size=12))
async def test_filters_find_the_same_records(
    pair: Pair, writes: list[Write], filters: list[Filter]
) -> None:
    memory, store = pair
    await refill(memory, writes)
    await refill(store, writes)
    for filter in filters:
        query = ListQuery(collection="things", filter=filter)
        expected = await memory.list_keys(query, deadline_s=10)
        assert await store.list_keys(query, deadline_s=10) == expected, filter
        counting = CountQuery(collection="things", filter=filter)
        assert await store.count(counting, deadline_s=10) == await memory.count(
            counting, deadline_s=10
        )


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
    memory, store = pair
    writes = [
        Write(
            op=WriteOp.UPSERT,
            collection="things",
            key=(text, number),
            fields={"text": text, "list": [text], "p_text": text},
        )
        for number, text in enumerate(stored)
    ]
    await refill(memory, writes)
    await refill(store, writes)
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
    for filter in filters:
        query = ListQuery(collection="things", filter=filter)
        expected = await memory.list_keys(query, deadline_s=10)
        assert await store.list_keys(query, deadline_s=10) == expected, str(filter)[:300]


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
    memory, store = pair
    await refill(memory, writes)
    await refill(store, writes)
    for order in orders:
        query = ListQuery(collection="things", order=tuple(order))
        expected = await memory.list_records(query, deadline_s=10)
        listed = await store.list_records(query, deadline_s=10)
        assert [record.key for record in listed] == [record.key for record in expected]
        for last in expected[:3]:
            values = {**last.fields, "kind": last.key[0], "num": last.key[1]}
            after = (*(values[term.field] for term in order), *last.key)
            query = ListQuery(
                collection="things", order=tuple(order), after=after, offset=1, limit=2
            )
            page = await memory.list_keys(query, deadline_s=10)
            assert await store.list_keys(query, deadline_s=10) == page


@SETTINGS
@given(st.lists(things.writes(), min_size=1, max_size=4), st.data())
async def test_batches_of_any_writes_leave_the_same_behind(
    pair: Pair, writes: list[Write], data: st.DataObject
) -> None:
    for store in pair:
        await refill(store, writes)
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
    answers = [await store.apply(batch, atomic=False, deadline_s=10) for store in pair]
    for left, right in zip(*answers, strict=True):
        assert left.applied is right.applied, answers
        assert (left.record is None) == (right.record is None)
        if left.record is not None and right.record is not None:
            assert_same({left.record.key: left.record}, {left.record.key: right.record})
    keys = [write.key for write in writes]
    assert_same(*[await store.get("things", keys, vectors=True, deadline_s=10) for store in pair])


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
