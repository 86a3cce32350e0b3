"""The causes in words and colours: the same everywhere on the pages."""

from __future__ import annotations

from dataclasses import dataclass

from shadow.attribute import EXCUSED, ZERO_TOLERANCE, Cause
from shadow.page.markup import Markup, el


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseWords:
    """How one cause is called and what it means."""

    name: str
    meaning: str


WORDS = {
    Cause.IN_FLIGHT: CauseWords(
        name="in flight", meaning="a live write was changing the record while it was read"
    ),
    Cause.TIE: CauseWords(
        name="tie", meaning="as near as the last hit of the other store; either one is right"
    ),
    Cause.SEMANTIC: CauseWords(
        name="known difference", meaning="the two stores are known to answer this differently"
    ),
    Cause.MISSING: CauseWords(name="missing", meaning="the candidate does not have the record"),
    Cause.EXTRA: CauseWords(name="extra", meaning="only the candidate has the record"),
    Cause.STALE: CauseWords(name="stale", meaning="both have the record, with different content"),
    Cause.VECTOR: CauseWords(
        name="vector or metric", meaning="vectors, metric or the exact score differ"
    ),
    Cause.DISPLACED: CauseWords(
        name="displaced", meaning="rightly below the cut: another difference took its place"
    ),
    Cause.INDEX_RECALL: CauseWords(
        name="index recall", meaning="present and right, but the index did not return it"
    ),
}


def words(cause: str) -> CauseWords:
    """Return the words of a cause; an unknown one is called as it came."""
    known = _known(cause)
    return WORDS[known] if known else CauseWords(name=cause, meaning="")


def treatment(cause: str) -> str:
    """Say what the gate does with a cause."""
    known = _known(cause)
    if known in EXCUSED:
        return "excused"
    if known in ZERO_TOLERANCE:
        return "none allowed"
    return "consequence" if known is Cause.DISPLACED else "bounded by overlap"


def style(cause: str) -> str:
    """Return the css class of a cause; never text that came from outside."""
    known = _known(cause)
    return f"c-{known.value}" if known else "c-unknown"


def chip(cause: str) -> Markup:
    """Return the small label of a cause."""
    return el("span", words(cause).name, class_=f"chip {style(cause)}")


def _known(cause: str) -> Cause | None:
    return next((one for one in Cause if one.value == cause), None)
