"""Reciprocal rank fusion: one ranking from the nearest records and those that match the words.

Every store fuses by this file, so a hybrid search means the same whichever store answers. The
constant and the form are those of Cormack, Clarke and Buettcher, SIGIR 2009.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from proxy.canonical import key_sort_text
from proxy.model import Key
from proxy.query import Hit, Scoring, SearchMode, SearchQuery, SearchResult

RANK_CONSTANT = 60
_DEPTH_MIN = 50
_DEPTH_MAX = 1000


def depth(limit: int) -> int:
    """Return how many hits each leg is asked for: ranks below the limit decide who is above."""
    return max(limit, min(max(2 * limit, _DEPTH_MIN), _DEPTH_MAX))


def fuse(near: Sequence[Hit], words: Sequence[Hit], *, alpha: float, limit: int) -> list[Hit]:
    """Return the best of both rankings, best first, ties by key ascending.

    Args:
        near: the nearest records, best first.
        words: those that match the words, best first.
        alpha: the share of `near`, 0 to 1. A leg without a share contributes no record.

    Returns:
        At most `limit` hits; similarity is alpha / (60 + rank in near) + (1 - alpha) / (60 + rank
        in words), ranks from 1, a leg that lacks the record adding nothing; distance is 0.
    """
    scores: dict[Key, float] = {}
    found: dict[Key, Hit] = {}
    for share, leg in ((alpha, near), (1.0 - alpha, words)):
        if share <= 0.0:
            continue
        for rank, hit in enumerate(leg, start=1):
            key = hit.record.key
            scores[key] = scores.get(key, 0.0) + share / (RANK_CONSTANT + rank)
            found.setdefault(key, hit)
    best = sorted(scores, key=lambda key: (-scores[key], key_sort_text(key)))[:limit]
    return [replace(found[key], distance=0.0, similarity=scores[key]) for key in best]


async def hybrid(
    query: SearchQuery, leg: Callable[[SearchQuery], Awaitable[SearchResult]]
) -> SearchResult:
    """Answer a hybrid search by two searches of the same store, one after the other.

    Args:
        query: mode HYBRID, with vector and text.
        leg: the store's own search; it is asked in mode VECTOR and in mode KEYWORD, and not at
            all for a leg without a share.
    """
    deeper = replace(query, limit=depth(query.limit))
    near = words = None
    if query.alpha > 0.0:
        near = await leg(replace(deeper, mode=SearchMode.VECTOR, text=""))
    if query.alpha < 1.0:
        words = await leg(replace(deeper, mode=SearchMode.KEYWORD, vector=None))
    hits = fuse(
        near.hits if near is not None else (),
        words.hits if words is not None else (),
        alpha=query.alpha,
        limit=query.limit,
    )
    told = near or words
    if told is None:
        raise ValueError(f"alpha is a share from 0 to 1, not {query.alpha}")
    return SearchResult(
        hits=tuple(hits),
        metric=told.metric,
        indexed=near is not None and near.indexed,
        scoring=Scoring.RECIPROCAL_RANK,
    )
