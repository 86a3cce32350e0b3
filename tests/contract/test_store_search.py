"""The contract of the nearest-neighbour search, for every store and both layouts."""

from __future__ import annotations

import numpy as np
import pytest

from proxy.errors import Reason, Rejected
from proxy.model import Metric
from proxy.query import Compare, CompareOp, Projection, SearchMode, SearchQuery
from proxy.stores.base import Store
from tests.doc_server import DIM, document, source, vector

SERDE = Compare(field="source_name", op=CompareOp.EQ, value="serde")


def near(seed: int, weight: float) -> bytes:
    """Return a vector at a known angle to vector(0)."""
    a = np.frombuffer(vector(0), dtype="<f4").astype(np.float64)
    b = np.frombuffer(vector(seed), dtype="<f4").astype(np.float64)
    b -= a * np.dot(a, b)
    mixed = a * (1 - weight) + b / np.linalg.norm(b) * weight
    return mixed.astype("<f4").tobytes()


async def fill(store: Store) -> None:
    writes = [source("serde"), source("tokio")]
    for number in range(1, 9):
        name = "serde" if number % 2 else "tokio"
        packed = near(number, number / 10)
        writes.append(document(f"p{number}", name=name, number=number, packed=packed))
    writes.append(document("null", number=20, packed=None))
    writes.append(document("zero", number=21, packed=bytes(4 * DIM)))
    writes += [document(f"tie{n}", number=30 + n, packed=near(8, 0.8)) for n in (2, 1)]
    for result in await store.apply(writes, atomic=False, deadline_s=10):
        assert result.applied.value == "done", result


async def test_hits_come_best_first_with_ties_by_key(store: Store) -> None:
    await fill(store)
    result = await store.search(
        SearchQuery(collection="documents", vector=vector(0), limit=50), deadline_s=10
    )
    paths = [hit.record.key[2] for hit in result.hits]
    assert paths == [*(f"p{n}" for n in range(1, 8)), "tie1", "tie2", "p8"]
    assert result.metric is Metric.COSINE
    for hit in result.hits:
        assert hit.similarity == pytest.approx(1 - hit.distance)
        assert hit.record.vector is None
        assert hit.record.fields["content"]
    weights = np.array([n / 10 for n in (*range(1, 8), 8, 8, 8)])
    expected = (1 - weights) / np.hypot(1 - weights, weights)
    assert [hit.similarity for hit in result.hits] == pytest.approx(expected.tolist(), abs=1e-5)


async def test_null_and_zero_vectors_are_never_hits(store: Store) -> None:
    await fill(store)
    result = await store.search(
        SearchQuery(collection="documents", vector=vector(0), limit=1000), deadline_s=10
    )
    assert not {"null", "zero"} & {hit.record.key[2] for hit in result.hits}


async def test_a_filter_a_limit_and_a_projection_hold(store: Store) -> None:
    await fill(store)
    result = await store.search(
        SearchQuery(
            collection="documents",
            vector=vector(0),
            filter=SERDE,
            limit=3,
            projection=Projection(fields=("token_count",), vector=True),
        ),
        deadline_s=10,
    )
    assert [hit.record.key[2] for hit in result.hits] == ["p1", "p3", "p5"]
    assert all(set(hit.record.fields) == {"token_count"} for hit in result.hits)
    assert result.hits[0].record.vector == near(1, 0.1)


async def test_what_a_store_cannot_search_is_said_clearly(store: Store) -> None:
    for mode in (SearchMode.TEXT, SearchMode.KEYWORD, SearchMode.HYBRID):
        with pytest.raises(Rejected, match=mode.value) as caught:
            await store.search(
                SearchQuery(collection="documents", mode=mode, text="x"), deadline_s=10
            )
        assert caught.value.reason is Reason.UNIMPLEMENTED
    with pytest.raises(Rejected, match="3072"):
        await store.search(SearchQuery(collection="documents", vector=vector(1, 5)), deadline_s=10)
    with pytest.raises(Rejected, match="no vector"):
        await store.search(SearchQuery(collection="sources", vector=vector(1)), deadline_s=10)


async def test_the_index_is_asked_for_built_and_used(store: Store) -> None:
    await fill(store)
    states = await store.index_states()
    if store.name == "old":
        assert states == []
        await store.build_index("documents")
        return
    (state,) = states
    assert (state.collection, state.exists, state.ready) == ("documents", False, False)
    await store.build_index("documents")
    (state,) = await store.index_states()
    assert state.exists
    assert state.ready, state
    await store.build_index("documents")
    query = SearchQuery(collection="documents", vector=vector(0), limit=4, exact=False)
    indexed = await store.search(query, deadline_s=10)
    assert indexed.indexed
    exact = await store.search(
        SearchQuery(collection="documents", vector=vector(0), limit=4, exact=True), deadline_s=10
    )
    assert not exact.indexed
    assert [hit.record.key for hit in indexed.hits] == [hit.record.key for hit in exact.hits]
    for left, right in zip(indexed.hits, exact.hits, strict=True):
        assert left.distance == pytest.approx(right.distance, abs=1e-6)
