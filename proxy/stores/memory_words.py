"""Searches by words over records held in memory: BM25 by a scan, the same for the same records."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proxy.canonical import key_sort_text
from proxy.filters import field_value, matches
from proxy.model import CollectionSpec, KeywordSpec, Record
from proxy.query import Hit, SearchQuery
from proxy.stores.memory_rows import project
from proxy.words import (
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
class Text:
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
    texts = [read_text(record, spec, keyword) for record in records]
    counts = Counts(tree)
    counts.add(texts)
    best = Best(tree, counts, query.limit)
    best.add(text for text in texts if matches(query.filter, spec, text.record))
    return [
        Hit(record=project(record, query.projection), distance=0.0, similarity=score)
        for score, record in best.found
    ]


def read_text(record: Record, spec: CollectionSpec, keyword: KeywordSpec) -> Text:
    """Return the words of a record's keyword fields."""
    shown = (field_value(spec, record, name) for name in keyword.fields)
    found = tokens(" ".join("" if value is None else str(value) for value in shown))
    return Text(record, positions(found), len(found))


class Counts:
    """What BM25 asks of a whole collection, counted a few texts at a time."""

    def __init__(self, tree: Words) -> None:
        self.leaves = wanted(tree)
        self.holding = [0] * len(self.leaves)
        self.texts = 0
        self.words = 0

    def add(self, texts: Iterable[Text]) -> None:
        """Count some more texts."""
        for text in texts:
            self.texts += 1
            self.words += text.length
            for at, leaf in enumerate(self.leaves):
                self.holding[at] += bool(occurrences(leaf, text.places))


class Best:
    """The best texts of those that were shown, at most `limit`, ties by key ascending."""

    def __init__(self, tree: Words, counts: Counts, limit: int) -> None:
        self._tree = tree
        self._scores = _Scores(counts)
        self._limit = limit
        self.found: list[tuple[float, Record]] = []

    def add(self, texts: Iterable[Text]) -> None:
        """Keep what is good enough of some more texts."""
        fresh = [
            (self._scores.of(text), text.record) for text in texts if holds(self._tree, text.places)
        ]
        self.found = heapq.nsmallest(self._limit, [*self.found, *fresh], key=_rank)


def _rank(item: tuple[float, Record]) -> tuple[float, object]:
    return -item[0], key_sort_text(item[1].key)


class _Scores:
    """What a text is worth to a search (Robertson and Zaragoza, 2009; idf never negative)."""

    def __init__(self, counts: Counts) -> None:
        self._average = counts.words / counts.texts if counts.words else 1.0
        self._weights: list[tuple[Word | Phrase, float]] = []
        for leaf, count in zip(counts.leaves, counts.holding, strict=True):
            rare = math.log(1 + (counts.texts - count + 0.5) / (count + 0.5))
            self._weights.append((leaf, rare))

    def of(self, text: Text) -> float:
        """Return the score of a text, 0 if nothing in it is wanted."""
        score = 0.0
        for leaf, weight in self._weights:
            often = occurrences(leaf, text.places)
            if often:
                long = 1 - _B + _B * text.length / self._average
                score += weight * often * (_K1 + 1) / (often + _K1 * long)
        return score
