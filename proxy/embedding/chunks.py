"""Which of the waiting texts are computed together: near in length, within a bound (pure)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

TEXTS_MAX = 16
CHARACTERS_MAX = 2048
"""Larger chunks are no faster (13.8 ms of CPU a text of 160 characters, whether 8, 16 or 32 go
together), and a search waits for the one that is being computed."""

_TEXT_CHARACTERS_MIN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One text in the worker."""

    text_id: int
    model: str
    urgent: bool
    text: str


class Pieces:
    """The texts that wait in the worker.

    A chunk starts with the oldest text, those of a search first, and takes those of the same
    model that are nearest to it in length: padding stays small, and nothing starves. Models take
    turns, so that a text waits for one chunk of a slower model, not for all that came before.

    Args:
        characters_max: a chunk's texts times the length of its longest, at most.
        clipped: characters past which a model no longer reads (it cuts the text): by model.
    """

    def __init__(self, *, clipped: dict[str, int], characters_max: int = CHARACTERS_MAX) -> None:
        self._characters_max = characters_max
        self._clipped = clipped
        self._waiting: dict[int, Piece] = {}
        self._by_length: dict[tuple[str, bool], list[tuple[int, int]]] = {}
        self._order: dict[tuple[str, bool], dict[int, None]] = {}
        self._turns: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, pieces: Sequence[Piece]) -> None:
        """Let texts wait, in this order."""
        for piece in pieces:
            self._waiting[piece.text_id] = piece
            self._turns.setdefault(piece.model)
            self._order.setdefault((piece.model, piece.urgent), {})[piece.text_id] = None
            lengths = self._by_length.setdefault((piece.model, piece.urgent), [])
            insort(lengths, (self._length(piece), piece.text_id))

    def take(self) -> list[Piece]:
        """Return the next chunk; [] if nothing waits."""
        first = self._first()
        if first is None:
            return []
        # Whose turn it was comes last the next time.
        del self._turns[first.model]
        self._turns[first.model] = None
        lengths = self._by_length[first.model, first.urgent]
        start, end = self._around(
            lengths, bisect_left(lengths, (self._length(first), first.text_id))
        )
        taken = [text_id for _, text_id in lengths[start:end]]
        del lengths[start:end]
        for text_id in taken:
            del self._order[first.model, first.urgent][text_id]
        return [self._waiting.pop(text_id) for text_id in taken]

    def remove(self, text_ids: Sequence[int]) -> list[int]:
        """Forget texts; return those that were waiting."""
        found = [text_id for text_id in text_ids if text_id in self._waiting]
        for text_id in found:
            piece = self._waiting.pop(text_id)
            del self._order[piece.model, piece.urgent][text_id]
            lengths = self._by_length[piece.model, piece.urgent]
            del lengths[bisect_left(lengths, (self._length(piece), text_id))]
        return found

    def _first(self) -> Piece | None:
        """Return the text that is next: a search's, of the model whose last turn is longest ago."""
        for urgent in (True, False):
            for model in self._turns:
                for text_id in self._order.get((model, urgent), ()):
                    return self._waiting[text_id]
        return None

    def _around(self, lengths: list[tuple[int, int]], at: int) -> tuple[int, int]:
        """Return the slice of texts around `at` that fits, widened towards the nearer side."""
        start, end = at, at + 1
        while end - start < TEXTS_MAX:
            room = self._characters_max // (end - start + 1)
            up = end < len(lengths) and lengths[end][0] <= room
            down = start > 0 and lengths[end - 1][0] <= room
            if up and down:
                up = lengths[end][0] - lengths[at][0] < lengths[at][0] - lengths[start - 1][0]
            if up:
                end += 1
            elif down:
                start -= 1
            else:
                break
        return start, end

    def _length(self, piece: Piece) -> int:
        length = min(len(piece.text), self._clipped.get(piece.model, self._characters_max))
        return max(length, _TEXT_CHARACTERS_MIN)
