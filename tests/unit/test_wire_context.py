"""What a call's metadata says, and what it may say."""

from __future__ import annotations

import pytest

from proxy.errors import Rejected
from proxy.fronts.native.context import (
    DATA_DEADLINES,
    Deadlines,
    given_id,
    read_head,
    request_context,
)


def test_without_metadata_the_request_is_named_and_sticks_to_nothing() -> None:
    head = read_head((("user-agent", "x"),), "fresh")
    assert (head.request_id, head.targeting_key, head.idempotency_key) == ("fresh", "fresh", "")


def test_a_request_id_that_is_refused_names_nothing() -> None:
    assert given_id((("x-request-id", "r-1"),), "fresh") == "r-1"
    for wrong in ("", "x" * 129, "a\nb", b"r-1"):
        assert given_id((("x-request-id", wrong),), "fresh") == "fresh"


def test_everything_a_client_may_say_is_heard() -> None:
    head = read_head(
        (
            ("x-request-id", "r-1"),
            ("crossfade-targeting-key", "tenant 7"),
            ("crossfade-idempotency-key", "i-1"),
            ("crossfade-context-plan", "gold"),
        ),
        "fresh",
    )
    context = request_context(head, 2.5)
    assert (context.request_id, context.targeting_key) == ("r-1", "tenant 7")
    assert (context.idempotency_key, context.deadline_s) == ("i-1", 2.5)
    assert context.attributes == {"plan": "gold"}


@pytest.mark.parametrize("value", ["", "x" * 129, "a\tb", b"\xff"])
@pytest.mark.parametrize(
    "name",
    [
        "x-request-id",
        "crossfade-targeting-key",
        "crossfade-idempotency-key",
        "crossfade-context-a",
    ],
)
def test_a_value_that_is_empty_long_or_not_visible_is_refused(
    name: str, value: str | bytes
) -> None:
    with pytest.raises(Rejected) as caught:
        read_head(((name, value),), "fresh")
    assert caught.value.violations[0].where == f"metadata.{name}"


def test_the_number_of_context_values_is_bounded() -> None:
    pairs = [(f"crossfade-context-{number}", "x") for number in range(17)]
    assert len(read_head(pairs[:16], "fresh").attributes) == 16
    with pytest.raises(Rejected, match="at most 16"):
        read_head(pairs, "fresh")


@pytest.mark.parametrize(
    ("remaining_s", "granted_s"),
    [
        (None, 10.0),
        (3.0, 2.9),
        (0.5, 0.45),
        (3600.0, 60.0),
        (60.0, 59.9),
        (0.0, 0.001),
        (-5, 0.001),
    ],
)
def test_a_data_call_gets_its_deadline_less_the_answers_way_and_sixty_seconds_at_most(
    remaining_s: float | None, granted_s: float
) -> None:
    assert DATA_DEADLINES.left_s(remaining_s) == pytest.approx(granted_s)


def test_deadlines_are_a_service_s_own() -> None:
    assert Deadlines(default_s=60.0, max_s=600.0).left_s(None) == 60.0
