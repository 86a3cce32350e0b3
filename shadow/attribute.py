"""Why an id differs between two answers: each one gets the first cause that explains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from proxy.model import Key
from proxy.query import ListQuery
from shadow.answers import Answer, Evidence, Pair, Question
from shadow.metrics import Ranked, tied_with_cut


class Cause(Enum):
    """The causes, in the order in which they are tried; the first match wins."""

    IN_FLIGHT = "in_flight"
    """The key was dirty, unsettled or changed while the query ran."""
    TIE = "tie"
    """Its score is within epsilon of the k-th of the other answer."""
    SEMANTIC = "semantic"
    """A known difference of meaning: filter, words, model, fusion, or no place in the layout.
    It excuses no record that is missing, too many or stale."""
    MISSING = "missing"
    """The record is not in the candidate."""
    EXTRA = "extra"
    """The record is in the candidate alone (a delete that never arrived)."""
    STALE = "stale"
    """Fields that both stores hold differ."""
    VECTOR = "vector"
    """The vectors differ bit for bit, or the metric or the exact score does."""
    DISPLACED = "displaced"
    """Present, right, and rightly below the cut: another differing id took its place."""
    INDEX_RECALL = "index_recall"
    """Present and right, but not returned."""


EXCUSED = frozenset({Cause.IN_FLIGHT, Cause.TIE, Cause.SEMANTIC})
"""Counted and excused."""

ZERO_TOLERANCE = frozenset({Cause.MISSING, Cause.EXTRA, Cause.STALE, Cause.VECTOR})
"""One of these is one too many."""


class Side(Enum):
    """Which answer has the id."""

    CONTROL = "control"
    CANDIDATE = "candidate"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One differing id and its cause; `detail` is one sentence part for a person."""

    key: Key
    side: Side
    cause: Cause
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything that the attribution of one query looks at.

    Attributes:
        semantic: why this query may rank differently, "" if it may not.
        no_place: keys that one of the two layouts cannot hold, with the reason.
    """

    pair: Pair
    evidence: Evidence = field(default_factory=Evidence)
    semantic: str = ""
    no_place: Mapping[Key, str] = field(default_factory=dict)

    @property
    def question(self) -> Question:
        """What was asked."""
        return self.pair.question

    @property
    def control(self) -> Answer:
        """What was served."""
        return self.pair.control

    @property
    def candidate(self) -> Answer:
        """What the other store answered."""
        return self.pair.candidate


def differing_keys(pair: Pair) -> dict[Key, Side]:
    """Return every key that only one answer has, or that both have with another content or score.

    Control first, each in rank order.
    """
    control, candidate = pair.control, pair.candidate
    found: dict[Key, Side] = {}
    right = candidate.ranked.score_of()
    left = control.ranked.score_of()
    for key in control.ranked.ids:
        if key not in candidate.records:
            found[key] = Side.CONTROL
        elif pair.question.seen_differently(control.records[key], candidate.records[key]) or (
            key in right and pair.policy.wrong(left[key], right[key])
        ):
            found[key] = Side.BOTH
    for key in candidate.ranked.ids:
        if key not in control.records:
            found[key] = Side.CANDIDATE
    return found


def attribute(case: Case) -> tuple[Finding, ...]:
    """Return one finding for each differing key, control first, in rank order."""
    sides = differing_keys(case.pair)
    findings = {key: _own_cause(case, key, side) for key, side in sides.items()}
    for side in (Side.CONTROL, Side.CANDIDATE):
        _name_displaced(case, findings, side)
    return tuple(findings.values())


def _own_cause(case: Case, key: Key, side: Side) -> Finding:
    """Try the causes that need nothing but the key itself, in their order."""
    for attempt in (_in_flight, _tie, _no_place, _one_sided, _stale, _semantic, _vector):
        found = attempt(case, key, side)
        if found is not None:
            return found
    return Finding(key=key, side=side, cause=Cause.INDEX_RECALL, detail=_not_returned(case, side))


def _not_returned(case: Case, side: Side) -> str:
    store = case.candidate.store if side is Side.CONTROL else case.control.store
    return f"the {store} store has it, and it is right, but did not return it"


def _in_flight(case: Case, key: Key, side: Side) -> Finding | None:
    evidence = case.evidence
    detail = ""
    if key in evidence.fenced:
        detail = "dirty or unsettled while the query ran"
    elif key in evidence.unstable:
        detail = "changed between two looks"
    elif (facts := evidence.facts.get(key)) is not None and facts.changed:
        detail = "changed after it was read"
    return Finding(key=key, side=side, cause=Cause.IN_FLIGHT, detail=detail) if detail else None


def _tie(case: Case, key: Key, side: Side) -> Finding | None:
    if side is Side.BOTH:
        return None
    mine, other = _sides(case, side)
    if key not in tied_with_cut(mine.ranked, other.ranked, case.pair.policy.score_epsilon):
        return None
    detail = f"as near as the last hit of the {other.store} store"
    return Finding(key=key, side=side, cause=Cause.TIE, detail=detail)


def _no_place(case: Case, key: Key, side: Side) -> Finding | None:
    reason = case.no_place.get(key, "")
    return Finding(key=key, side=side, cause=Cause.SEMANTIC, detail=reason) if reason else None


def _semantic(case: Case, key: Key, side: Side) -> Finding | None:
    content = side is Side.BOTH and _content_seen_differently(case, key)
    if content or not case.semantic:
        return None
    return Finding(key=key, side=side, cause=Cause.SEMANTIC, detail=case.semantic)


def _content_seen_differently(case: Case, key: Key) -> bool:
    """A rule about ranking does not excuse another content."""
    left, right = case.control.records[key], case.candidate.records[key]
    return bool(case.question.seen_differently(left, right))


def _one_sided(case: Case, key: Key, side: Side) -> Finding | None:
    facts = case.evidence.facts.get(key)
    if facts is None or facts.on_control == facts.on_candidate:
        return None
    if facts.on_control:
        detail = f"the {case.candidate.store} store does not have it"
        return Finding(key=key, side=side, cause=Cause.MISSING, detail=detail)
    detail = f"only the {case.candidate.store} store has it"
    return Finding(key=key, side=side, cause=Cause.EXTRA, detail=detail)


def _stale(case: Case, key: Key, side: Side) -> Finding | None:
    facts = case.evidence.facts.get(key)
    names = [name for name in facts.differing if name != "vector"] if facts else []
    if not names:
        return None
    detail = f"{', '.join(names[:4])}{' and more' if len(names) > 4 else ''} differ"
    return Finding(key=key, side=side, cause=Cause.STALE, detail=detail)


def _vector(case: Case, key: Key, side: Side) -> Finding | None:
    facts = case.evidence.facts.get(key)
    detail = ""
    if facts is not None and "vector" in facts.differing:
        detail = "the two stores hold different vectors"
    elif case.control.metric is not case.candidate.metric:
        detail = "the two stores use different metrics"
    elif facts is not None:
        detail = facts.wrong_score
    if not detail and side is Side.BOTH and not case.question.by_rank:
        detail = "the two stores score the same record differently"
    return Finding(key=key, side=side, cause=Cause.VECTOR, detail=detail) if detail else None


def _sides(case: Case, side: Side) -> tuple[Answer, Answer]:
    """Return (the answer that has the id, the other one)."""
    if side is Side.CONTROL:
        return case.control, case.candidate
    return case.candidate, case.control


def _name_displaced(case: Case, findings: dict[Key, Finding], side: Side) -> None:
    """Turn ids that are rightly below the other answer's cut into consequences of their cause."""
    mine, other = _sides(case, side)
    opposite = Side.CANDIDATE if side is Side.CONTROL else Side.CONTROL
    causes = [
        item.cause
        for item in findings.values()
        if item.side is opposite and item.cause is not Cause.DISPLACED
    ]
    below = _below_cut(case.question, mine.ranked, other.ranked)
    for key, finding in list(findings.items()):
        if finding.side is not side or finding.cause is not Cause.INDEX_RECALL:
            continue
        if key not in below or not causes:
            continue
        detail = f"another id took its place ({causes.pop(0).value.replace('_', ' ')})"
        findings[key] = Finding(key=key, side=side, cause=Cause.DISPLACED, detail=detail)


def _below_cut(question: Question, mine: Ranked, other: Ranked) -> frozenset[Key]:
    """Return ids of `mine` that `other`, being full, was right to leave out given what it has.

    A search leaves out what scores below its k-th. A list has only an order: what lies beyond
    the last common row was pushed off the page, or off its front when it is paged by offset.
    """
    if len(other.ids) < other.limit:
        return frozenset()
    cut = other.cut
    if cut is not None:
        return frozenset(key for key, score in mine.score_of().items() if score < cut)
    common = set(other.ids)
    places = [rank for rank, key in enumerate(mine.ids) if key in common]
    if not places:
        return frozenset(mine.ids)
    paged = isinstance(question.query, ListQuery) and question.query.offset > 0
    front = mine.ids[: places[0]] if paged else ()
    return frozenset(front + mine.ids[places[-1] + 1 :])
