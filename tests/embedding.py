"""An embedder for tests: no model, always the same vectors, near for texts that share words."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from proxy.errors import ConfigInvalid, CrossfadeError, Unavailable, Violation

DEFAULT_MODEL = "all-MiniLM-L6-v2"

_WORD = re.compile(r"\w+")
_DIMENSIONS_A_WORD = 8
_NOISE = 0.01


class FakeEmbedder:
    """Meets `proxy.embedding.base.Embedder` with bags of hashed words.

    Args:
        dims: dimension by model; each model has a space of its own.

    Attributes:
        fail: raised by every call while it is set.
        calls: `documents` and `query` calls by model.
        texts: every text that was embedded, in order, as (model, text).
    """

    def __init__(self, dims: Mapping[str, int]) -> None:
        self.dims = dict(dims)
        self.fail: CrossfadeError | None = None
        self.calls: dict[str, int] = dict.fromkeys(self.dims, 0)
        self.texts: list[tuple[str, str]] = []
        self.opened = 0
        self.closed = 0
        self.waiting = 0
        self._going = asyncio.Event()
        self._going.set()

    async def open(self) -> None:
        self.opened += 1
        if self.fail is not None:
            raise self.fail

    async def close(self) -> None:
        self.closed += 1

    def dim(self, model: str) -> int:
        if model not in self.dims:
            known = ", ".join(sorted(self.dims))
            raise ConfigInvalid(
                f"no model {model!r} was loaded",
                (Violation(where="model", expected=f"one of {known}", got=model),),
            )
        return self.dims[model]

    async def documents(
        self, model: str, texts: Sequence[str], *, deadline_s: float
    ) -> list[bytes]:
        await self._begin(model, deadline_s)
        distinct = dict.fromkeys(texts)
        self.texts += [(model, text) for text in distinct]
        made = {text: vector_of(model, text, self.dims[model]) for text in distinct}
        return [made[text] for text in texts]

    async def query(self, model: str, text: str, *, deadline_s: float) -> bytes:
        await self._begin(model, deadline_s)
        self.texts.append((model, text))
        return vector_of(model, text, self.dims[model])

    def stats(self) -> Mapping[str, float]:
        return {
            "texts": float(len(self.texts)),
            "batches": float(sum(self.calls.values())),
            "texts_waiting": float(self.waiting),
            "query_cache_hits": 0.0,
            "up": 0.0 if self.fail is not None else 1.0,
        }

    def hang(self) -> None:
        """From now on calls wait for `release`, or for their deadline."""
        self._going.clear()

    def release(self) -> None:
        """Let the calls that wait, and all later ones, go on."""
        self._going.set()

    async def _begin(self, model: str, deadline_s: float) -> None:
        self.dim(model)
        self.calls[model] += 1
        self.waiting += 1
        try:
            async with asyncio.timeout(deadline_s):
                await self._going.wait()
        except TimeoutError as error:
            raise Unavailable(
                f"the embedder gave no answer within {deadline_s:g} s", where="embedder"
            ) from error
        finally:
            self.waiting -= 1
        if self.fail is not None:
            raise self.fail


def vector_of(model: str, text: str, dim: int) -> bytes:
    """Return the packed vector of a text: float32 little-endian, length 1, never zero."""
    total = _NOISE * _direction(f"{model}\0\0{text}", dim, dimensions=dim)
    for word in _WORD.findall(text.lower()):
        total += _direction(f"{model}\0{word}", dim, dimensions=_DIMENSIONS_A_WORD)
    return bytes((total / np.linalg.norm(total)).astype("<f4").tobytes())


def similarity(left: bytes, right: bytes) -> float:
    """Return the cosine of two packed vectors of length 1."""
    return float(np.dot(np.frombuffer(left, "<f4"), np.frombuffer(right, "<f4")))


def _direction(
    seed: str, dim: int, *, dimensions: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return a vector of length 1 with at most `dimensions` numbers that are not zero."""
    digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(digest, "little"))
    direction = np.zeros(dim)
    where = random.choice(dim, size=min(dim, dimensions), replace=False)
    direction[where] = random.standard_normal(len(where))
    return direction / np.linalg.norm(direction)
