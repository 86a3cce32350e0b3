"""How the two stores rank: where they rightly differ, and where only ranks can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.embedding.queries import needs_vector
from proxy.layouts import StoreSchema
from proxy.model import CollectionSpec, VectorSpec
from proxy.query import Scoring, SearchMode, SearchQuery
from proxy.stores.base import Store
from proxy.vectors import same_space
from shadow.semantics import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Rankers:
    """What decides the order of hits in two stores.

    Attributes:
        words: what keyword hits are ranked by, old and new.
        engines: by which the words are read, old and new; equal ones read them alike.
    """

    old: StoreSchema
    new: StoreSchema
    words: tuple[Scoring, Scoring]
    engines: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, stores: Mapping[str, Store], engines: Mapping[str, str]) -> Rankers:
        """Return how a pair of stores, "old" and "new", ranks."""
        old, new = stores["old"], stores["new"]
        return cls(
            old=old.schema,
            new=new.schema,
            words=(old.capabilities.keyword_scoring, new.capabilities.keyword_scoring),
            engines=(engines.get("old", ""), engines.get("new", "")),
        )

    def differ(self, query: Query) -> str:
        """Say why the stores rightly rank a query differently, "" if they must agree."""
        if not isinstance(query, SearchQuery):
            return ""
        reasons = []
        if needs_vector(query):
            reasons.append(self._vectors(query))
        if _needs_words(query):
            reasons.append(self._words())
        return "; ".join(reason for reason in reasons if reason)

    def by_rank(self, query: Query) -> str:
        """Say why scores of the two stores cannot be compared, "" if they can."""
        if not isinstance(query, SearchQuery):
            return ""
        reason = self.differ(query)
        if not reason and query.mode is SearchMode.HYBRID:
            reason = "a hybrid score is made of ranks"
        if not reason and query.mode is SearchMode.KEYWORD and self.words[0] is Scoring.BM25:
            reason = "BM25 weighs a word by the whole collection, which live writes change"
        return reason

    def beyond(self, query: Query, candidate: str) -> str:
        """Say why the old store need not be asked: it lacks what the migration adds, "" if not.

        A new store that lacks something is asked, and fails.
        """
        if candidate != "old" or not isinstance(query, SearchQuery) or not needs_vector(query):
            return ""
        spec = self._spec(self.old, query)
        return "old_has_no_vectors" if spec is not None and spec.vector is None else ""

    def _vectors(self, query: SearchQuery) -> str:
        """Say what differs in how vectors are made, "" if nothing does."""
        old, new = (self._spec(schema, query) for schema in (self.old, self.new))
        if old is None or new is None or same_space(old.vector, new.vector):
            return ""
        made = f"{_made(old.vector)}, {_made(new.vector)}"
        return f"the two stores hold vectors of different models ({made})"

    @staticmethod
    def _spec(schema: StoreSchema, query: SearchQuery) -> CollectionSpec | None:
        return schema.collections.get(query.collection)

    def _words(self) -> str:
        """Say what differs in how words are found and ranked, "" if nothing does."""
        old, new = self.words
        if old is not new:
            return f"words are ranked by {old.value} in one store and by {new.value} in the other"
        if self.engines[0] != self.engines[1]:
            return f"words are read differently by {self.engines[0]} and {self.engines[1]}"
        return ""


def _needs_words(query: SearchQuery) -> bool:
    if query.mode is SearchMode.HYBRID:
        return query.alpha < 1.0
    return query.mode is SearchMode.KEYWORD


def _made(vector: VectorSpec | None) -> str:
    if vector is None:
        return "none"
    name = "given" if vector.embedding is None else vector.embedding.model
    return f"{name} of {vector.dim} dimensions"
