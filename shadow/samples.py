"""One compared query side by side, small enough to be stored and shown to a person."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.model import JsonValue, Key, encode_key
from shadow.answers import Answer, Question
from shadow.attribute import Finding
from shadow.compare import Comparison
from shadow.describe import describe_key, describe_query, describe_record, shorten

HITS_MAX = 10
FINDINGS_MAX = 20
_KEY_MAX = 200


def sample_of(comparison: Comparison, *, request_id: str, at: str) -> dict[str, JsonValue] | None:
    """Return the query side by side, or None when the answers do not differ.

    See `shadow.report` for the meaning of each field.
    """
    likeness, case = comparison.likeness, comparison.case
    if not comparison.findings and likeness.order_agrees:
        return None
    causes = {finding.key: finding for finding in comparison.findings}
    return {
        "request_id": shorten(request_id, 80),
        "at": at,
        "collection": case.question.query.collection,
        "kind": case.question.kind,
        "query": describe_query(case.question.query),
        "charged": comparison.charged,
        "overlap": round(likeness.overlap, 6),
        "overlap_excused": round(likeness.overlap_excused, 6),
        "rbo": round(likeness.rbo, 6),
        "tau": None if likeness.tau is None else round(likeness.tau, 6),
        "looks": case.evidence.looks,
        "control": _answer(case.question, case.control, causes),
        "candidate": _answer(case.question, case.candidate, causes),
        "findings": [_finding(item) for item in comparison.findings[:FINDINGS_MAX]],
        "findings_more": max(0, len(comparison.findings) - FINDINGS_MAX),
    }


def _answer(
    question: Question, answer: Answer, causes: Mapping[Key, Finding]
) -> dict[str, JsonValue]:
    scores = answer.ranked.score_of()
    hits: list[JsonValue] = []
    for rank, key in enumerate(answer.ranked.ids[:HITS_MAX], start=1):
        found = causes.get(key)
        hits.append(
            {
                "rank": rank,
                "key": describe_key(key),
                "label": describe_record(question, answer.records.get(key)),
                "score": round(scores[key], 6) if key in scores else None,
                "cause": found.cause.value if found else "",
            }
        )
    return {
        "store": answer.store,
        "latency_ms": round(answer.latency_ms, 3),
        "count": len(answer.ranked.ids),
        "hits": hits,
    }


def _finding(finding: Finding) -> dict[str, JsonValue]:
    return {
        "key": shorten(encode_key(finding.key), _KEY_MAX),
        "side": finding.side.value,
        "cause": finding.cause.value,
        "detail": shorten(finding.detail),
    }


def failure_of(
    question: Question, error: str, message: str, *, request_id: str, at: str
) -> dict[str, JsonValue]:
    """Return one example of a query that the candidate failed."""
    return {
        "request_id": shorten(request_id, 80),
        "at": at,
        "query": describe_query(question.query),
        "error": error,
        "message": shorten(message, 240),
    }
