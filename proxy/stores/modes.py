"""Which searches a collection allows, and what a store answers when it is asked for another."""

from __future__ import annotations

from proxy.errors import Reason, Rejected, Violation
from proxy.layouts import StoreSchema
from proxy.model import CollectionSpec, KeywordSpec, Metric
from proxy.query import SearchMode, SearchQuery


def modes_of(spec: CollectionSpec) -> frozenset[SearchMode]:
    """Return how a collection can be searched in a store that can do everything."""
    modes: set[SearchMode] = set()
    if spec.vector is not None:
        modes |= {SearchMode.VECTOR, SearchMode.TEXT}
    if spec.keyword is not None:
        modes.add(SearchMode.KEYWORD)
    if spec.vector is not None and spec.keyword is not None:
        modes.add(SearchMode.HYBRID)
    return frozenset(modes)


def modes_of_schema(schema: StoreSchema) -> frozenset[SearchMode]:
    """Return every way in which at least one collection of a store can be searched."""
    return frozenset[SearchMode]().union(
        *(modes_of(schema.collections[name]) for name in schema.layouts)
    )


def require_vector_search(query: SearchQuery, spec: CollectionSpec, store: str) -> Metric:
    """Return the metric of a search by vector; TEXT is one whose vector somebody filled in.

    Raises:
        Rejected: UNIMPLEMENTED for every other mode, or for a text that nobody embedded;
            INVALID_ARGUMENT for a collection without vectors or a vector of another dimension.
    """
    if query.mode not in (SearchMode.VECTOR, SearchMode.TEXT):
        raise Rejected(
            f"The {store} store was asked for {query.mode.value} search by vector alone.",
            reason=Reason.UNIMPLEMENTED,
        )
    if spec.vector is None:
        raise Rejected(f"{spec.name} has no vector, so nothing can be near to one.")
    if query.mode is SearchMode.TEXT and query.vector is None:
        raise Rejected(
            f"The {store} store does no text search of {spec.name} by itself: the text has not"
            " been embedded.",
            reason=Reason.UNIMPLEMENTED,
            hint="Embed the text and search with mode vector.",
        )
    got = len(query.vector or b"")
    if got != 4 * spec.vector.dim:
        violation = Violation(
            where="vector", expected=f"{spec.vector.dim} float32", got=f"{got / 4:g}"
        )
        raise Rejected(f"The query's vector is not valid: {violation}", violations=(violation,))
    return spec.vector.metric


def require_keyword_search(query: SearchQuery, spec: CollectionSpec, store: str) -> KeywordSpec:
    """Return what a search by words looks into.

    Raises:
        Rejected: UNIMPLEMENTED, nobody said which fields of the collection hold the words.
    """
    if spec.keyword is None:
        raise Rejected(
            f"The {store} store does no {query.mode.value} search of {spec.name}: no fields are"
            " searched by words.",
            reason=Reason.UNIMPLEMENTED,
            hint=f"Name them as keyword.fields of the collection {spec.name}, or search by vector.",
        )
    return spec.keyword
