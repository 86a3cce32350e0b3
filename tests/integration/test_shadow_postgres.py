"""Shadow reads between two real PostgreSQL stores: other schemas, an HNSW index, live writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from proxy.config.settings import ShadowSettings
from proxy.dataplane import Reading
from proxy.ledger.types import Phase, Routing
from proxy.model import Applied, JsonValue, Record, Write
from proxy.query import (
    Compare,
    CompareOp,
    JsonEquals,
    ListQuery,
    Order,
    Projection,
    SearchQuery,
    SearchResult,
)
from proxy.stores.base import Store
from proxy.stores.postgres import PostgresStore
from shadow.attribute import Cause
from shadow.gate import gate
from shadow.shadow_read import ShadowParts, ShadowReader
from shadow.stats import Stats, merge_json
from tests.doc_server import create_tables, delete, document, schemas, source, vector
from tests.unit.shadow.support import FakeLedger

DOCUMENTS = 60
ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Rig:
    """Two stores with the same documents, and a reader over them."""

    old: PostgresStore
    new: PostgresStore
    ledger: FakeLedger
    reader: ShadowReader

    async def write(self, writes: Sequence[Write], *stores: Store) -> None:
        """Write to the given stores, or to both."""
        for store in stores or (self.old, self.new):
            results = await store.apply(writes, atomic=True, deadline_s=10)
            done = {Applied.DONE, Applied.NOT_FOUND}
            assert {result.applied for result in results} <= done, results

    async def serve(self, query: SearchQuery | ListQuery) -> None:
        """Answer a query from the old store and let the reader see it."""
        found: SearchResult | None = None
        records: Sequence[Record] = ()
        if isinstance(query, SearchQuery):
            found = await self.old.search(query, deadline_s=10)
        else:
            records = await self.old.list_records(query, deadline_s=10)
        self.reader.observe(
            Reading(
                request_id=str(random.random()),
                query=query,
                control_store="old",
                candidate_store="new",
                search=found,
                records=records,
                latency_ms=1.0,
            )
        )

    async def settled(self) -> Stats:
        """Return the statistics once everything has been compared."""
        async with asyncio.timeout(60):
            await self.reader.idle()
        await self.reader.flush()
        return merge_json(self.ledger.stored.values())


@pytest.fixture
async def rig(new_database: Callable[[], str]) -> AsyncIterator[Rig]:
    stores: dict[str, PostgresStore] = {}
    for side in ("old", "new"):
        dsn = new_database()
        create_tables(dsn, side)
        stores[side] = PostgresStore(side, dsn, schemas()[side], pool_min=1, pool_max=4)
        await stores[side].open()
    ledger = FakeLedger()
    reader = ShadowReader(
        ShadowParts(
            stores=stores,
            ledger=ledger,
            routing=lambda: Routing(epoch=3, phase=Phase.SHADOW, primary="old"),
            replica_id="replica-1",
        ),
        ShadowSettings(noise_sample=1.0),
    )
    made = Rig(stores["old"], stores["new"], ledger, reader)
    documents = [document(f"doc-{n:03}", number=n) for n in range(DOCUMENTS)]
    await made.write([source(), *documents])
    await made.new.build_index("documents")
    await reader.start()
    yield made
    await reader.close()
    for store in stores.values():
        await store.close()


def near(number: int, *, exact: bool | None = None) -> SearchQuery:
    return SearchQuery(collection="documents", vector=vector(number), limit=10, exact=exact)


def causes(stats: Stats) -> Mapping[str, int]:
    total: dict[str, int] = {}
    for group in stats.groups.values():
        for name, number in group.causes.items():
            total[name] = total.get(name, 0) + number
    return total


QUERIES: list[SearchQuery | ListQuery] = [
    near(1),
    near(2, exact=True),
    SearchQuery(
        collection="documents",
        vector=vector(3),
        limit=5,
        filter=Compare(field="source_name", op=CompareOp.EQ, value="serde"),
        projection=Projection(fields=("content",), vector=True),
    ),
    ListQuery(collection="documents", limit=20, offset=5),
    ListQuery(collection="documents", order=(Order(field="created_at", descending=True),)),
    ListQuery(collection="sources"),
]


async def test_equal_stores_with_different_schemas_are_found_alike(rig: Rig) -> None:
    for query in QUERIES:
        await rig.serve(query)
    stats = await rig.settled()
    assert causes(stats) == {}
    assert [group.errors for group in stats.groups.values() if group.errors] == []
    assert sum(group.identical for group in stats.groups.values()) == len(QUERIES)
    assert all(group.noise.mean == 1 for group in stats.groups.values())
    conditions = gate(stats, ShadowSettings(gate_queries_min=1, gate_latency_ratio_max=1e6))
    assert [item.detail for item in conditions if not item.passed] == []


async def test_damage_on_one_side_is_named_for_what_it_is(rig: Rig) -> None:
    await rig.write([delete("documents", ("rust", "serde", "doc-007"))], rig.new)
    await rig.write([document("doc-008", number=8, content="stale")], rig.new)
    await rig.write([document("doc-009", number=9, packed=vector(99))], rig.new)
    for number in (7, 8, 9):
        await rig.serve(near(number, exact=True))
    found = causes(await rig.settled())
    assert found.get("missing", 0) >= 1
    assert found.get("stale", 0) >= 1
    assert found.get("vector", 0) >= 1
    assert set(found) <= {"missing", "stale", "vector", "displaced"}


async def test_a_filter_on_a_field_that_the_old_store_lacks_is_a_known_difference(
    rig: Rig,
) -> None:
    query = ListQuery(
        collection="documents",
        filter=JsonEquals(field="metadata", path=("format",), value="markdown"),
    )
    await rig.serve(query)
    stats = await rig.settled()
    assert set(causes(stats)) <= {Cause.SEMANTIC.value}


async def test_live_writes_during_shadow_reads_raise_no_false_alarm(rig: Rig) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    stop = asyncio.Event()

    async def writer(mine: int) -> None:
        while not stop.is_set():
            number = rng.randrange(mine, DOCUMENTS, 2)
            key = ("rust", "serde", f"doc-{number:03}")
            packed = vector(rng.randrange(DOCUMENTS))
            write = document(key[2], number=number, packed=packed, content=str(rng.random()))
            if rng.random() < 0.4:
                write = delete("documents", key)
            with rig.ledger.writing(key):
                await rig.write([write])

    writers = [asyncio.create_task(writer(number)) for number in (0, 1)]
    for _ in range(ROUNDS):
        await rig.serve(near(rng.randrange(DOCUMENTS), exact=True))
        await rig.serve(ListQuery(collection="documents", limit=20))
    async with asyncio.timeout(60):
        await rig.reader.idle()
    stop.set()
    await asyncio.gather(*writers)
    stats = await rig.settled()
    found = causes(stats)
    print(found)
    assert sum(group.queries for group in stats.groups.values()) == 2 * ROUNDS
    assert set(found) <= {"in_flight", "tie", "displaced"}, _worst(stats)
    assert found.get("in_flight", 0) > 0


def _worst(stats: Stats) -> list[JsonValue]:
    return [sample for group in stats.groups.values() for sample in group.worst]
