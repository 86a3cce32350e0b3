"""The comparison of one query on two stores: every measure, and every difference attributed."""

from __future__ import annotations

from dataclasses import dataclass

from shadow import metrics
from shadow.attribute import EXCUSED, ZERO_TOLERANCE, Case, Cause, Finding, Side, attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike two answers are.

    Attributes:
        overlap: tie-aware overlap@k, 0..1.
        overlap_excused: the same after excusing: 1 - unexcused ids / longest answer, 0..1.
        rbo: extrapolated rank-biased overlap, p = 0.9, 0..1.
        tau: Kendall's tau-b on the common ids, -1..1; None when not defined.
        score_delta_max: greatest score difference of an id both returned; None without any.
        order_agrees: the same ids in the same order, or not the same ids at all.
    """

    overlap: float
    overlap_excused: float
    jaccard: float
    top1: bool
    rbo: float
    tau: float | None
    score_delta_max: float | None
    order_agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The outcome of one query that both stores answered."""

    case: Case
    likeness: Likeness
    findings: tuple[Finding, ...]

    @property
    def charged(self) -> int:
        """How many differences have no tolerance."""
        return sum(finding.cause in ZERO_TOLERANCE for finding in self.findings)

    @property
    def empty_on_one_side(self) -> bool:
        """One store found something, the other nothing."""
        control, candidate = self.case.control.ranked.ids, self.case.candidate.ranked.ids
        return bool(control) != bool(candidate)

    @property
    def counts_differ(self) -> bool:
        """The two answers have different lengths."""
        return len(self.case.control.ranked.ids) != len(self.case.candidate.ranked.ids)


def compare(case: Case) -> Comparison:
    """Measure and attribute. Pure: the evidence has been gathered."""
    findings = attribute(case)
    control, candidate = case.control.ranked, case.candidate.ranked
    epsilon = case.pair.policy.score_epsilon
    deltas = metrics.score_deltas(control, candidate)
    likeness = Likeness(
        overlap=metrics.tie_aware_overlap(control, candidate, epsilon),
        overlap_excused=excused_overlap(case, findings),
        jaccard=metrics.jaccard(control, candidate),
        top1=metrics.top1_agrees(control, candidate, epsilon),
        rbo=metrics.rbo_ext(control.ids, candidate.ids),
        tau=metrics.tau_on_common(control, candidate, epsilon),
        score_delta_max=max(deltas.values(), default=None),
        order_agrees=metrics.order_agrees(control, candidate, epsilon),
    )
    return Comparison(case=case, likeness=likeness, findings=findings)


def excused_overlap(case: Case, findings: tuple[Finding, ...]) -> float:
    """Return 1 - (unexcused ids that one side alone has) / (longest answer), the worse side.

    A displaced id is the consequence of a difference that is counted itself. An id that both
    have with another content is no matter of overlap; it is charged on its own.
    """
    longest = max(len(case.control.ranked.ids), len(case.candidate.ranked.ids))
    if longest == 0:
        return 1.0
    forgiven = EXCUSED | {Cause.DISPLACED}
    charged = [finding.side for finding in findings if finding.cause not in forgiven]
    return 1.0 - max(charged.count(Side.CONTROL), charged.count(Side.CANDIDATE)) / longest


def needs_second_look(case: Case, findings: tuple[Finding, ...]) -> bool:
    """Return whether a difference could still be a write that came between two reads.

    Missing, extra, stale and vector are declared only if a second look agrees. So is an id that
    only the candidate returned, or one that differs in a list: the control may return it by now.
    An id that only the control's search returned, present and right on both, needs none.
    """
    for finding in findings:
        if finding.cause in ZERO_TOLERANCE:
            return True
        if finding.cause is Cause.INDEX_RECALL and (
            finding.side is Side.CANDIDATE or not case.control.ranked.scores
        ):
            return True
    return False
