"""Measures of how alike two rankings are: overlap, Jaccard, top-1, RBO, Kendall tau-b, scores."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from proxy.model import Key

RBO_P = 0.9
"""Persistence of RBO: the first ten ranks carry about 86 % of the weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One answer as a ranking.

    Attributes:
        ids: distinct, best first.
        scores: greater is nearer, one per id; empty for a list, which has an order and no scores.
        limit: how many were asked for; a ranking with fewer ids was not cut off.
    """

    ids: tuple[Key, ...]
    scores: tuple[float, ...] = ()
    limit: int

    @property
    def cut(self) -> float | None:
        """The score an id had to reach to be returned: the k-th, None if nothing was cut off."""
        if not self.scores or len(self.ids) < self.limit:
            return None
        return self.scores[-1]

    def score_of(self) -> dict[Key, float]:
        """Return the score of each id; empty for a list."""
        return dict(zip(self.ids, self.scores, strict=True)) if self.scores else {}


def overlap(control: Ranked, candidate: Ranked) -> float:
    """Return |common| / max(|control|, |candidate|), in 0..1; two empty answers agree: 1."""
    longest = max(len(control.ids), len(candidate.ids))
    if longest == 0:
        return 1.0
    return len(set(control.ids) & set(candidate.ids)) / longest


def tied_with_cut(ranked: Ranked, other: Ranked, epsilon: float) -> frozenset[Key]:
    """Return ids only in `ranked` that are as good as the k-th of `other`, within `epsilon`.

    The other store returned something just as near instead, so neither answer is wrong. It is
    the other side's k-th that counts: an id tied with its own side's k-th may still have been
    passed over for something worse.
    """
    cut = other.cut
    if cut is None:
        return frozenset()
    common = set(other.ids)
    return frozenset(
        item
        for item, score in ranked.score_of().items()
        if item not in common and abs(score - cut) <= epsilon
    )


def tie_aware_overlap(control: Ranked, candidate: Ranked, epsilon: float) -> float:
    """Return overlap@k where ids tied at the cut-off may stand for one another, in 0..1."""
    longest = max(len(control.ids), len(candidate.ids))
    if longest == 0:
        return 1.0
    common = len(set(control.ids) & set(candidate.ids))
    ties = min(
        len(tied_with_cut(control, candidate, epsilon)),
        len(tied_with_cut(candidate, control, epsilon)),
    )
    return (common + ties) / longest


def jaccard(control: Ranked, candidate: Ranked) -> float:
    """Return |common| / |union|, in 0..1; two empty answers agree: 1."""
    union = set(control.ids) | set(candidate.ids)
    if not union:
        return 1.0
    return len(set(control.ids) & set(candidate.ids)) / len(union)


def top1_agrees(control: Ranked, candidate: Ranked, epsilon: float) -> bool:
    """Return whether both put the same id first, or ids whose scores are tied."""
    if not control.ids or not candidate.ids:
        return not control.ids and not candidate.ids
    if control.ids[0] == candidate.ids[0]:
        return True
    if not control.scores or not candidate.scores:
        return False
    return abs(control.scores[0] - candidate.scores[0]) <= epsilon


def rbo_ext(first: Sequence[Hashable], second: Sequence[Hashable], p: float = RBO_P) -> float:
    """Return the extrapolated rank-biased overlap of two rankings, in 0..1.

    W. Webber, A. Moffat, J. Zobel: A similarity measure for indefinite rankings. ACM
    Transactions on Information Systems 28(4), 2010, equation 32, which takes rankings of unequal
    lengths s <= l. Two empty rankings agree (1); an empty one and another share nothing (0).
    """
    shorter, longer = sorted((first, second), key=len)
    s, l = len(shorter), len(longer)  # noqa: E741 - the paper's own letters
    if s == 0:
        return 1.0 if l == 0 else 0.0
    agree = _common_prefixes(shorter, longer)
    total = 0.0
    for depth in range(1, l + 1):
        total += agree[depth] / depth * p**depth
        if depth > s:
            total += agree[s] * (depth - s) / (s * depth) * p**depth
    tail = ((agree[l] - agree[s]) / l + agree[s] / s) * p**l
    return min(1.0, (1 - p) / p * total + tail)


def _common_prefixes(shorter: Sequence[Hashable], longer: Sequence[Hashable]) -> list[int]:
    """Return X_d for d = 0..len(longer): how many ids the two prefixes of length d share."""
    seen_short: set[Hashable] = set()
    seen_long: set[Hashable] = set()
    counts, common = [0], 0
    for depth, item in enumerate(longer):
        other = shorter[depth] if depth < len(shorter) else None
        if depth < len(shorter):
            common += (other in seen_long) + (item in seen_short) + (item == other)
            seen_short.add(other)
        else:
            common += item in seen_short
        seen_long.add(item)
        counts.append(common)
    return counts


def kendall_tau_b(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of paired values, in -1..1; None when it is not defined.

    M. G. Kendall: The treatment of ties in ranking problems. Biometrika 33(3), 1945. Not defined
    for fewer than two pairs, or when all values of one side are tied.
    """
    if len(first) < 2:
        return None
    rows, columns = np.triu_indices(len(first), k=1)
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sign_left = np.sign(left[rows] - left[columns])
    sign_right = np.sign(right[rows] - right[columns])
    untied_left = int(np.count_nonzero(sign_left))
    untied_right = int(np.count_nonzero(sign_right))
    if untied_left == 0 or untied_right == 0:
        return None
    tau = float(np.sum(sign_left * sign_right)) / math.sqrt(untied_left * untied_right)
    return max(-1.0, min(1.0, tau))


def rank_levels(ranked: Ranked, epsilon: float) -> dict[Key, float]:
    """Return a level for each id, falling with rank; neighbours tied within epsilon share one."""
    levels: dict[Key, float] = {}
    level = 0.0
    for rank, item in enumerate(ranked.ids):
        tied = bool(
            rank and ranked.scores and abs(ranked.scores[rank - 1] - ranked.scores[rank]) <= epsilon
        )
        if not tied:
            level = -float(rank)
        levels[item] = level
    return levels


def tau_on_common(control: Ranked, candidate: Ranked, epsilon: float) -> float | None:
    """Return tau-b of the order in which both give their common ids; None if not defined."""
    left, right = rank_levels(control, epsilon), rank_levels(candidate, epsilon)
    common = [item for item in control.ids if item in right]
    return kendall_tau_b([left[item] for item in common], [right[item] for item in common])


def score_deltas(control: Ranked, candidate: Ranked) -> Mapping[Key, float]:
    """Return |score difference| of each id that both returned; empty for lists."""
    left, right = control.score_of(), candidate.score_of()
    return {item: abs(left[item] - right[item]) for item in left if item in right}


def order_agrees(control: Ranked, candidate: Ranked, epsilon: float) -> bool:
    """Return whether two answers with the same ids give them in one order, ties aside."""
    if control.ids == candidate.ids or set(control.ids) != set(candidate.ids):
        return True
    if not candidate.scores:
        return False
    scores = candidate.score_of()
    along = [scores[item] for item in control.ids]
    return all(after <= before + epsilon for before, after in pairwise(along))
