"""Searches by words over records held in memory: BM25 by a scan, the same for the same records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.canonical import key_sort_text
from proxy.filters import field_value, matches
from proxy.model import CollectionSpec, KeywordSpec, Record
from proxy.query import Hit, SearchQuery
from proxy.stores.memory_rows import project
from proxy.stores.words import (
    Phrase,
    Word,
    Words,
    holds,
    occurrences,
    parse,
    positions,
    tokens,
    wanted,
)

_K1 = 1.2
_B = 0.75


@dataclass(frozen=True, slots=True)
class _Text:
    """One record's words: where each stands, and how many there are."""

    record: Record
    places: Mapping[str, Sequence[int]]
    length: int


def best_words(
    records: Sequence[Record], query: SearchQuery, spec: CollectionSpec, keyword: KeywordSpec
) -> list[Hit]:
    """Return the records that match the words, by BM25 over the whole collection.

    Words are compared as they are written, in lower case: this store knows no language.
    """
    tree = parse(query.text)
    if tree is None:
        return []
    texts = [_read(record, spec, keyword) for record in records]
    scores = _Scores(texts, tree)
    found = [
        (scores.of(text), text.record)
        for text in texts
        if holds(tree, text.places) and matches(query.filter, spec, text.record)
    ]
    found.sort(key=lambda item: (-item[0], key_sort_text(item[1].key)))
    return [
        Hit(record=project(record, query.projection), distance=0.0, similarity=score)
        for score, record in found[: query.limit]
    ]


def _read(record: Record, spec: CollectionSpec, keyword: KeywordSpec) -> _Text:
    shown = (field_value(spec, record, name) for name in keyword.fields)
    found = tokens(" ".join("" if value is None else str(value) for value in shown))
    return _Text(record, positions(found), len(found))


class _Scores:
    """What a text is worth to a search (Robertson and Zaragoza, 2009; idf never negative)."""

    def __init__(self, texts: Sequence[_Text], tree: Words) -> None:
        self._average = sum(text.length for text in texts) / len(texts) if texts else 0.0
        self._weights: list[tuple[Word | Phrase, float]] = []
        for leaf in wanted(tree):
            count = sum(1 for text in texts if occurrences(leaf, text.places))
            rare = math.log(1 + (len(texts) - count + 0.5) / (count + 0.5))
            self._weights.append((leaf, rare))

    def of(self, text: _Text) -> float:
        """Return the score of a text, 0 if nothing in it is wanted."""
        score = 0.0
        for leaf, weight in self._weights:
            often = occurrences(leaf, text.places)
            if often:
                long = 1 - _B + _B * text.length / self._average
                score += weight * often * (_K1 + 1) / (often + _K1 * long)
        return score
