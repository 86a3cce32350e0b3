"""What a seed decides before a run begins: who takes part, where it starts, what will go wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass

from proxy.ledger.types import Phase
from proxy.pausepoints import PausePoint
from reconcile.snapshot import Step
from tests.simulation.network import CALM, Weather
from tests.simulation.points import SAFE, Dangers

SERVERS = ("old", "new", "ledger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run.

    Attributes:
        kind: "walk", "hot" or "duel", see the functions below.
        pace_s: about how long a client rests between two writes.
        start: the phase it begins in; the stores are equal there unless it is old_only or
            dual_write.
        walks: the operator moves through the phases; else jobs are all that is asked for.
        outages, cuts, stops, kills: how many of each are spread over the run; a cut parts one
            replica from the ledger.
        ends: what happens at the end: "as it is" or "rollback" to old_only.
    """

    kind: str
    replicas: int
    reconcilers: int
    clients: int
    writes_each: int
    keys: int
    pace_s: float
    start: Phase
    percent: float
    weather: dict[str, Weather]
    replica_dangers: Dangers
    reconciler_dangers: Dangers
    walks: bool
    forward: float
    outages: int
    cuts: int
    stops: int
    kills: int
    ack: str
    ends: str


def make_plan(seed: int) -> Plan:
    """Draw a run from its seed; runs are of three kinds, so that each can go far in its way."""
    rng = random.Random(f"{seed}/plan")
    kind = rng.choices((_walk, _hot, _duel, _begin), (35, 25, 25, 15))[0]
    return kind(rng)


def _begin(rng: random.Random) -> Plan:
    """Dual writing begins, and is filled in haste, while slow writes of before are on their way."""
    quick = Weather(delay_s=0.004)
    return Plan(
        kind="begin",
        replicas=rng.randint(2, 3),
        reconcilers=1,
        clients=rng.randint(3, 4),
        writes_each=rng.randint(5, 8),
        keys=rng.choice((3, 6)),
        pace_s=0.05,
        start=Phase.OLD_ONLY,
        percent=0.0,
        weather=dict.fromkeys(SERVERS, quick),
        replica_dangers=Dangers(stall=0.4, stall_s=1.0, die=rng.choice((0.0, 0.003))),
        reconciler_dangers=Dangers(stall=0.2, stall_s=0.2, die=rng.choice((0.0, 0.02))),
        walks=True,
        forward=1.0,
        outages=0,
        cuts=0,
        stops=rng.choice((0, 1)),
        kills=0,
        ack=rng.choice(("both", "primary")),
        ends=rng.choice(("as it is", "rollback")),
    )


def _duel(rng: random.Random) -> Plan:
    """One quick writer against two slow copiers, and a secondary that keeps failing."""
    start = rng.choice((Phase.RAMP, Phase.NEW_PRIMARY))
    poor = Weather(delay_s=0.004, refused=0.4, reset=rng.choice((0.0, 0.15)))
    quick = Weather(delay_s=0.004)
    writes_at = rng.choice((PausePoint.AFTER_INTENT_APPEND, PausePoint.BEFORE_SETTLE))
    pace_s, stall, stall_s = rng.choice(((0.1, 0.8, 0.5), (0.4, 0.5, 0.3)))
    stop = rng.choice((0.0, 0.0, 0.05))
    writer = Dangers(stall=stall, stall_s=stall_s, at=writes_at, stop=stop)
    copies_at = rng.choice((Step.READ, Step.READ, Step.WRITTEN))
    copier = Dangers(stall=0.7, stall_s=0.8, at=copies_at, die=rng.choice((0.0, 0.0, 0.05)))
    return Plan(
        kind="duel",
        replicas=2,
        reconcilers=2,
        clients=1,
        writes_each=rng.randint(16, 24),
        keys=1,
        pace_s=pace_s,
        start=start,
        percent=100.0,
        weather={
            "old": poor if start is Phase.NEW_PRIMARY else quick,
            "new": quick if start is Phase.NEW_PRIMARY else poor,
            "ledger": Weather(delay_s=0.004, lost=rng.choice((0.0, 0.02))),
        },
        replica_dangers=writer,
        reconciler_dangers=copier,
        walks=False,
        forward=0.0,
        outages=0,
        cuts=0,
        stops=0,
        kills=rng.choice((0, 1)),
        ack=rng.choice(("both", "primary")),
        ends="as it is",
    )


