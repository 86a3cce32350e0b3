"""What a store answers when it is asked for a search it cannot do."""

from __future__ import annotations

from proxy.errors import Reason, Rejected, Violation
from proxy.model import CollectionSpec, Metric
from proxy.query import SearchMode, SearchQuery


def require_vector_search(query: SearchQuery, spec: CollectionSpec, store: str) -> Metric:
    """Return the metric of a search by vector.

    Raises:
        Rejected: UNIMPLEMENTED for every other mode; INVALID_ARGUMENT for a collection without
            vectors or a vector of another dimension.
    """
    if query.mode is not SearchMode.VECTOR:
        raise Rejected(
            f"The {store} store searches by vector only; {query.mode.value} search is not there.",
            reason=Reason.UNIMPLEMENTED,
            hint="Embed the text and search with mode vector.",
        )
    if spec.vector is None:
        raise Rejected(f"{spec.name} has no vector, so nothing can be near to one.")
    got = len(query.vector or b"")
    if got != 4 * spec.vector.dim:
        violation = Violation(
            where="vector", expected=f"{spec.vector.dim} float32", got=f"{got / 4:g}"
        )
        raise Rejected(f"The query's vector is not valid: {violation}", violations=(violation,))
    return spec.vector.metric
