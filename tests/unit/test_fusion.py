"""Reciprocal rank fusion: pure, deterministic, and the single rankings at its two ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Metric, Record
from proxy.query import Hit, Scoring, SearchMode, SearchQuery, SearchResult
from proxy.stores.fusion import depth, fuse, hybrid

ranking = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


def hits(names: Sequence[str]) -> list[Hit]:
    return [
        Hit(record=Record(collection="c", key=(name,), fields={}), distance=rank, similarity=-rank)
        for rank, name in enumerate(names)
    ]


def names(found: Sequence[Hit]) -> str:
    return "".join(str(hit.record.key[0]) for hit in found)


def test_a_record_in_both_rankings_is_ahead_of_the_first_of_one() -> None:
    found = fuse(hits("ab"), hits("cb"), alpha=0.5, limit=10)
    assert names(found) == "bac"
    assert found[0].similarity == pytest.approx(0.5 / 62 + 0.5 / 62)
    assert found[1].similarity == found[2].similarity == 0.5 / 61
    assert {hit.distance for hit in found} == {0.0}


@given(ranking, ranking)
def test_the_ends_of_alpha_are_the_single_rankings(near: list[str], words: list[str]) -> None:
    assert names(fuse(hits(near), hits(words), alpha=1.0, limit=5)) == "".join(near[:5])
    assert names(fuse(hits(near), hits(words), alpha=0.0, limit=5)) == "".join(words[:5])


@given(ranking, ranking, st.floats(0, 1))
def test_a_fusion_is_in_order_with_ties_by_key(
    near: list[str], words: list[str], alpha: float
) -> None:
    found = fuse(hits(near), hits(words), alpha=alpha, limit=20)
    order = [(-hit.similarity, hit.record.key) for hit in found]
    assert order == sorted(order)
    assert len(set(names(found))) == len(found)
    if 0 < alpha < 1:
        assert set(names(found)) == {*near, *words}


def test_legs_are_fetched_deeper_than_the_limit_within_a_bound() -> None:
    assert [depth(limit) for limit in (1, 25, 100, 800, 1000)] == [50, 50, 200, 1000, 1000]


async def test_a_hybrid_search_asks_each_leg_once_and_none_without_a_share() -> None:
    asked: list[SearchQuery] = []

    async def leg(query: SearchQuery) -> SearchResult:
        asked.append(query)
        near = query.mode is SearchMode.VECTOR
        return SearchResult(
            hits=tuple(hits("abc" if near else "cd")), metric=Metric.DOT, indexed=near
        )

    query = SearchQuery(collection="c", mode=SearchMode.HYBRID, vector=b"1234", text="x", limit=2)
    result = await hybrid(query, leg)
    assert names(result.hits) == "ca"
    assert result.scoring is Scoring.RECIPROCAL_RANK
    assert (result.metric, result.indexed) == (Metric.DOT, True)
    assert [(item.mode, item.vector, item.text, item.limit) for item in asked] == [
        (SearchMode.VECTOR, b"1234", "", 50),
        (SearchMode.KEYWORD, None, "x", 50),
    ]
    for alpha, mode in ((0.0, SearchMode.KEYWORD), (1.0, SearchMode.VECTOR)):
        asked.clear()
        ends = SearchQuery(
            collection="c", mode=SearchMode.HYBRID, vector=b"1234", text="x", alpha=alpha
        )
        await hybrid(ends, leg)
        assert [item.mode for item in asked] == [mode]