def _hot(rng: random.Random) -> Plan:
    """Many writers, few keys, copies under way all the time; the phase stays what it is."""
    start = rng.choice((Phase.DUAL_WRITE, Phase.RAMP, Phase.RAMP, Phase.NEW_PRIMARY))
    return Plan(
        kind="hot",
        replicas=rng.randint(2, 3),
        reconcilers=rng.randint(1, 2),
        clients=rng.randint(3, 4),
        writes_each=rng.randint(8, 14),
        keys=rng.choice((1, 2)),
        pace_s=rng.choice((0.01, 0.05, 0.2)),
        start=start,
        percent=rng.choice((50.0, 100.0)) if start is Phase.RAMP else 100.0,
        weather={name: _weather(rng) for name in SERVERS},
        replica_dangers=_dangers(rng),
        reconciler_dangers=_dangers(rng, often=2.0),
        walks=False,
        forward=0.0,
        outages=0,
        cuts=0,
        stops=rng.choice((0, 0, 1)),
        kills=rng.choice((0, 0, 1)),
        ack=rng.choice(("both", "both", "primary")),
        ends="as it is",
    )


def _walk(rng: random.Random) -> Plan:
    """The operator walks through the phases, and all kinds of things go wrong."""
    phases = (Phase.OLD_ONLY, Phase.DUAL_WRITE, Phase.RAMP, Phase.NEW_PRIMARY)
    start = rng.choices(phases, (1, 2, 4, 5))[0]
    rough = rng.random() < 0.8
    onward = 0.3 if start is Phase.NEW_PRIMARY else rng.choice((0.7, 0.95))
    return Plan(
        kind="walk",
        replicas=rng.randint(2, 4),
        reconcilers=1,
        clients=rng.randint(2, 3),
        writes_each=rng.randint(8, 14),
        keys=rng.choice((2, 3, 6)),
        pace_s=rng.choice((0.2, 0.5)),
        start=start,
        percent=rng.choice((30.0, 100.0, 100.0)) if start is Phase.RAMP else 100.0,
        weather={name: _weather(rng) if rough else CALM for name in SERVERS},
        replica_dangers=_dangers(rng) if rough else SAFE,
        reconciler_dangers=_dangers(rng, often=4.0) if rough else Dangers(stall=0.3),
        walks=True,
        forward=onward,
        outages=rng.choice((0, 0, 1, 2)) if rough else 0,
        cuts=rng.choice((0, 0, 1)) if rough else 0,
        stops=rng.choice((0, 1, 1, 2)) if rough else 0,
        kills=rng.choice((0, 0, 1, 2)) if rough else 0,
        ack=rng.choice(("both", "both", "primary")),
        ends=rng.choice(("as it is", "rollback")),
    )


def _weather(rng: random.Random) -> Weather:
    """Each trouble is absent as often as not, so that runs differ in kind."""

    def chance(most: float) -> float:
        return rng.random() * most if rng.random() < 0.5 else 0.0

    return Weather(
        delay_s=rng.choice((0.002, 0.01, 0.05)),
        slow=chance(0.08),
        refused=chance(0.04),
        unreachable=chance(0.05),
        lost=chance(0.05),
        reset=chance(0.08),
        twice=chance(0.1),
    )


def _dangers(rng: random.Random, *, often: float = 1.0) -> Dangers:
    return Dangers(
        stall=rng.choice((0.0, 0.1, 0.4)),
        stop=rng.choice((0.0, 0.0, 0.004)) * often,
        die=rng.choice((0.0, 0.003, 0.008)) * often,
        stall_s=rng.choice((0.05, 0.2, 1.0)),
    )
