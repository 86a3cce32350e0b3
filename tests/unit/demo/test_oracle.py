"""The oracle must convict exactly the values that no order of the writes explains."""

import itertools
import random

import numpy as np
import pytest

from proxy.demo.oracle import (
    Oracle,
    agrees,
    expectations,
    text_name,
    vector_name,
)
from proxy.model import Key

KEY: Key = ("rust", "serde", "a.html")
A, B, C = ({"content": name} for name in "abc")


def test_a_key_nobody_wrote_may_only_be_absent() -> None:
    oracle = Oracle()
    attempt = oracle.begin("documents", KEY, A, 1.0)
    assert oracle.allows("documents", KEY, None), "the write may not have happened yet"
    oracle.acknowledge("documents", KEY, attempt, 2.0)
    assert not oracle.allows("documents", KEY, None)
    assert oracle.allows("documents", KEY, A)


def test_a_later_acknowledged_write_overwrites_an_earlier_one() -> None:
    oracle = Oracle()
    first = oracle.begin("documents", KEY, A, 1.0)
    oracle.acknowledge("documents", KEY, first, 2.0)
    second = oracle.begin("documents", KEY, B, 3.0)
    oracle.acknowledge("documents", KEY, second, 4.0)
    assert not oracle.allows("documents", KEY, A)
    assert oracle.allows("documents", KEY, B)


def test_writes_that_overlap_may_both_be_the_last() -> None:
    oracle = Oracle()
    first = oracle.begin("documents", KEY, A, 1.0)
    second = oracle.begin("documents", KEY, B, 1.5)
    oracle.acknowledge("documents", KEY, first, 2.0)
    oracle.acknowledge("documents", KEY, second, 3.0)
    assert oracle.allows("documents", KEY, A)
    assert oracle.allows("documents", KEY, B)


def test_a_write_of_unknown_outcome_stays_possible_for_good() -> None:
    oracle = Oracle()
    oracle.begin("documents", KEY, A, 1.0)
    second = oracle.begin("documents", KEY, B, 50.0)
    oracle.acknowledge("documents", KEY, second, 51.0)
    assert oracle.allows("documents", KEY, A)
    assert not oracle.allows("documents", KEY, None)


def test_a_refused_write_leaves_what_was_there() -> None:
    oracle = Oracle()
    oracle.know("documents", KEY, A)
    attempt = oracle.begin("documents", KEY, B, 1.0)
    oracle.refuse("documents", KEY, attempt)
    assert oracle.allows("documents", KEY, A)
    assert not oracle.allows("documents", KEY, B)


def test_a_read_may_see_any_write_that_ran_beside_it() -> None:
    oracle = Oracle()
    oracle.know("documents", KEY, A)
    with oracle.reading("documents", KEY) as seen:
        for image, start in ((B, 1.0), (C, 3.0)):
            attempt = oracle.begin("documents", KEY, image, start)
            oracle.acknowledge("documents", KEY, attempt, start + 1)
    assert [attempt.image for attempt in seen] == [A, B, C]
    with oracle.reading("documents", KEY) as later:
        pass
    assert [attempt.image for attempt in later] == [C]


def test_every_order_of_a_register_is_allowed_and_no_other() -> None:
    """Random histories: the oracle allows a value iff some real-time order puts it last."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        spans = sorted((sorted(rng.sample(range(20), 2)) for _ in range(4)), key=lambda s: s[0])
        oracle = Oracle()
        steps = [(start, "begin", n) for n, (start, _) in enumerate(spans)]
        steps += [(end, "end", n) for n, (_, end) in enumerate(spans)]
        attempts = {}
        for at, what, number in sorted(steps):
            if what == "begin":
                attempts[number] = oracle.begin("documents", KEY, {"n": number}, at)
            else:
                oracle.acknowledge("documents", KEY, attempts[number], at)
        allowed = {n for n in range(4) if oracle.allows("documents", KEY, {"n": n})}
        possible = {
            order[-1]
            for order in itertools.permutations(range(4))
            if all(
                spans[late][1] >= spans[early][0]
                for position, early in enumerate(order)
                for late in order[position + 1 :]
            )
        }
        assert allowed == possible, spans


def test_what_is_dumped_is_what_is_judged() -> None:
    oracle = Oracle()
    attempt = oracle.begin("documents", KEY, A, 1.0)
    oracle.acknowledge("documents", KEY, attempt, 2.0)
    oracle.begin("documents", KEY, None, 3.0)
    (only,) = expectations(oracle.dump())
    assert (only.collection, only.key, only.images) == ("documents", KEY, (A, None))
    assert oracle.dump()["acknowledged"] == 1


@pytest.mark.parametrize(
    ("written", "found", "same"),
    [
        (None, None, True),
        (None, {"a": 1}, False),
        ({"a": 1}, None, False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 2}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {"b": 1}, False),
    ],
)
def test_only_fields_that_were_written_are_judged(
    written: dict[str, int | None] | None, found: dict[str, int | None] | None, same: bool
) -> None:
    assert agrees(written, found) is same


def test_names_of_texts_and_vectors_are_those_of_postgresql(pg_admin: str) -> None:
    import psycopg

    values = np.array([1.5, -0.0, 3e-9], dtype="<f4")
    text = "naïve 🦀"
    with psycopg.connect(pg_admin) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        row = connection.execute(
            "SELECT md5(%s), md5(vector_send(%s::real[]::vector))", (text, values.tolist())
        ).fetchone()
    assert row == (text_name(text), vector_name(values.tobytes()))
    assert vector_name(None) is None
