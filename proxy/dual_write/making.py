"""Asks the embedder for the vectors of one request's texts, each once, and notes what failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.embedding.base import Embedder
from proxy.errors import CrossfadeError, Unavailable
from proxy.model import EmbeddingSpec

_GRACE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedLimits:
    """Seconds: of any call to the embedder, and of what is waited for on account of each store."""

    deadline_s: float = 30.0
    primary_s: float = 5.0
    secondary_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A text that a store needs the vector of; `must`: the write fails without it."""

    embedding: EmbeddingSpec
    text: str
    must: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SideVector:
    """What one store gets as the vector of one write, or the error that kept it from being made.

    By default: the stored vector stays.
    """

    vector: bytes | None = None
    set_vector: bool = False
    error: CrossfadeError | None = None


@dataclass(slots=True)
class Made:
    """The vectors made for one request, by model and text, and the models that failed it.

    Attributes:
        spared: models that failed on account of a secondary alone, with its patience. They are
            asked again if that store is the primary by now.
    """

    vectors: dict[tuple[str, str], bytes] = field(default_factory=dict)
    failed: dict[str, CrossfadeError] = field(default_factory=dict)
    spared: set[str] = field(default_factory=set)

    def lacks(self, wish: Wish) -> bool:
        """True if the vector is to be asked for."""
        model = wish.embedding.model
        given_up = model in self.failed and not (wish.must and model in self.spared)
        return bool(wish.text) and (model, wish.text) not in self.vectors and not given_up

    def of(self, embedding: EmbeddingSpec, text: str) -> SideVector:
        """Return the vector of a text; null for the empty text, which has no meaning to embed."""
        if not text:
            return SideVector(set_vector=True)
        vector = self.vectors.get((embedding.model, text))
        if vector is not None:
            return SideVector(vector=vector, set_vector=True)
        unasked = Unavailable(f"{embedding.model} was not asked for a vector.", where="embedder")
        return SideVector(error=self.failed.get(embedding.model, unasked))


class Maker:
    """Makes the vectors that are wished for.

    Args:
        embedder: None if no collection has an embedding.
    """

    def __init__(self, embedder: Embedder | None, limits: EmbedLimits) -> None:
        self._embedder = embedder
        self.limits = limits

    async def make(self, wishes: Iterable[Wish], made: Made, *, must_s: float) -> None:
        """Embed what is not there yet, each model's texts in one call; failures are noted.

        Args:
            must_s: seconds for texts without which the write fails; the others have the
                secondary's deadline (rule W3).
        """
        texts: dict[str, dict[str, None]] = {}
        must: set[str] = set()
        for wish in wishes:
            if made.lacks(wish):
                texts.setdefault(wish.embedding.model, {})[wish.text] = None
                must.update((wish.embedding.model,) if wish.must else ())
        if not texts:
            return
        waits_s = {
            model: min(self.limits.deadline_s, must_s if model in must else self.limits.secondary_s)
            for model in texts
        }
        await asyncio.gather(
            *(self._embed(model, list(texts[model]), made, waits_s[model]) for model in texts)
        )
        made.spared = (made.spared | (texts.keys() - must)) - must

    async def _embed(self, model: str, texts: list[str], made: Made, deadline_s: float) -> None:
        if self._embedder is None:
            made.failed[model] = Unavailable(f"No embedder runs for {model}.", where="embedder")
            return
        try:
            # The embedder keeps the deadline itself; the outer one catches one that hangs.
            async with asyncio.timeout(deadline_s + _GRACE_S):
                vectors = await self._embedder.documents(model, texts, deadline_s=deadline_s)
        except TimeoutError:
            late = f"The embedder gave no vectors within {deadline_s:g} s."
            made.failed[model] = Unavailable(late, where="embedder", hint="Retry.")
        except CrossfadeError as error:
            made.failed[model] = error
        except Exception as error:  # noqa: BLE001  # a defect may not cost another store its write
            defect = f"The embedder failed: {type(error).__name__}: {error}"
            made.failed[model] = CrossfadeError(defect)
        else:
            pairs = zip(texts, vectors, strict=True)
            made.vectors.update({(model, text): vector for text, vector in pairs})
