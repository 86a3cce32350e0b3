"""The embedder that other tests lean on keeps the contract."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from proxy.embedding.base import Embedder
from proxy.errors import ConfigInvalid, Unavailable
from tests.embedding import FakeEmbedder, similarity


async def test_vectors_are_normalised_and_always_the_same() -> None:
    embedder: Embedder = FakeEmbedder({"m": 16})
    first, empty = await embedder.documents("m", ["a text", ""], deadline_s=1)
    assert len(first) == 64
    assert np.linalg.norm(np.frombuffer(first, "<f4")) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(np.frombuffer(empty, "<f4")) == pytest.approx(1, abs=1e-6)
    assert await FakeEmbedder({"m": 16}).query("m", "a text", deadline_s=1) == first


async def test_texts_that_share_words_are_nearer_than_those_that_do_not() -> None:
    embedder = FakeEmbedder({"m": 384, "n": 384})
    texts = ["open a file and read it", "read a file", "bake bread slowly"]
    one, two, three = await embedder.documents("m", texts, deadline_s=1)
    assert similarity(one, two) > 0.5 > similarity(one, three)
    assert similarity(one, await embedder.query("n", texts[0], deadline_s=1)) < 0.5
    assert embedder.calls == {"m": 1, "n": 1}


async def test_it_hangs_until_released_and_gives_up_at_the_deadline() -> None:
    embedder = FakeEmbedder({"m": 8})
    embedder.hang()
    with pytest.raises(Unavailable, match="no answer"):
        await embedder.query("m", "x", deadline_s=0.01)
    waiting = asyncio.create_task(embedder.query("m", "x", deadline_s=10))
    embedder.release()
    assert len(await waiting) == 32


async def test_it_fails_as_told_and_knows_its_models() -> None:
    embedder = FakeEmbedder({"m": 8})
    embedder.fail = Unavailable("gone", where="embedder")
    with pytest.raises(Unavailable, match="gone"):
        await embedder.documents("m", ["x"], deadline_s=1)
    with pytest.raises(ConfigInvalid, match="'other'"):
        embedder.dim("other")
