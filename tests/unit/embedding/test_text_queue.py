"""The queue of texts: fair, bounded, nothing lost."""

from __future__ import annotations

import random
from contextlib import suppress
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.embedding import text_queue
from proxy.embedding.text_queue import Call, TextQueue
from proxy.errors import Rejected, Unavailable


def add(queue: TextQueue, *texts: str, model: str = "m", urgent: bool = False) -> Call:
    return queue.add(model, texts, urgent=urgent, on_done=lambda: None)


def take(queue: TextQueue, texts_max: int, *, urgent: bool = False) -> list[str]:
    embed = queue.take(urgent=urgent, texts_max=texts_max)
    return list(embed.texts) if embed else []


def send(queue: TextQueue, texts_max: int) -> dict[int, str]:
    embed = queue.take(urgent=False, texts_max=texts_max)
    if embed is None:
        return {}
    return {
        text_id: f"{embed.model} {text}"
        for text_id, text in zip(embed.ids, embed.texts, strict=True)
    }


def test_callers_take_turns() -> None:
    queue = TextQueue(texts_max=100)
    add(queue, *(f"backfill {number}" for number in range(50)))
    add(queue, "insert")
    add(queue, "one", "two")
    assert take(queue, 4) == ["backfill 0", "insert", "one", "backfill 1"]
    assert take(queue, 3) == ["two", "backfill 2", "backfill 3"]


def test_a_batch_is_of_one_model_and_the_other_one_is_next() -> None:
    queue = TextQueue(texts_max=100)
    add(queue, "a", "b", "c")
    add(queue, "x", "y", model="n")
    add(queue, "d")
    assert take(queue, 3) == ["a", "d", "b"]
    assert take(queue, 3) == ["x", "y"]
    assert take(queue, 3) == ["c"]


def test_a_model_is_not_starved_by_another_with_a_long_queue() -> None:
    queue = TextQueue(texts_max=1000)
    for number in range(10):
        add(queue, *(f"{number} {text}" for text in range(20)))
    add(queue, "x", model="n")
    taken = [take(queue, 8) for _ in range(3)]
    assert ["x"] in taken


def test_long_texts_make_a_short_frame_and_one_too_long_goes_alone() -> None:
    queue = TextQueue(texts_max=100)
    long = "x" * (text_queue.CHARACTERS_MAX + 1)
    add(queue, "a", long, "b")
    assert take(queue, 10) == ["a"]
    assert take(queue, 10) == [long]
    assert take(queue, 10) == ["b"]


def test_searches_and_documents_never_share_a_vector() -> None:
    queue = TextQueue(texts_max=100)
    add(queue, "same")
    add(queue, "same", urgent=True)
    assert take(queue, 10) == ["same"]
    assert take(queue, 10, urgent=True) == ["same"]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_happens_each_caller_gets_his_own_vectors_or_an_error(seed: int) -> None:
    rng = random.Random(seed)
    queue = TextQueue(texts_max=12)
    done: set[int] = set()
    calls: dict[int, tuple[Call, list[str]]] = {}
    in_worker: dict[int, str] = {}
    dropped: set[int] = set()
    for step in range(60):
        choice = rng.random()
        if choice < 0.4:
            texts = [f"text {rng.randrange(12)}" for _ in range(rng.randrange(1, 5))]
            model = rng.choice("mn")
            with suppress(Rejected):
                call = queue.add(model, texts, urgent=False, on_done=partial(done.add, step))
                calls[step] = (call, [f"{model} {text}" for text in texts])
        elif choice < 0.6:
            sent = send(queue, rng.randrange(1, 5))
            assert not set(sent) & set(in_worker)
            in_worker |= sent
        elif choice < 0.8 and in_worker:
            for text_id in rng.sample(sorted(in_worker), rng.randrange(1, len(in_worker) + 1)):
                queue.settle({text_id: in_worker.pop(text_id).encode()})
        elif choice < 0.9 and calls:
            number = rng.choice(sorted(calls))
            dropped.add(number)
            queue.drop(calls[number][0])
        elif choice > 0.95:
            if rng.random() < 0.8:
                queue.died()
            queue.fail_all(Unavailable("gone"))
            in_worker.clear()
        assert 0 <= queue.waiting(urgent=False) <= 24  # 12 of each model
        assert queue.outstanding(urgent=False) == len(in_worker)
    in_worker |= send(queue, 5)
    while in_worker:
        queue.settle({text_id: text.encode() for text_id, text in in_worker.items()})
        in_worker = send(queue, 5)
    assert queue.waiting(urgent=False) == queue.outstanding(urgent=False) == 0
    for number, (call, texts) in calls.items():
        if number in dropped and number not in done:
            continue
        assert number in done, f"seed {seed}"
        try:
            assert call.vectors() == [text.encode() for text in texts], f"seed {seed}"
        except (Unavailable, Rejected):
            continue


def died_over(*texts: str) -> TextQueue:
    """Return a queue whose worker died twice over some texts."""
    queue = TextQueue(texts_max=100)
    for _ in range(2):
        add(queue, *texts)
        take(queue, len(texts))
        queue.died()
        queue.fail_all(Unavailable("gone", where="embedder"))
    return queue


def test_a_text_over_which_the_worker_may_have_died_has_it_for_itself() -> None:
    queue = died_over("bad", "good")
    add(queue, "x")
    (x,) = send(queue, 9)
    add(queue, "bad", "y")
    add(queue, "search", urgent=True)
    assert take(queue, 9) == []
    assert take(queue, 9, urgent=True) == []  # else searches would keep the text away for ever
    queue.settle({x: b"x"})
    embed = queue.take(urgent=True, texts_max=9)
    assert embed is not None
    assert (embed.texts, embed.urgent) == (["bad"], False)
    assert take(queue, 9) == take(queue, 9, urgent=True) == []
    queue.settle({embed.ids[0]: b"bad"})
    assert take(queue, 9, urgent=True) == ["search"]
    assert take(queue, 9) == ["y"]


def test_nothing_waits_for_a_suspect_whose_caller_is_gone() -> None:
    queue = died_over("bad", "good")
    add(queue, "x")
    (x,) = send(queue, 9)
    gone = add(queue, "bad")
    add(queue, "y")
    assert take(queue, 9) == []
    queue.drop(gone)
    queue.settle({x: b"x"})
    assert take(queue, 9) == ["y"]
    assert queue.waiting(urgent=False) == 0
