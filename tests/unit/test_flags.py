"""The traffic flag: sticky, monotone, fair, and never in the way when a flag service fails."""

from __future__ import annotations

import statistics
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails
from openfeature.provider.no_op_provider import NoOpProvider

from proxy.config.settings import FlagSettings
from proxy.errors import ConfigInvalid
from proxy.ledger.types import Phase, Routing
from proxy.routing.flags import Buckets, RoutingProvider, TrafficFlags, load_provider

RAMP = Routing(epoch=4, phase=Phase.RAMP, primary="old")
KEYS = st.text(max_size=40).filter(bool)
PERCENTS = st.floats(min_value=0, max_value=100)


class Table:
    """A routing that a test can change."""

    def __init__(self, routing: Routing = RAMP) -> None:
        self.routing = routing

    def __call__(self) -> Routing:
        return self.routing


class TeamProvider(NoOpProvider):
    """A team's own flag service, as bad as a test wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str | None, Mapping[str, Any]]] = []
        self.result: Callable[[], FlagResolutionDetails[bool]] = lambda: FlagResolutionDetails(
            value=True
        )
        self.stopped = threading.Event()

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        assert evaluation_context is not None
        self.seen.append((evaluation_context.targeting_key, evaluation_context.attributes))
        return self.result()

    def shutdown(self) -> None:
        self.stopped.set()


def broken() -> NoOpProvider:
    """A factory that fails when the provider is initialised."""

    class Broken(NoOpProvider):
        def initialize(self, evaluation_context: EvaluationContext) -> None:
            raise ConnectionError("no flag service")

        def resolve_boolean_details(
            self,
            flag_key: str,
            default_value: bool,
            evaluation_context: EvaluationContext | None = None,
        ) -> FlagResolutionDetails[bool]:
            raise ConnectionError("still no flag service")

    return Broken()


def nothing() -> None:
    """A factory that returns no provider."""


@pytest.fixture
async def flags() -> AsyncIterator[tuple[TrafficFlags, Table]]:
    table = Table()
    made = TrafficFlags(FlagSettings(), migration="docs", routing=table)
    await made.open()
    yield made, table
    await made.close()


@pytest.fixture
async def team() -> AsyncIterator[tuple[TrafficFlags, Table, TeamProvider]]:
    table = Table()
    made = TrafficFlags(
        FlagSettings(provider=f"{__name__}:TeamProvider"), migration="docs", routing=table
    )
    await made.open()
    own = made._own
    assert isinstance(own, TeamProvider)
    yield made, table, own
    await made.close()


@settings(deadline=None)
@given(key=KEYS, low=PERCENTS, high=PERCENTS)
def test_raising_the_percentage_only_adds_keys(key: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    buckets = Buckets("docs")
    assert buckets.within(key, low) <= buckets.within(key, high)


@settings(deadline=None)
@given(key=KEYS)
def test_nobody_is_within_zero_and_everybody_within_a_hundred(key: str) -> None:
    buckets = Buckets("docs")
    assert not buckets.within(key, 0.0)
    assert buckets.within(key, 100.0)
    assert buckets.place(key) == Buckets("docs").place(key)


def test_a_place_never_changes_between_releases() -> None:
    # A changed hash would move every client to another store at an upgrade.
    assert Buckets("docs").place("tenant-1") == 0xF8921D5ECB65FE93
    assert Buckets("docs").place("tenant-1") != Buckets("other").place("tenant-1")
    assert Buckets("docs").place("\ud800") >= 0


@pytest.mark.parametrize("percent", [1.0, 10.0, 33.3, 50.0, 99.0])
def test_the_share_of_keys_is_the_percentage(percent: float) -> None:
    buckets = Buckets("docs")
    keys = 20_000
    share = sum(buckets.within(f"user-{n}", percent) for n in range(keys)) / keys * 100
    # Five standard deviations of a binomial share: a wrong hash fails, chance does not.
    allowed = 5 * (percent * (100 - percent) / keys) ** 0.5
    assert abs(share - percent) < allowed


def test_keys_that_differ_in_one_character_are_independent() -> None:
    buckets = Buckets("docs")
    places = [buckets.place(f"k{n}") / 2**64 for n in range(5000)]
    assert abs(statistics.correlation(places[:-1], places[1:])) < 0.06


async def test_the_flag_follows_the_routing(flags: tuple[TrafficFlags, Table]) -> None:
    made, table = flags
    keys = [f"u{n}" for n in range(400)]
    before: set[str] = set()
    for percent in (0.0, 5.0, 25.0, 50.0, 100.0):
        table.routing = replace(RAMP, percent=percent)
        chosen = {key for key in keys if made.read_new(key, {})}
        assert before <= chosen
        before = chosen
    assert before == set(keys)
    table.routing = replace(RAMP, percent=0.0)
    assert not any(made.read_new(key, {}) for key in keys)
    assert made.errors == 0


async def test_two_replicas_in_one_process_answer_alike_and_apart_from_the_global_provider() -> (
    None
):
    before = api.get_provider_metadata().name
    one = TrafficFlags(FlagSettings(), migration="docs", routing=Table(replace(RAMP, percent=50.0)))
    two = TrafficFlags(FlagSettings(), migration="docs", routing=Table(replace(RAMP, percent=50.0)))
    await one.open()
    await two.open()
    keys = [uuid.uuid4().hex for _ in range(200)]
    answers = [one.read_new(key, {}) for key in keys]
    assert answers == [two.read_new(key, {}) for key in keys]
    await one.close()
    await one.close()
    assert answers == [two.read_new(key, {}) for key in keys]
    await two.close()
    assert api.get_provider_metadata().name == before


async def test_the_flag_is_a_real_openfeature_flag(flags: tuple[TrafficFlags, Table]) -> None:
    made, table = flags
    table.routing = replace(RAMP, percent=100.0)
    client = api.get_client(made._domain)
    context = EvaluationContext("tenant")
    assert client.get_boolean_value("crossfade.read_new", False, context)
    assert client.get_boolean_details("crossfade.read_new", False).error_code is not None
    assert client.get_boolean_details("other", False, context).error_code is not None
    assert client.get_string_value("crossfade.read_new", "x", context) == "x"
    assert client.get_integer_value("crossfade.read_new", 1, context) == 1
    assert client.get_float_value("crossfade.read_new", 1.5, context) == 1.5
    assert client.get_object_value("crossfade.read_new", {"a": 1}, context) == {"a": 1}


async def test_a_teams_provider_decides_in_the_ramp_and_only_there(
    team: tuple[TrafficFlags, Table, TeamProvider],
) -> None:
    made, table, own = team
    assert made.read_new("tenant", {"plan": "gold"})
    assert own.seen == [("tenant", {"plan": "gold"})]
    table.routing = replace(RAMP, phase=Phase.SHADOW)
    assert not made.read_new("tenant", {})
    assert len(own.seen) == 1


async def test_a_failing_provider_is_counted_and_the_built_in_answer_stands_in(
    team: tuple[TrafficFlags, Table, TeamProvider],
) -> None:
    made, table, own = team

    def fail() -> FlagResolutionDetails[bool]:
        raise ConnectionError("flag service down")

    own.result = fail
    assert not made.read_new("tenant", {})
    table.routing = replace(RAMP, percent=100.0)
    assert made.read_new("tenant", {})
    own.result = lambda: FlagResolutionDetails(value="yes")  # type: ignore[arg-type]  # on purpose
    assert made.read_new("tenant", {})
    assert made.errors == 3


async def test_a_provider_that_cannot_start_does_not_stop_the_proxy() -> None:
    codes: list[str] = []
    made = TrafficFlags(
        FlagSettings(provider=f"{__name__}:broken"),
        migration="docs",
        routing=Table(replace(RAMP, percent=100.0)),
        on_error=codes.append,
    )
    assert made.read_new("before open", {})
    await made.open()
    assert codes == ["ConnectionError"]
    assert made.read_new("tenant", {})
    assert len(codes) == 2
    await made.close()


async def test_close_shuts_a_teams_provider_down() -> None:
    made = TrafficFlags(
        FlagSettings(provider=f"{__name__}:TeamProvider"), migration="docs", routing=Table()
    )
    await made.open()
    own = made._own
    assert isinstance(own, TeamProvider)
    await made.close()
    assert own.stopped.wait(5)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("no.such.module:f", "ModuleNotFoundError"),
        (f"{__name__}:no_such_name", "AttributeError"),
        (f"{__name__}:RAMP", "TypeError"),
        (f"{__name__}:nothing", "a NoneType"),
        ("justamodule", "ModuleNotFoundError"),
    ],
)
def test_a_bad_provider_is_a_clear_configuration_error(spec: str, expected: str) -> None:
    with pytest.raises(ConfigInvalid, match="flag provider cannot be used") as caught:
        load_provider(spec)
    assert expected in str(caught.value)


async def test_one_evaluation_costs_less_than_a_read_could_notice(
    flags: tuple[TrafficFlags, Table],
) -> None:
    made, table = flags
    table.routing = replace(RAMP, percent=50.0)
    best_us = min(_timed_us(made) for _ in range(20))
    print(f"one evaluation: {best_us:.1f} us")
    assert best_us < 30


def _timed_us(made: TrafficFlags) -> float:
    rounds = 200
    start = time.perf_counter()
    for number in range(rounds):
        made.read_new(f"user-{number}", {})
    return (time.perf_counter() - start) / rounds * 1e6


def test_the_provider_has_a_name() -> None:
    assert RoutingProvider("m", "f", Table()).get_metadata().name == "crossfade-routing"
