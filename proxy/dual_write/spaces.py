"""What vectors each of the two stores holds, collection by collection."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.model import CollectionSpec, EmbeddingSpec, VectorSpec
from proxy.stores.sides import Sides
from proxy.vectors import same_space


class Spaces:
    """The two stores' own specs of the collections of a migration."""

    def __init__(self, sides: Sides, collections: Iterable[str]) -> None:
        names = tuple(collections)
        self._held = {
            (side, name): sides.store(side).schema.collections[name]
            for side in ("old", "new")
            for name in names
        }
        self._special = frozenset(name for name in names if self._differs(name))

    def _differs(self, collection: str) -> bool:
        old, new = self.vector("old", collection), self.vector("new", collection)
        embeds = any(vector is not None and vector.embedding is not None for vector in (old, new))
        return embeds or not same_space(old, new)

    def special(self, collection: str) -> bool:
        """True unless both stores hold the same vectors, given by whoever writes."""
        return collection in self._special

    def held(self, side: str, collection: str) -> CollectionSpec:
        """Return the collection as a store holds it."""
        return self._held[side, collection]

    def vector(self, side: str, collection: str) -> VectorSpec | None:
        """Return the vectors that a store holds, None for none."""
        return self._held[side, collection].vector

    def embedding(self, side: str, collection: str) -> EmbeddingSpec | None:
        """Return how a store's vectors are made, None if whoever writes gives them."""
        vector = self.vector(side, collection)
        return None if vector is None else vector.embedding

    def own_embedding(self, side: str, other: str, collection: str) -> EmbeddingSpec | None:
        """Return how a store's vectors are made, if they are not those of the other store."""
        if same_space(self.vector(side, collection), self.vector(other, collection)):
            return None
        return self.embedding(side, collection)
