"""Searches by words: web-search text parsed into a small tree, and the tree held against a text.

The syntax is that of PostgreSQL's `websearch_to_tsquery`: every word must be there, "words in
quotes" stand side by side, `or` between two groups, `-` in front of what must not be there. No
text is an error: what means nothing is left out, and so is what was said before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_WORD = re.compile(r"[^\W_]+")
_STEP = re.compile(
    r'[\s!&|()]*(?P<minus>-?)(?:"(?P<quoted>[^"]*)"?|(?P<plain>[^\s!&|()"-][^\s!&|()"]*))?'
)
_EITHER = re.compile(r"[\s!&|()]*[oO][rR](?=[^-\w]\s*\S)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word, in lower case."""

    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """Two words or more, side by side in this order."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Without:
    """What must not be there."""

    part: Word | Phrase


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf:
    """Every part holds; two parts or more."""

    parts: tuple[Word | Phrase | Without, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """At least one part holds; two parts or more."""

    parts: tuple[Word | Phrase | Without | AllOf, ...]


Leaf: TypeAlias = Word | Phrase | Without
Words: TypeAlias = Leaf | AllOf | AnyOf


def tokens(text: str) -> list[str]:
    """Return the words of a text in their order: runs of letters and digits, in lower case."""
    return [found.lower() for found in _WORD.findall(text)]


def parse(text: str) -> Words | None:
    """Return what a web-search text asks for, None if it asks for nothing."""
    groups: list[list[Leaf]] = [[]]
    for leaf in _leaves(text):
        if leaf is None:
            groups.append([])
        else:
            groups[-1].append(leaf)
    parts = list(dict.fromkeys(_one(tuple(dict.fromkeys(group))) for group in groups if group))
    if len(parts) < 2:
        return parts[0] if parts else None
    return AnyOf(parts=tuple(parts))


def _one(group: Sequence[Leaf]) -> Leaf | AllOf:
    return group[0] if len(group) == 1 else AllOf(parts=tuple(group))


def _leaves(text: str) -> Iterator[Leaf | None]:
    """Yield the operands of a text, None for each `or` between two of them."""
    at, negative, waiting = 0, False, True
    while at < len(text):
        either = None if waiting else _EITHER.match(text, at)
        if either is not None:
            yield None
            at, waiting = either.end(), True
            continue
        step = _STEP.match(text, at)
        if step is None or step.end() == at:
            return
        at = step.end()
        negative ^= bool(step["minus"])
        operand = step["quoted"] if step["quoted"] is not None else step["plain"]
        waiting = operand is None
        if operand is not None:
            leaf = _leaf(operand)
            if leaf is not None:
                yield Without(part=leaf) if negative else leaf
            negative = False


def _leaf(text: str) -> Word | Phrase | None:
    """Return one operand; a word that is written as several (well-known) is a phrase."""
    found = tokens(text)
    if not found:
        return None
    return Word(word=found[0]) if len(found) == 1 else Phrase(words=tuple(found))


def word_count(tree: Words) -> int:
    """Return how many words a tree is made of: what a search by it costs."""
    if isinstance(tree, AllOf | AnyOf):
        return sum(word_count(part) for part in tree.parts)
    if isinstance(tree, Without):
        return word_count(tree.part)
    return len(tree.words) if isinstance(tree, Phrase) else 1


def wanted(tree: Words) -> tuple[Word | Phrase, ...]:
    """Return what a match is ranked by: the words and phrases that should be there, each once."""
    return tuple(dict.fromkeys(_wanted(tree)))


def _wanted(tree: Words) -> Iterator[Word | Phrase]:
    if isinstance(tree, AllOf | AnyOf):
        for part in tree.parts:
            yield from _wanted(part)
    elif not isinstance(tree, Without):
        yield tree


def positions(text_tokens: Sequence[str]) -> dict[str, list[int]]:
    """Return where each word of a text stands."""
    found: dict[str, list[int]] = {}
    for place, token in enumerate(text_tokens):
        found.setdefault(token, []).append(place)
    return found


def occurrences(leaf: Word | Phrase, places: Mapping[str, Sequence[int]]) -> int:
    """Return how often a word or a phrase stands in a text."""
    if isinstance(leaf, Word):
        return len(places.get(leaf.word, ()))
    starts = set(places.get(leaf.words[0], ()))
    for offset, word in enumerate(leaf.words[1:], start=1):
        starts &= {place - offset for place in places.get(word, ())}
    return len(starts)


def holds(tree: Words, places: Mapping[str, Sequence[int]]) -> bool:
    """True if a text, as `positions` tells it, is what the tree asks for."""
    if isinstance(tree, AnyOf):
        return any(holds(part, places) for part in tree.parts)
    if isinstance(tree, AllOf):
        return all(holds(part, places) for part in tree.parts)
    if isinstance(tree, Without):
        return not holds(tree.part, places)
    return occurrences(tree, places) > 0
