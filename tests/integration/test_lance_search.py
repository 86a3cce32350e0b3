"""A search by the vector's index: a filter never leaves fewer hits than there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from proxy.layouts import IndexSpec
from proxy.query import And, Compare, CompareOp, Filter, SearchQuery
from proxy.stores.lancedb import LanceStore
from tests.lance import DIM, item, lance, schema

ROWS = 5200
"""More than 64 * 64: as many partitions as the root of it, and 64 are looked into at once."""
RARE = 12
SEED = 20261122


def packed(numbers: np.ndarray) -> bytes:
    return numbers.astype("<f4").tobytes()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LanceStore]:
    """Rows all over the sphere, and a few rare ones at the end of it where nobody asks."""
    made = schema()
    index = IndexSpec(name="by_vector", method="ivf_flat")
    layouts = {**made.layouts, "items": replace(made.layouts["items"], index=index)}
    store = lance(tmp_path, data=replace(made, layouts=layouts))
    await store.open()
    rng = np.random.default_rng(SEED)
    writes = []
    for number in range(ROWS):
        rare = number < RARE
        word = "rare" if rare else "common"
        vector = rng.standard_normal(DIM)
        if rare:
            vector = -target() + vector / 20
        made_item = item(f"k{number:05d}", number=number, title=word, colour=word)
        writes.append(replace(made_item, vector=packed(vector)))
    await store.apply(writes, atomic=False, deadline_s=60)
    await store.build_index("items")
    yield store
    await store.close()


def target() -> np.ndarray:
    return np.array([1.0] + [0.0] * (DIM - 1))


def equals(field: str, value: str) -> Compare:
    return Compare(field=field, op=CompareOp.EQ, value=value)


async def test_a_filter_that_leaves_little_far_away_finds_all_of_it(store: LanceStore) -> None:
    few = And(parts=(equals("title", "rare"), equals("id", "k00003")))
    asked: list[tuple[Filter, int, int]] = [
        (equals("title", "rare"), 10, 10),
        (equals("title", "rare"), 50, RARE),
        (equals("colour", "rare"), 10, 10),  # packed, so it is decided here and not by LanceDB
        (equals("colour", "rare"), 50, RARE),
        (few, 10, 1),
        (equals("title", "none"), 10, 0),
    ]
    for condition, limit, there in asked:
        query = SearchQuery(
            collection="items", vector=packed(target()), limit=limit, filter=condition, exact=False
        )
        found = await store.search(query, deadline_s=20)
        exact = await store.search(replace(query, exact=True), deadline_s=20)
        assert found.indexed
        keys = [hit.record.key for hit in found.hits]
        assert len(keys) == there, (condition, limit)
        assert keys == [hit.record.key for hit in exact.hits], (condition, limit)
    query = SearchQuery(collection="items", vector=packed(target()), limit=ROWS, exact=False)
    assert len((await store.search(query, deadline_s=20)).hits) == ROWS
