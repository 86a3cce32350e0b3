"""The contract of searches by words and of hybrid ones, for every store and both layouts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.errors import Reason, Rejected
from proxy.query import (
    Compare,
    CompareOp,
    Projection,
    Scoring,
    SearchMode,
    SearchQuery,
    SearchResult,
)
from proxy.stores.base import Store
from proxy.stores.fusion import depth, fuse
from tests.contract.test_store_search import near
from tests.doc_server import document, source, vector

TEXTS = {
    "p1": "kernel scheduler kernel kernel",
    "p2": "The kernel allocates memory for a scheduler that is waiting in line",
    "p3": "scheduler of threads",
    "p4": "memory barrier",
    "p5": "barrier memory",
    "p6": "zebra",
    "p7": "größe über alles",
}
WORDS = SearchQuery(collection="documents", mode=SearchMode.KEYWORD, text="kernel", limit=50)
HYBRID = replace(WORDS, mode=SearchMode.HYBRID, vector=vector(0), alpha=0.5)
SERDE = Compare(field="source_name", op=CompareOp.EQ, value="serde")
HOSTILE = (
    "'",
    "''); DROP TABLE documents; --",
    '"' * 9,
    "-" * 9_999 + "kernel",
    "x" * 9_999,
    "a or " * 2_000,
    "\\ : * <-> & | ! ( ) 'a':*A",
    "\0kernel\0",
    "\ud800",
    "%s $1 {} ${x}",
    "😀 日本語 ümläut",
    "or or or - or",
)


async def fill(store: Store) -> None:
    writes = [source("serde"), source("tokio", version="2.5.1-kernel")]
    for number, (path, text) in enumerate(TEXTS.items(), start=1):
        name = "serde" if number % 2 else "tokio"
        packed = near(number, number / 10) if number < 7 else None
        writes.append(document(path, name=name, number=number, packed=packed, content=text))
    for result in await store.apply(writes, atomic=False, deadline_s=10):
        assert result.applied.value == "done", result


async def asked(store: Store, query: SearchQuery) -> SearchResult:
    return await store.search(query, deadline_s=10)


def paths(result: SearchResult) -> list[object]:
    return [hit.record.key[-1] for hit in result.hits]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("kernel", {"p1", "p2"}),
        ("KERNEL Scheduler", {"p1", "p2"}),
        ("kernel -allocates", {"p1"}),
        ("zebra or threads", {"p3", "p6"}),
        ('"memory barrier"', {"p4"}),
        ("memory barrier", {"p4", "p5"}),
        ('memory -"memory barrier"', {"p2", "p5"}),
        ("über", {"p7"}),
        ("unheard", set()),
        ("", set()),
    ],
)
async def test_words_mean_what_they_mean_to_web_searches(
    wordy: Store, text: str, found: set[str]
) -> None:
    await fill(wordy)
    assert set(paths(await asked(wordy, replace(WORDS, text=text)))) == found


async def test_matches_come_best_first_and_say_what_they_are_ranked_by(wordy: Store) -> None:
    await fill(wordy)
    result = await asked(wordy, WORDS)
    assert paths(result) == ["p1", "p2"]
    assert result.scoring is wordy.capabilities.keyword_scoring
    assert result.scoring in (Scoring.TS_RANK, Scoring.BM25)
    assert not result.indexed
    for hit in result.hits:
        assert hit.distance == 0.0
        assert hit.similarity > 0.0
        assert hit.record.vector is None
        assert hit.record.fields["content"]


async def test_equal_ranks_are_ordered_by_key(wordy: Store) -> None:
    writes = [source("serde")]
    writes += [document(f"t{n}", number=n, content="equal words") for n in (3, 1, 2)]
    await wordy.apply(writes, atomic=False, deadline_s=10)
    result = await asked(wordy, replace(WORDS, text="equal"))
    assert paths(result) == ["t1", "t2", "t3"]
    assert len({hit.similarity for hit in result.hits}) == 1
    assert paths(await asked(wordy, replace(WORDS, text="equal", limit=2))) == ["t1", "t2"]


async def test_words_with_a_filter_a_limit_and_a_projection(wordy: Store) -> None:
    await fill(wordy)
    result = await asked(
        wordy,
        replace(
            WORDS,
            text="kernel or scheduler or memory",
            filter=SERDE,
            limit=2,
            projection=Projection(fields=("token_count",), vector=True),
        ),
    )
    assert len(result.hits) == 2
    assert set(paths(result)) < {"p1", "p3", "p5"}
    for hit in result.hits:
        assert set(hit.record.fields) == {"token_count"}
        assert hit.record.vector is not None


async def test_a_key_and_a_packed_field_are_searched_by_words(wordy: Store) -> None:
    await fill(wordy)
    query = SearchQuery(collection="sources", mode=SearchMode.KEYWORD, text="tokio kernel")
    assert paths(await asked(wordy, query)) == ["tokio"]


async def test_no_text_is_an_error_and_none_reaches_the_data(wordy: Store) -> None:
    await fill(wordy)
    for text in HOSTILE:
        await asked(wordy, replace(WORDS, text=text))
    assert paths(await asked(wordy, WORDS)) == ["p1", "p2"]


async def test_a_text_too_long_to_be_indexed_is_stored_all_the_same(wordy: Store) -> None:
    await wordy.apply([source("serde")], atomic=False, deadline_s=10)
    await wordy.build_index("documents")
    text = "kernel " + " ".join(f"{number:x}" for number in range(400_000))
    (result,) = await wordy.apply([document("long", content=text)], atomic=False, deadline_s=30)
    assert result.applied.value == "done", result
    assert paths(await asked(wordy, WORDS)) == ["long"]


async def test_a_hybrid_search_is_the_fusion_of_its_two_legs(wordy: Store) -> None:
    await fill(wordy)
    near_ones = await asked(
        wordy, replace(HYBRID, mode=SearchMode.VECTOR, text="", limit=depth(HYBRID.limit))
    )
    wordy_ones = await asked(
        wordy, replace(HYBRID, mode=SearchMode.KEYWORD, vector=None, limit=depth(HYBRID.limit))
    )
    for alpha in (0.0, 0.3, 0.5, 0.7, 1.0):
        result = await asked(wordy, replace(HYBRID, alpha=alpha, limit=5))
        expected = fuse(near_ones.hits, wordy_ones.hits, alpha=alpha, limit=5)
        assert list(result.hits) == expected
        assert result.scoring is Scoring.RECIPROCAL_RANK
    assert paths(await asked(wordy, replace(HYBRID, alpha=0.0))) == ["p1", "p2"]
    assert paths(await asked(wordy, replace(HYBRID, alpha=1.0))) == [f"p{n}" for n in range(1, 7)]


async def test_a_hybrid_search_filters_both_legs(wordy: Store) -> None:
    await fill(wordy)
    result = await asked(wordy, replace(HYBRID, filter=SERDE))
    assert paths(result) == ["p1", "p3", "p5"]


async def test_a_text_with_its_vector_is_searched_by_the_vector(wordy: Store) -> None:
    await fill(wordy)
    by_text = replace(HYBRID, mode=SearchMode.TEXT)
    by_vector = replace(HYBRID, mode=SearchMode.VECTOR, text="")
    assert await asked(wordy, by_text) == await asked(wordy, by_vector)


async def test_a_store_says_which_searches_it_can_do(wordy: Store) -> None:
    assert wordy.capabilities.search_modes == set(SearchMode)


async def test_a_store_without_words_searches_by_vector_alone(store: Store) -> None:
    assert store.capabilities.search_modes == {SearchMode.VECTOR, SearchMode.TEXT}


async def test_what_nobody_searches_by_words_is_said_clearly(wordy: Store) -> None:
    for mode in (SearchMode.KEYWORD, SearchMode.HYBRID):
        query = replace(HYBRID, collection="crate_configs", mode=mode)
        with pytest.raises(Rejected, match=r"keyword\.fields") as caught:
            await asked(wordy, query)
        assert caught.value.reason is Reason.UNIMPLEMENTED
    with pytest.raises(Rejected, match="no vector"):
        await asked(wordy, replace(HYBRID, collection="sources"))


async def test_an_index_of_words_is_optional_built_once_and_changes_nothing(wordy: Store) -> None:
    await fill(wordy)
    before = await asked(wordy, WORDS)
    required = {
        state.name for state in await wordy.index_states() if not state.optional and state.exists
    }
    assert not required
    for _ in range(2):
        await wordy.build_index("documents")
    states = [state for state in await wordy.index_states() if state.collection == "documents"]
    assert all(state.ready for state in states), states
    assert await asked(wordy, WORDS) == before
