"""How many writes a replica takes at once follows what its primary works off in time."""

from __future__ import annotations

import datetime as dt

import pytest

from proxy.dual_write.pace import Pace
from proxy.errors import Reason, Rejected

MOST = 1000
DEADLINE_S = 2.0


class HandClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        """See Clock."""
        return self.now_s

    def now(self) -> dt.datetime:
        """See Clock."""
        return dt.datetime.fromtimestamp(self.now_s, dt.UTC)

    async def sleep(self, delay_s: float) -> None:
        """See Clock."""
        self.now_s += delay_s


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def pace(clock: HandClock) -> Pace:
    return Pace(clock, most=MOST, deadline_s=DEADLINE_S)


def calls(pace: Pace, clock: HandClock, took_s: float, *, times: int, in_flight: int) -> None:
    """Have the primary take `took_s` for each of some calls, one after another."""
    for _ in range(times):
        with pace.measured(lambda: in_flight):
            clock.now_s += took_s


def test_a_fast_primary_is_given_all_that_the_settings_allow(pace: Pace, clock: HandClock) -> None:
    calls(pace, clock, 0.01, times=100, in_flight=500)
    assert pace.limit == MOST
    pace.require_room(MOST - 1)
    with pytest.raises(Rejected, match="1000 writes are in flight already") as caught:
        pace.require_room(MOST)
    assert caught.value.reason is Reason.RESOURCE_EXHAUSTED


def test_one_slow_write_among_fast_ones_changes_nothing(pace: Pace, clock: HandClock) -> None:
    calls(pace, clock, 0.01, times=20, in_flight=500)
    calls(pace, clock, DEADLINE_S, times=1, in_flight=500)
    assert pace.limit == MOST


def test_a_primary_that_needs_most_of_its_deadline_is_given_less_and_the_refusal_says_why(
    pace: Pace, clock: HandClock
) -> None:
    calls(pace, clock, 0.8 * DEADLINE_S, times=12, in_flight=300)
    assert 64 <= pace.limit < 300
    with pytest.raises(Rejected, match=r"the primary takes 1\.\d s for each"):
        pace.require_room(300)


def test_so_few_writes_are_always_taken_however_slow_it_is(pace: Pace, clock: HandClock) -> None:
    calls(pace, clock, DEADLINE_S, times=200, in_flight=64)
    assert pace.limit == 64
    small = Pace(clock, most=2, deadline_s=DEADLINE_S)
    calls(small, clock, DEADLINE_S, times=200, in_flight=2)
    assert small.limit == 2


def test_once_it_is_fast_again_the_limit_grows_back(pace: Pace, clock: HandClock) -> None:
    calls(pace, clock, DEADLINE_S, times=200, in_flight=64)
    calls(pace, clock, 0.01, times=50 + MOST, in_flight=64)
    assert pace.limit == MOST


def test_a_call_that_fails_is_measured_too(pace: Pace, clock: HandClock) -> None:
    def lost() -> None:
        with pace.measured(lambda: 200):
            clock.now_s += DEADLINE_S
            raise ValueError("lost")

    for _ in range(30):
        with pytest.raises(ValueError, match="lost"):
            lost()
    assert pace.limit < 200
