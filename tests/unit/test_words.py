"""Searches by words: what a web-search text asks for, and that none is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.words import (
    AllOf,
    AnyOf,
    Phrase,
    Without,
    Word,
    Words,
    holds,
    occurrences,
    parse,
    positions,
    tokens,
    wanted,
    word_count,
)

A, B, C = (Word(word=name) for name in "abc")
BC = Phrase(words=("b", "c"))
OR = Word(word="or")

pieces = st.sampled_from(["a", "b", "or", "OR", "-", '"', " ", "!", "&", "|", "(", ")", "é", "_"])
hostile = st.text(max_size=60) | st.lists(pieces, max_size=40).map("".join)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", None),
        ("  - ! ", None),
        ('""', None),
        ("A", A),
        ("a b", AllOf(parts=(A, B))),
        ('a "B c"', AllOf(parts=(A, BC))),
        ('a "b c', AllOf(parts=(A, BC))),
        ("a b-c", AllOf(parts=(A, BC))),
        ("a -b", AllOf(parts=(A, Without(part=B)))),
        ("a - b", AllOf(parts=(A, Without(part=B)))),
        ('-"b c"', Without(part=BC)),
        ("--a", A),
        ("a or b", AnyOf(parts=(A, B))),
        ("a OR b c", AnyOf(parts=(A, AllOf(parts=(B, C))))),
        ("a or -b", AnyOf(parts=(A, Without(part=B)))),
        ("a or", AllOf(parts=(A, OR))),
        ("or a", AllOf(parts=(OR, A))),
        ("a - or", AllOf(parts=(A, Without(part=OR)))),
        ("a (or) b", AnyOf(parts=(A, B))),
        ("a ,or b", AllOf(parts=(A, OR, B))),
        ('a or "" b', AnyOf(parts=(A, B))),
        ("a & b | c", AllOf(parts=(A, B, C))),
    ],
)
def test_a_text_means_what_it_means_to_web_searches(text: str, tree: Words | None) -> None:
    assert parse(text) == tree


@given(hostile)
def test_no_text_is_an_error(text: str) -> None:
    tree = parse(text)
    if tree is not None:
        assert not holds(tree, {}) or not wanted(tree) or "-" in text
        for leaf in wanted(tree):
            assert occurrences(leaf, positions(tokens(text))) >= 0


@given(st.lists(st.sampled_from("abc"), max_size=8), st.text("ab", min_size=1, max_size=3))
def test_a_phrase_is_found_where_it_stands(text: list[str], sought: str) -> None:
    words = tuple(sought)
    leaf = Phrase(words=words) if len(words) > 1 else Word(word=sought)
    there = sum(
        tuple(text[start : start + len(words)]) == words
        for start in range(len(text) - len(words) + 1)
    )
    assert occurrences(leaf, positions(text)) == there


@pytest.mark.parametrize("text", ["-" * 10_000 + "a", "a or " * 2_000, '"' * 10_000, "a " * 5_000])
def test_a_long_text_is_read_in_one_go(text: str) -> None:
    tree = parse(text)
    if tree is not None:
        assert holds(tree, positions(["a", "or"]))


@pytest.mark.parametrize(
    ("text", "again", "count"),
    [
        ("a", "a A a a", 1),
        ("a -b", "a -b a -B", 2),
        ("a or b c", "a or b c b or a", 3),
        ('"b c" a', '"b c" a "B c" b-c', 3),
    ],
)
def test_what_is_said_again_is_not_asked_again(text: str, again: str, count: int) -> None:
    assert parse(again) == parse(text)
    tree = parse(text)
    assert tree is not None
    assert word_count(tree) == count


def test_what_must_not_be_there_is_not_ranked_by() -> None:
    tree = parse('a -b or "b c" a')
    assert tree is not None
    assert wanted(tree) == (A, BC)
    assert holds(tree, positions(["a"]))
    assert not holds(tree, positions(["a", "b"]))
    assert holds(tree, positions(["b", "c", "a"]))
