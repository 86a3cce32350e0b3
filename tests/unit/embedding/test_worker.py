"""What the worker does with texts and frames, without a model."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping

import pytest

from proxy.embedding import frames
from proxy.embedding.encoder import Encoder
from proxy.embedding.frames import Cancel, Embed, Kind, NoVector, Refused
from proxy.embedding.worker import Worker
from tests.embedding import vector_of


class LexicalEncoder:
    """Gives vectors by words; a text with "bad" in it has none."""

    dim = 4
    characters_max = 100

    def encode(self, texts: list[str], *, urgent: bool) -> bytes:
        if any("bad" in text for text in texts):
            raise NoVector("length 0")
        return b"".join(vector_of("m", text, self.dim) for text in texts)


class Output(io.BytesIO):
    """Counts texts answered, so that a test can wait for the last."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.left = expected
        self.done = threading.Event()
        self.vectors: dict[int, bytes] = {}
        self.refused: dict[int, str] = {}

    def flush(self) -> None:
        data = self.getvalue()
        self.seek(0)
        self.truncate()
        (length,) = frames.LENGTH.unpack(data[:4])
        assert length == len(data) - 4
        self._take(Kind(data[4]), data[5:])

    def _take(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.VECTORS:
            found: Mapping[int, object] = frames.decode_vectors(body).by_id
            self.vectors |= frames.decode_vectors(body).by_id
        else:
            refused = Refused(**frames.decode(body))
            found = dict.fromkeys(refused.ids)
            self.refused |= dict.fromkeys(refused.ids, refused.message)
        self.left -= len(found)
        if not self.left:
            self.done.set()


def test_lanes_answer_every_text_and_a_bad_one_does_not_fail_its_neighbours() -> None:
    output = Output(100)
    worker = Worker({"m": LexicalEncoder()}, output)
    for _ in range(3):
        threading.Thread(target=worker.run_lane, daemon=True).start()
    texts = [f"text {number}" + (" bad" if number % 25 == 3 else "") for number in range(100)]
    worker.add(Embed(model="m", urgent=False, ids=range(60), texts=texts[:60]))
    worker.add(Embed(model="m", urgent=True, ids=range(60, 100), texts=texts[60:]))
    assert output.done.wait(10)
    assert output.refused == dict.fromkeys((3, 28, 53, 78), "NoVector: length 0")
    assert output.vectors == {
        number: vector_of("m", text, 4) for number, text in enumerate(texts) if "bad" not in text
    }


class Given:
    """A model of sentence-transformers whose vectors are given."""

    max_seq_length: float | None = 256

    def __init__(self, vectors: list[list[float]]) -> None:
        self.vectors = vectors

    def get_embedding_dimension(self) -> int:
        return 2

    def preprocess(self, texts: list[str]) -> None: ...

    def encode_document(self, texts: list[str], **_: object) -> list[list[float]]:
        return self.vectors

    encode_query = encode_document


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[0.0, 0.0]], "length 0"),
        ([[float("nan"), 1.0]], "not finite"),
        ([[float("inf"), 1.0]], "not finite"),
        ([[1.0, 0.0, 0.0]], r"shape \(1, 3\)"),
        ([[1.0, 0.0], [1.0, 0.0]], r"shape \(2, 2\)"),
    ],
)
def test_what_is_no_direction_is_an_error_and_never_a_vector(
    vectors: list[list[float]], said: str
) -> None:
    with pytest.raises(NoVector, match=said):
        Encoder(Given(vectors)).encode(["x"], urgent=False)


def test_vectors_are_packed_little_endian() -> None:
    packed = Encoder(Given([[0.6, 0.8]])).encode(["x"], urgent=True)
    assert packed.hex() == "9a99193fcdcc4c3f"


def test_vectors_survive_their_frame_and_a_broken_one_is_noticed() -> None:
    frame = frames.encode_vectors([7, 1 << 40], 2, bytes(range(16)))
    assert frame[4] == Kind.VECTORS
    found = frames.decode_vectors(frame[5:])
    assert found.dim == 2
    assert found.by_id == {7: bytes(range(8)), 1 << 40: bytes(range(8, 16))}
    with pytest.raises(ValueError, match="are not 2 vectors"):
        frames.decode_vectors(frame[5:-1])
    with pytest.raises(ValueError, match="are not 2 vectors"):
        frames.encode_vectors([1, 2], 2, bytes(15))


def test_a_model_without_a_limit_of_its_own_reads_all() -> None:
    model = Given([[0.6, 0.8]])
    for limit in (None, float("inf")):
        model.max_seq_length = limit
        assert len(Encoder(model).encode(["x " * 100_000], urgent=False)) == 8


def test_texts_given_up_are_refused_and_never_computed() -> None:
    output = Output(4)
    worker = Worker({"m": LexicalEncoder()}, output)
    worker.add(Embed(model="m", urgent=False, ids=range(4), texts=[f"text {n}" for n in range(4)]))
    worker.cancel(Cancel(ids=[1, 3, 9]))
    worker.cancel(Cancel(ids=[1]))
    threading.Thread(target=worker.run_lane, daemon=True).start()
    assert output.done.wait(10)
    assert set(output.refused) == {1, 3}
    assert set(output.vectors) == {0, 2}
