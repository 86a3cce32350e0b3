"""Chunks of texts: near in length, within the bound, searches first, nobody left behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.embedding.chunks import TEXTS_MAX, Piece, Pieces


def piece(text_id: int, length: int, *, urgent: bool = False, model: str = "m") -> Piece:
    return Piece(text_id=text_id, model=model, urgent=urgent, text="x" * length)


def ids(chunk: list[Piece]) -> list[int]:
    return [item.text_id for item in chunk]


def test_the_oldest_text_takes_those_of_its_length_along() -> None:
    pieces = Pieces(clipped={"m": 1000}, characters_max=1000)
    pieces.add([piece(1, 300), piece(2, 20), piece(3, 310), piece(4, 25), piece(5, 290)])
    assert sorted(ids(pieces.take())) == [1, 3, 5]
    assert sorted(ids(pieces.take())) == [2, 4]
    assert pieces.take() == []


def test_searches_come_first_and_alone() -> None:
    pieces = Pieces(clipped={"m": 1000}, characters_max=1000)
    pieces.add([piece(1, 20), piece(2, 20, urgent=True), piece(3, 20), piece(4, 21, urgent=True)])
    assert ids(pieces.take()) == [2, 4]
    assert ids(pieces.take()) == [1, 3]


def test_models_do_not_mix() -> None:
    pieces = Pieces(clipped={}, characters_max=1000)
    pieces.add([piece(1, 20), piece(2, 20, model="n"), piece(3, 20)])
    assert ids(pieces.take()) == [1, 3]
    assert ids(pieces.take()) == [2]


def test_what_a_model_does_not_read_does_not_count() -> None:
    pieces = Pieces(clipped={"m": 100}, characters_max=400)
    pieces.add([piece(number, 5000 * number) for number in range(1, 6)])
    assert len(pieces.take()) == 4


def test_models_take_turns_and_searches_come_before_every_turn() -> None:
    pieces = Pieces(clipped={}, characters_max=64)
    pieces.add([piece(number, 64) for number in (1, 2, 3)])
    pieces.add([piece(4, 64, model="n"), piece(5, 64, model="n")])
    assert ids(pieces.take()) == [1]
    assert ids(pieces.take()) == [4]
    pieces.add([piece(6, 64, model="n", urgent=True)])
    assert [ids(pieces.take()) for _ in range(4)] == [[6], [2], [5], [3]]


def test_a_text_that_is_given_up_is_not_computed() -> None:
    pieces = Pieces(clipped={}, characters_max=1000)
    pieces.add([piece(1, 20), piece(2, 30), piece(3, 20, urgent=True)])
    assert pieces.remove([3, 1, 7]) == [3, 1]
    assert pieces.remove([1]) == []
    assert ids(pieces.take()) == [2]
    assert pieces.take() == []


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.booleans(), st.sampled_from("mn")), max_size=150)
)
def test_every_text_is_computed_once_in_chunks_within_the_bound(
    texts: list[tuple[int, bool, str]],
) -> None:
    pieces = Pieces(clipped={"m": 512, "n": 512}, characters_max=1024)
    added = [
        piece(number, length, urgent=urgent, model=model)
        for number, (length, urgent, model) in enumerate(texts)
    ]
    pieces.add(added)
    left = {item.text_id: item for item in added}
    while chunk := pieces.take():
        urgent = any(item.urgent for item in left.values())
        same = [i.text_id for i in left.values() if (i.model, i.urgent) == (chunk[0].model, urgent)]
        assert same[0] in ids(chunk)
        assert len({(item.model, item.urgent) for item in chunk}) == 1
        longest = max(min(512, max(16, len(item.text))) for item in chunk)
        assert len(chunk) == 1 or len(chunk) * longest <= 1024
        assert len(chunk) <= TEXTS_MAX
        for item in chunk:
            del left[item.text_id]
    assert not left
    assert not len(pieces)
