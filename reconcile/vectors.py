"""The secondary's vectors: those of the primary, or made anew from each record's text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from proxy.embedding.base import Embedder
from proxy.errors import Corrupt, Reason, Rejected, Unavailable
from proxy.model import EmbeddingSpec, Key, Record, Value
from proxy.vectors import VectorPath, text_of
from reconcile.ranges import Scope

TEXTS_MAX = 256
"""Texts that the embedder is given at a time; its queue is shared with live writes."""

SHOWN_MAX = 300
"""Characters of a reason that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the embedder made: packed vectors by key, and the keys it could not do, with reasons."""

    vectors: Mapping[Key, bytes]
    dead: Mapping[Key, str]


class Vectors:
    """Fits records to the secondary's vectors. `embedder` None: none can be made."""

    def __init__(self, embedder: Embedder | None, *, deadline_s: float) -> None:
        self._embedder = embedder
        self._deadline_s = deadline_s

    def require(self, scopes: Collection[Scope], *, loading: bool = False) -> None:
        """Return if every collection's vectors can be had.

        Args:
            loading: the secondary is to be filled, so that vectors nobody can make are missed.

        Raises:
            Rejected(FAILED_PRECONDITION): they cannot; nothing was begun.
        """
        for scope in scopes:
            if scope.path is VectorPath.MISSING and loading and scope.gives_vectors:
                raise Rejected(
                    f"Nobody can make the vectors of {scope.spec.name} that the secondary holds.",
                    reason=Reason.FAILED_PRECONDITION,
                    hint="Give that store's collection an `embedding`, or leave its vector out.",
                )
            if scope.path is VectorPath.EMBEDDED and self._embedder is None:
                raise Rejected(
                    f"The vectors of {scope.spec.name} are made from its text, and this process"
                    " has no embedder.",
                    reason=Reason.FAILED_PRECONDITION,
                    hint="Install crossfade[embedder] where the reconciler runs.",
                )

    async def fit(
        self, scope: Scope, records: Sequence[Record]
    ) -> tuple[list[Record], dict[Key, str]]:
        """Return the records with the vectors that the secondary holds, and those without hope.

        Raises:
            Unavailable: the embedder is not there, or has too much to do; try again.
        """
        if scope.path is VectorPath.COPIED:
            return list(records), {}
        if scope.path is not VectorPath.EMBEDDED or scope.target is None:
            return [replace(record, vector=None) for record in records], {}
        texts = {record.key: text_for(scope, record) for record in records}
        made = await self.make(scope, {key: text for key, text in texts.items() if text})
        dead = dict(made.dead)
        if scope.target.required:
            empty = "its vector may not be null, and the text it is made from is empty"
            dead.update({key: empty for key, text in texts.items() if not text})
        fitted = [
            replace(record, vector=made.vectors.get(record.key))
            for record in records
            if record.key not in dead
        ]
        return fitted, dead

    async def make(self, scope: Scope, texts: Mapping[Key, str]) -> Made:
        """Embed texts by the secondary's model; those that cannot be embedded are named.

        Raises:
            Unavailable: see `fit`.
        """
        embedding = embedding_of(scope)
        keys = list(texts)
        vectors: dict[Key, bytes] = {}
        dead: dict[Key, str] = {}
        for start in range(0, len(keys), TEXTS_MAX):
            some = {key: texts[key] for key in keys[start : start + TEXTS_MAX]}
            await self._some(embedding, some, vectors, dead)
        for key, vector in list(vectors.items()):
            trouble = _unusable(vector)
            if trouble:
                dead[key] = f"{embedding.model} made {trouble} of its text"
                del vectors[key]
        return Made(vectors=vectors, dead=dead)

    async def _some(
        self,
        embedding: EmbeddingSpec,
        texts: Mapping[Key, str],
        vectors: dict[Key, bytes],
        dead: dict[Key, str],
    ) -> None:
        """Embed some texts; halve on one that cannot be embedded until it is named."""
        if self._embedder is None:
            raise Rejected("No embedder is here.", reason=Reason.FAILED_PRECONDITION)
        keys = list(texts)
        try:
            made = await self._embedder.documents(
                embedding.model, list(texts.values()), deadline_s=self._deadline_s
            )
        except (Rejected, Corrupt) as error:
            if isinstance(error, Rejected) and error.reason is Reason.RESOURCE_EXHAUSTED:
                raise Unavailable(str(error), where="embedder") from error
            if len(keys) == 1:
                why = f"its text cannot be embedded by {embedding.model}: {error}"
                dead[keys[0]] = why[:SHOWN_MAX]
                return
            middle = len(keys) // 2
            for half in (keys[:middle], keys[middle:]):
                await self._some(embedding, {key: texts[key] for key in half}, vectors, dead)
            return
        vectors.update(zip(keys, made, strict=True))


def embedding_of(scope: Scope) -> EmbeddingSpec:
    """Return how the secondary's vectors are made; the path is EMBEDDED."""
    if scope.target is None or scope.target.embedding is None:
        raise Corrupt(f"{scope.spec.name} has no embedding on the secondary.")
    return scope.target.embedding


def text_for(scope: Scope, record: Record) -> str:
    """Return the text that the secondary's vector of a record is made from."""
    return text_of(embedding_of(scope), _values(scope, record))


def _values(scope: Scope, record: Record) -> dict[str, Value]:
    return {**record.fields, **dict(zip(scope.spec.key, record.key, strict=True))}


def stand_in(scope: Scope, record: Record) -> Record:
    """Return the record as it would be stored, with any vector where one would be made."""
    if scope.path is VectorPath.COPIED:
        return record
    if scope.path is not VectorPath.EMBEDDED or scope.target is None:
        return replace(record, vector=None)
    if not text_for(scope, record):
        return replace(record, vector=None)
    dim = scope.target.dim
    return replace(record, vector=np.full(dim, dim**-0.5, "<f4").tobytes())


def lacks_vector(scope: Scope, record: Record) -> bool:
    """True if a record has the text of a vector, and none that could be copied: it stays so."""
    if scope.path is not VectorPath.COPIED or scope.target is None:
        return False
    embedding = scope.target.embedding
    if embedding is None or record.vector is not None:
        return False
    return bool(text_of(embedding, _values(scope, record)))


def described(scope: Scope) -> str:
    """Say in a few words where the secondary's vectors come from."""
    if scope.path is VectorPath.EMBEDDED:
        return f"embedded by {embedding_of(scope).model}"
    if scope.path is VectorPath.MISSING:
        return "none: nobody can make them"
    return "copied" if scope.path is VectorPath.COPIED else "none"


def _unusable(vector: bytes) -> str:
    values = np.frombuffer(vector, "<f4")
    if not np.isfinite(values).all():
        return "a vector that is not finite"
    return "" if values.any() else "a zero vector"
