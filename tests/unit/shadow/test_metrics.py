"""The measures against values computed by hand or published, and their properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Metric
from shadow import metrics
from shadow.exact import exact_similarity
from shadow.metrics import Ranked
from tests.unit.shadow.support import vector

EPSILON = 1e-5


def ranked(names: str, scores: tuple[float, ...] = (), limit: int = 0) -> Ranked:
    return Ranked(
        ids=tuple((name,) for name in names), scores=scores, limit=limit or max(1, len(names))
    )


@st.composite
def rankings(draw: st.DrawFn) -> Ranked:
    """Hits of up to 8 out of 12 ids, with scores from a small set, so that ties are common."""
    ids = draw(st.lists(st.sampled_from("abcdefghijkl"), unique=True, max_size=8))
    levels = st.sampled_from([0.9, 0.8, 0.8 + 1e-6, 0.7, 0.5])
    scores = sorted((draw(levels) for _ in ids), reverse=True)
    limit = draw(st.sampled_from([max(1, len(ids)), 8]))
    return Ranked(ids=tuple((name,) for name in ids), scores=tuple(scores), limit=limit)


def test_overlap_is_the_share_of_the_longer_answer() -> None:
    assert metrics.overlap(ranked("abcd"), ranked("abce")) == 0.75
    assert metrics.overlap(ranked("abcd"), ranked("ab")) == 0.5
    assert metrics.overlap(ranked(""), ranked("")) == 1
    assert metrics.overlap(ranked("a"), ranked("")) == 0


def test_ids_tied_at_the_cut_stand_for_one_another() -> None:
    left = ranked("ab", (0.9, 0.8))
    assert metrics.tie_aware_overlap(left, ranked("ac", (0.9, 0.8)), EPSILON) == 1
    assert metrics.tie_aware_overlap(left, ranked("ac", (0.9, 0.8 + 9e-6)), EPSILON) == 1
    assert metrics.tie_aware_overlap(left, ranked("ac", (0.9, 0.79)), EPSILON) == 0.5


def test_an_answer_that_was_not_cut_off_has_no_ties() -> None:
    left, right = ranked("ab", (0.9, 0.8), limit=3), ranked("ac", (0.9, 0.8), limit=3)
    assert metrics.tie_aware_overlap(left, right, EPSILON) == 0.5


def test_jaccard_is_the_share_of_the_union() -> None:
    assert metrics.jaccard(ranked("abc"), ranked("bcd")) == 0.5
    assert metrics.jaccard(ranked(""), ranked("")) == 1


def test_top1_agrees_on_the_same_or_a_tied_first_hit() -> None:
    left = ranked("ab", (0.9, 0.9))
    assert metrics.top1_agrees(left, ranked("ba", (0.9, 0.9)), EPSILON)
    assert not metrics.top1_agrees(left, ranked("ba", (0.95, 0.9)), EPSILON)
    assert not metrics.top1_agrees(ranked("ab"), ranked("ba"), EPSILON)
    assert metrics.top1_agrees(ranked(""), ranked(""), EPSILON)
    assert not metrics.top1_agrees(left, ranked(""), EPSILON)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # (1-p)/p * (0.9 + 0.81/2) + 0.81 * 1/2
        ("ab", "ac", 0.55),
        # unequal lengths: (1-p)/p * (0.9 + 0.405 + 0.405) + 0.81 * 1
        ("a", "ab", 1.0),
        # (1-p)/p * (0 + 2/2 * 0.81) + 0.81
        ("ab", "ba", 0.9),
        # (1-p)/p * (0 + 0.405 + 0.243) + 0.729 * 1/3
        ("abc", "dea", 0.1 / 0.9 * 0.243 + 0.243),
        ("abc", "def", 0.0),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_rbo_has_the_values_of_equation_32(first: str, second: str, expected: float) -> None:
    assert metrics.rbo_ext(first, second) == pytest.approx(expected)


def test_rbo_weighs_the_top_more_than_the_bottom() -> None:
    assert metrics.rbo_ext("abcdef", "xbcdef") < metrics.rbo_ext("abcdef", "abcdex")


def test_tau_b_has_published_values() -> None:
    # The example of scipy.stats.kendalltau, with ties on both sides.
    tau = metrics.kendall_tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0])
    assert tau == pytest.approx(-0.47140452079103173)
    assert metrics.kendall_tau_b([1, 2, 3], [1, 2, 3]) == 1
    assert metrics.kendall_tau_b([1, 2, 3], [3, 2, 1]) == -1
    assert metrics.kendall_tau_b([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)


def test_tau_b_is_not_defined_without_an_order() -> None:
    assert metrics.kendall_tau_b([1], [1]) is None
    assert metrics.kendall_tau_b([1, 1], [1, 2]) is None


def test_tau_on_common_ids_forgives_a_swap_of_tied_neighbours() -> None:
    left = ranked("abc", (0.9, 0.8, 0.8))
    right = ranked("acb", (0.9, 0.8, 0.8))
    assert metrics.tau_on_common(left, right, EPSILON) == 1
    assert metrics.order_agrees(left, right, EPSILON)
    strict = ranked("acb", (0.9, 0.85, 0.8))
    assert not metrics.order_agrees(strict, ranked("abc", (0.9, 0.85, 0.8)), EPSILON)
    assert not metrics.order_agrees(ranked("ab"), ranked("ba"), EPSILON)


def test_score_deltas_are_of_common_ids() -> None:
    deltas = metrics.score_deltas(ranked("ab", (0.9, 0.8)), ranked("bc", (0.7, 0.6)))
    assert deltas == {("b",): pytest.approx(0.1)}


@given(rankings(), rankings())
def test_measures_are_bounded_and_symmetric(left: Ranked, right: Ranked) -> None:
    for measure in (metrics.overlap, metrics.jaccard):
        assert 0 <= measure(left, right) <= 1
        assert measure(left, right) == measure(right, left)
    tied = metrics.tie_aware_overlap(left, right, EPSILON)
    assert metrics.overlap(left, right) <= tied <= 1
    assert tied == metrics.tie_aware_overlap(right, left, EPSILON)
    rbo = metrics.rbo_ext(left.ids, right.ids)
    assert 0 <= rbo <= 1
    assert rbo == pytest.approx(metrics.rbo_ext(right.ids, left.ids))
    tau = metrics.tau_on_common(left, right, EPSILON)
    assert tau is None or -1 <= tau <= 1
    assert tau == metrics.tau_on_common(right, left, EPSILON)
    assert metrics.top1_agrees(left, right, EPSILON) == metrics.top1_agrees(right, left, EPSILON)


@given(rankings())
def test_a_ranking_is_wholly_like_itself(one: Ranked) -> None:
    assert metrics.overlap(one, one) == metrics.jaccard(one, one) == 1
    assert metrics.tie_aware_overlap(one, one, EPSILON) == 1
    assert metrics.rbo_ext(one.ids, one.ids) == pytest.approx(1)
    assert metrics.top1_agrees(one, one, EPSILON)
    assert metrics.order_agrees(one, one, EPSILON)
    assert metrics.tau_on_common(one, one, EPSILON) in (None, pytest.approx(1))


@given(st.permutations(list("abcdef")), st.permutations(list("abcdef")))
def test_rbo_of_permutations_agrees_with_its_definition(
    first: list[str], second: list[str]
) -> None:
    p, n = 0.9, 6
    agree = [len(set(first[:d]) & set(second[:d])) / d for d in range(1, n + 1)]
    infinite = (1 - p) * sum(a * p**d for d, a in enumerate(agree))
    rest = agree[-1] * p**n  # agreement stays what it is at the end
    assert metrics.rbo_ext(first, second) == pytest.approx(infinite + rest)


def test_exact_similarity_is_on_the_scale_of_its_metric() -> None:
    left, right = vector(1.0), vector(0.6)
    assert exact_similarity(Metric.COSINE, left, right) == pytest.approx(0.6)
    assert exact_similarity(Metric.DOT, left, right) == pytest.approx(0.6)
    distance = math.hypot(0.4, 0.8)
    assert exact_similarity(Metric.L2, left, right) == pytest.approx(1 / (1 + distance))
    assert exact_similarity(Metric.COSINE, left, None) is None
    assert exact_similarity(Metric.COSINE, left, bytes(8)) is None
    assert exact_similarity(Metric.COSINE, left, bytes(4)) is None
