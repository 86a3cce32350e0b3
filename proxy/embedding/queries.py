"""Searches by text made ready for a store: each store's own model embeds what is sought."""

from __future__ import annotations

from dataclasses import replace

from proxy.embedding.base import Embedder
from proxy.errors import Reason, Rejected
from proxy.layouts import StoreSchema
from proxy.query import SearchMode, SearchQuery


def needs_vector(query: SearchQuery) -> bool:
    """True if a search compares vectors, given or made from its text."""
    if query.mode is SearchMode.HYBRID:
        return query.alpha > 0.0
    return query.mode in (SearchMode.VECTOR, SearchMode.TEXT)


class QueryEmbedder:
    """Fills in the vector of TEXT and HYBRID searches; any other search passes as it is.

    Args:
        embedder: open; None if no collection's vectors are made by a model. It remembers the
            latest texts, so a search of both stores by one model is embedded once.
    """

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder

    async def for_store(
        self, query: SearchQuery, schema: StoreSchema, deadline_s: float
    ) -> SearchQuery:
        """Return the search as a store with this schema can answer it.

        Raises:
            Rejected: UNIMPLEMENTED, nobody can embed the text for this store;
                RESOURCE_EXHAUSTED, too many texts wait already.
            Unavailable: where="embedder", no vector by the deadline.
        """
        text = query.mode in (SearchMode.TEXT, SearchMode.HYBRID)
        if not text or query.vector is not None or not needs_vector(query):
            return query
        spec = schema.collections[query.collection]
        name = spec.name
        if spec.vector is None:
            raise _cannot(
                query,
                f"the store that answers holds no vectors of {name}",
                "Search by words (mode keyword), or by text once the other store answers.",
            )
        if spec.vector.embedding is None:
            raise _cannot(
                query,
                f"no model makes the vectors of {name}",
                "Give the vector, or name embedding.model in the configuration.",
            )
        if self._embedder is None:
            raise _cannot(
                query,
                "this proxy has no embedder",
                "Start it with the embedder, or search by words (mode keyword).",
            )
        vector = await self._embedder.query(
            spec.vector.embedding.model, query.text, deadline_s=deadline_s
        )
        return replace(query, vector=vector)


def _cannot(query: SearchQuery, why: str, hint: str) -> Rejected:
    return Rejected(
        f"A {query.mode.value} search of {query.collection} is not possible: {why}.",
        reason=Reason.UNIMPLEMENTED,
        hint=hint,
    )
