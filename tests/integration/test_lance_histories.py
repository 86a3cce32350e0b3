"""Long random histories, with indexes, upkeep, restarts and bulk loads between: memory agrees."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.errors import Reason, Rejected
from proxy.layouts import IndexSpec, StoreSchema
from proxy.model import Record, Write, WriteOp
from proxy.query import KeyRange, ListQuery, Order, Projection, SearchQuery
from proxy.stores.arrow import ArrowPlan
from proxy.stores.lancedb import LanceStore
from proxy.stores.memory import MemoryStore
from tests.chunks import encode_records
from tests.doc_server import vector
from tests.lance import DIM, gone, item, lance, schema, shelf


def indexed() -> StoreSchema:
    """Return the schema with an index of the vectors."""
    made = schema()
    index = IndexSpec(name="by_vector", method="ivf_flat")
    return replace(
        made, layouts={**made.layouts, "items": replace(made.layouts["items"], index=index)}
    )


def draw(rng: random.Random) -> Write:
    """Draw any write of a few keys."""
    key, number = f"k{rng.randrange(60):02d}", rng.randrange(9)
    place = rng.choice((None, None, "s0", "s1", "s2"))
    choice = rng.random()
    if choice < 0.1:
        return shelf(f"s{rng.randrange(3)}")
    if choice < 0.2:
        return gone("shelves", f"s{rng.randrange(3)}")
    if choice < 0.4:
        return gone("items", key)
    if choice < 0.55:
        return Write(
            op=WriteOp.PATCH,
            collection="items",
            key=(key,),
            fields={"metadata": {"n": None, f"m{number}": number}, "shelf": place},
            set_vector=False,
        )
    op = WriteOp.INSERT if choice < 0.7 else WriteOp.UPSERT
    return replace(
        item(key, op=op, number=number, shelf=place, colour=rng.choice(("red", None))),
        keep=frozenset(rng.sample(("title", "count"), rng.randrange(2))),
        set_vector=op is WriteOp.INSERT or rng.random() < 0.7,
    )


async def load(store: LanceStore, names: list[str]) -> bool:
    """Bulk-load new items; False if one of them was there."""
    target = await store.bulk_target("items", sorted(store.schema.stored_value_fields("items")))
    assert target is not None
    assert isinstance(target.plan, ArrowPlan)
    records = [
        Record(collection="items", key=(name,), fields=item(name).fields, vector=vector(1, DIM))
        for name in names
    ]
    chunk = encode_records(store.schema.collections["items"], target.plan, records)

    async def stream() -> AsyncIterator[bytes]:
        yield chunk

    try:
        await store.bulk_load("items", target, stream(), deadline_s=30)
    except Rejected as error:
        if error.reason is not Reason.ALREADY_EXISTS:
            raise
        return False
    return True


@pytest.mark.parametrize("number", range(3))
async def test_a_history_leaves_what_it_leaves_in_memory(tmp_path: Path, number: int) -> None:
    seed = random.randrange(10_000) * 10 + number
    print(f"seed {seed}")
    rng = random.Random(seed)
    memory = MemoryStore("new", indexed(), SystemClock())
    store = lance(tmp_path, data=indexed())
    await store.open()
    for step in range(40):
        writes = [draw(rng) for _ in range(rng.randrange(1, 25))]
        left = await memory.apply(writes, atomic=False, deadline_s=30)
        right = await store.apply(writes, atomic=False, deadline_s=30)
        for write, one, other in zip(writes, left, right, strict=True):
            assert one.applied is other.applied, (seed, step, write)
        chance = rng.random()
        if chance < 0.1:
            await store.build_index("items")
        elif chance < 0.25:
            upkeep = store.writers["items"].upkeep["items"]
            await upkeep.run()
            assert upkeep.failures == 0
        elif chance < 0.3:
            await store.close()
            await store.open()
        elif chance < 0.4:
            names = [f"k{rng.randrange(60):02d}" for _ in range(rng.randrange(2))] + [f"new{step}"]
            if await load(store, names):
                await memory.apply([item(name) for name in names], atomic=False, deadline_s=30)
    await assert_equal(store, memory, seed)
    await store.close()


async def assert_equal(store: LanceStore, memory: MemoryStore, seed: int) -> None:
    """Compare both stores: records, digests, ranges, lists and the nearest of some."""
    names = sorted(store.schema.stored_value_fields("items"))
    for collection in ("items", "shelves"):
        fields = names if collection == "items" else []
        query = ListQuery(collection=collection, limit=1000, projection=Projection(vector=True))
        found = [await side.list_records(query, deadline_s=30) for side in (memory, store)]
        assert found[0] == found[1], seed
        digests = [
            await side.key_digests(collection, KeyRange(), fields=fields, order="C", deadline_s=30)
            for side in (memory, store)
        ]
        assert digests[0] == digests[1], seed
    order = (Order(field="progress", descending=True), Order(field="count"))
    listed = ListQuery(collection="items", order=order, offset=3, limit=7)
    near = SearchQuery(collection="items", vector=vector(3, DIM), limit=12)
    assert await store.list_keys(listed, deadline_s=30) == await memory.list_keys(
        listed, deadline_s=30
    )
    for exact in (True, None):
        asked = replace(near, exact=exact)
        hits = [await side.search(asked, deadline_s=30) for side in (memory, store)]
        assert [h.record.key for h in hits[0].hits] == [h.record.key for h in hits[1].hits], seed
