"""Searches through the read path: each store by its own model, whoever answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.clock import SystemClock
from proxy.embedding.queries import QueryEmbedder
from proxy.errors import Reason, Rejected, Unavailable
from proxy.layouts import StoreSchema
from proxy.ledger.types import Phase
from proxy.model import EmbeddingSpec, KeywordSpec, VectorSpec, Write, WriteOp
from proxy.query import Scoring, SearchMode, SearchQuery
from proxy.stores.memory import MemoryStore
from tests.doc_server import schemas
from tests.embedding import FakeEmbedder, vector_of
from tests.rig import Faulty, Rig, context, replica

DIMS = {"small": 24, "large": 48}
MODELS = {"old": "small", "new": "large"}
TEXTS = {"a": "borrow checker rules", "b": "async runtime", "c": "borrow books from a library"}
TEXT = SearchQuery(collection="documents", mode=SearchMode.TEXT, text="borrow checker")
DOWN = Unavailable("gone", where="store")


def embedded(schema: StoreSchema, vector: VectorSpec | None) -> StoreSchema:
    """Return a schema whose documents have such vectors, and words."""
    spec = replace(
        schema.collections["documents"], vector=vector, keyword=KeywordSpec(fields=("content",))
    )
    return replace(schema, collections={**schema.collections, "documents": spec})


def by_model(model: str) -> VectorSpec:
    embedding = EmbeddingSpec(model=model, template="{content}", fields=("content",))
    return VectorSpec(dim=DIMS[model], embedding=embedding)


async def filled(specs: dict[str, VectorSpec | None]) -> dict[str, Faulty]:
    """Return two stores with the same documents, each with vectors of its own model."""
    stores = {}
    for side, vector in specs.items():
        store = MemoryStore(side, embedded(schemas()[side], vector), SystemClock())
        model = MODELS[side]
        writes = [Write(op=WriteOp.UPSERT, collection="sources", key=("rust", "std"), fields={})]
        writes += [
            Write(
                op=WriteOp.UPSERT,
                collection="documents",
                key=("rust", "std", path),
                fields={"content": text},
                vector=None if vector is None else vector_of(model, text, DIMS[model]),
            )
            for path, text in TEXTS.items()
        ]
        await store.apply(writes, atomic=True, deadline_s=5)
        stores[side] = Faulty(store)
    return stores


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder(DIMS)


@pytest.fixture
async def rig(embedder: FakeEmbedder) -> AsyncIterator[Rig]:
    stores = await filled({side: by_model(model) for side, model in MODELS.items()})
    async with replica(stores=stores, embedder=embedder) as made:
        await made.go(Phase.RAMP, percent=50)
        yield made


async def found(rig: Rig, query: SearchQuery) -> tuple[list[object], str, Scoring]:
    answer = await rig.plane.search(query, context())
    paths: list[object] = [hit.record.key[-1] for hit in answer.result.hits]
    return paths, answer.served.store, answer.result.scoring


@pytest.mark.parametrize("side", ["old", "new"])
async def test_a_text_is_embedded_by_the_model_of_the_store_that_answers(
    rig: Rig, embedder: FakeEmbedder, side: str
) -> None:
    rig.chooser.new = side == "new"
    paths, store, scoring = await found(rig, TEXT)
    assert (paths[0], store, scoring) == ("a", side, Scoring.SIMILARITY)
    assert embedder.texts == [(MODELS[side], "borrow checker")]


async def test_a_store_that_stands_in_gets_a_vector_of_its_own_model(
    rig: Rig, embedder: FakeEmbedder
) -> None:
    rig.stores["old"].fail_reads = DOWN
    paths, store, _ = await found(rig, TEXT)
    assert (paths[0], store) == ("a", "new")
    assert [model for model, _ in embedder.texts] == ["small", "large"]


async def test_words_need_no_embedder_and_a_hybrid_search_by_words_alone_neither(
    rig: Rig, embedder: FakeEmbedder
) -> None:
    embedder.fail = Unavailable("gone", where="embedder")
    words = replace(TEXT, mode=SearchMode.KEYWORD)
    assert await found(rig, words) == (["a"], "old", Scoring.BM25)
    hybrid = replace(TEXT, mode=SearchMode.HYBRID, alpha=0.0)
    assert await found(rig, hybrid) == (["a"], "old", Scoring.RECIPROCAL_RANK)


async def test_a_hybrid_search_fuses_meaning_and_words(rig: Rig) -> None:
    paths, _, scoring = await found(rig, replace(TEXT, mode=SearchMode.HYBRID))
    assert scoring is Scoring.RECIPROCAL_RANK
    assert paths[0] == "a"
    assert len(paths) == 3


async def test_an_embedder_that_is_down_is_no_fault_of_a_store(
    rig: Rig, embedder: FakeEmbedder
) -> None:
    embedder.fail = Unavailable("the embedder is gone", where="embedder")
    side = rig.reader._parts.sides["old"]
    for _ in range(20):
        with pytest.raises(Unavailable, match="embedder"):
            await found(rig, TEXT)
    assert side.breaker.state == "closed"
    assert set(embedder.calls.values()) == {20, 0}


async def test_too_many_waiting_texts_are_told_to_the_caller(
    rig: Rig, embedder: FakeEmbedder
) -> None:
    embedder.fail = Rejected("full", reason=Reason.RESOURCE_EXHAUSTED)
    with pytest.raises(Rejected) as caught:
        await found(rig, TEXT)
    assert caught.value.reason is Reason.RESOURCE_EXHAUSTED


async def test_a_search_ends_at_its_deadline_though_the_embedder_hangs(
    rig: Rig, embedder: FakeEmbedder
) -> None:
    embedder.hang()
    with pytest.raises(Unavailable, match=r"0\.05 s"):
        await rig.plane.search(TEXT, context(deadline_s=0.05))


async def test_a_store_without_vectors_answers_no_search_by_meaning() -> None:
    stores = await filled({"old": None, "new": by_model("large")})
    async with replica(stores=stores, embedder=FakeEmbedder(DIMS)) as rig:
        await rig.go(Phase.SHADOW)
        with pytest.raises(Rejected, match="the vector of 'documents'") as caught:
            await found(rig, TEXT)
        assert caught.value.reason is Reason.FAILED_PRECONDITION
        assert (await found(rig, replace(TEXT, mode=SearchMode.KEYWORD)))[0] == ["a"]
        await rig.go(Phase.RAMP, percent=0)
        paths, store, _ = await found(rig, TEXT)
        assert (paths[0], store) == ("a", "new")
        rig.stores["new"].fail_reads = DOWN
        with pytest.raises(Unavailable):
            await found(rig, TEXT)


async def test_nobody_who_could_embed_a_text_is_said_clearly() -> None:
    schema = embedded(schemas()["old"], by_model("small"))
    with pytest.raises(Rejected, match="no embedder") as caught:
        await QueryEmbedder().for_store(TEXT, schema, 1.0)
    assert caught.value.reason is Reason.UNIMPLEMENTED
    embedder = QueryEmbedder(FakeEmbedder(DIMS))
    with pytest.raises(Rejected, match="no model makes the vectors"):
        await embedder.for_store(TEXT, embedded(schema, VectorSpec(dim=3)), 1.0)
    with pytest.raises(Rejected, match="holds no vectors of documents"):
        await embedder.for_store(TEXT, embedded(schema, None), 1.0)


async def test_a_vector_that_was_given_is_kept() -> None:
    schema = embedded(schemas()["old"], by_model("small"))
    given = replace(TEXT, mode=SearchMode.HYBRID, vector=bytes(4 * 24))
    assert await QueryEmbedder().for_store(given, schema, 1.0) is given
    words = replace(TEXT, mode=SearchMode.KEYWORD)
    assert await QueryEmbedder().for_store(words, schema, 1.0) is words
