"""One proxy of the simulated migration: wired as `crossfade serve` does, over the network."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.clock import Clock
from proxy.config.settings import (
    FlagSettings,
    ReadSettings,
    ReconcileSettings,
    SwitchSettings,
    WriteSettings,
)
from proxy.control.preconditions import JudgeSettings
from proxy.control.service import ControlParts, ControlService
from proxy.control.switch import Switch
from proxy.controlplane import Precondition
from proxy.ledger.base import Ledger
from proxy.model import JsonValue
from proxy.read_path import ReaderParts, ReadPath
from proxy.routing.flags import TrafficFlags
from proxy.routing.member import MemberSettings
from proxy.server.housekeeping import DirtyCounts, HoldWatch, Housekeeping
from proxy.server.parts import build_drain
from proxy.server.write_path import WritePathParts, WritePathSettings, build_write_path
from proxy.stores.base import Store
from reconcile.jobs import Reconciler, Tools
from reconcile.retry import RetryPolicy
from tests.simulation.history import Chosen, History
from tests.simulation.network import LATE_S
from tests.simulation.points import Points
from tests.simulation.schema import schemas

LEASE_S = 6.0
WRITES = WriteSettings(
    primary_deadline_s=2.0,
    secondary_deadline_s=1.0,
    late_write_s=LATE_S,
    hold_max_s=4.0,
    breaker_failures=4,
    breaker_open_s=1.0,
)
READS = ReadSettings(deadline_s=2.0, lease_grace_s=0.0, dirty_keys_max=4)
RECONCILE = ReconcileSettings(batch_rows=2, range_rows=6, workers=2, lease_s=3.0, deadline_s=2.0)
SWITCH = SwitchSettings(drain_timeout_s=2.0, ack_timeout_s=8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a process is given: its view of stores and ledger, time, and its pause points."""

    name: str
    stores: Mapping[str, Store]
    ledger: Ledger
    clock: Clock
    rng: random.Random
    points: Points
    history: History


class Replica:
    """One proxy process; it dies with `SimLoop.kill`."""

    def __init__(self, at: Surroundings, *, ack: str = "both") -> None:
        self.name = at.name
        self._at = at
        settings = WRITES.model_copy(update={"ack": ack})
        path = build_write_path(
            WritePathParts(
                stores=at.stores,
                ledger=at.ledger,
                intents=at.ledger,
                clock=at.clock,
                specs=schemas()["old"].collections,
                reach=at.points.reach,
            ),
            WritePathSettings(
                writes=settings,
                member=MemberSettings(
                    lease_s=LEASE_S,
                    hold_max_s=settings.hold_max_s,
                    address=at.name,
                    ledger_down="refuse",
                ),
                settle_delay_s=0.02,
            ),
        )
        self.sides, self.settle = path.sides, path.settle
        self.member, self.writer = path.member, path.writer
        self.flags = TrafficFlags(
            FlagSettings(), migration="simulated", routing=lambda: self.member.current
        )
        self.dirty = DirtyCounts(at.ledger, at.clock)
        reader = ReadPath(
            ReaderParts(
                sides=self.sides,
                ledger=at.ledger,
                member=self.member,
                chooser=self,
                dirty=self.dirty,
                clock=at.clock,
                specs=path.specs,
            ),
            READS,
        )
        self.plane = path.plane(reader)
        self.reconciler = reconciler(at, f"{at.name}-drain")
        self.control = self._control()

    def read_new(self, targeting_key: str, attributes: Mapping[str, str]) -> bool:
        """Ask the traffic flag, and keep what it said for the checker of routing."""
        new = self.flags.read_new(targeting_key, attributes)
        percent = self.member.current.percent
        chosen = Chosen(targeting_key=targeting_key, percent=percent, new=new, replica=self.name)
        self._at.history.choices.append(chosen)
        return new

    def _control(self) -> ControlService:
        at = self._at
        return ControlService(
            ControlParts(
                migration="simulated",
                ledger=at.ledger,
                sides=self.sides,
                switch=Switch(
                    at.ledger,
                    at.clock,
                    SWITCH,
                    drain=build_drain(self.reconciler),
                    reach=at.points.reach,
                ),
                engines={"old": "memory", "new": "memory"},
                judge=JudgeSettings(dirty_reads_max=READS.dirty_keys_max, dirty_swap_max=0),
                gate=_open_gate,
                report=_no_report,
            )
        )

    async def run(self, spawn: Callable[[str, Coroutine[Any, Any, None], str], object]) -> None:
        """Join the migration, then do what a proxy does beside its requests."""
        await self.member.start()
        at = self._at
        house = Housekeeping(at.ledger, self.member, at.clock, sweep_every_s=LEASE_S / 4)
        holds = HoldWatch(
            at.ledger,
            self.member,
            at.clock,
            hold_max_s=(SWITCH.drain_timeout_s + WRITES.hold_max_s) / 2,
        )
        for work in (self.member, self.settle, self.dirty, house, holds):
            spawn(self.name, work.run(), f"{self.name} {type(work).__name__}")


async def _open_gate() -> Sequence[Precondition]:
    return ()


async def _no_report() -> Mapping[str, JsonValue]:
    return {}


def reconciler(at: Surroundings, owner: str) -> Reconciler:
    """Return a reconciler as a process of its own has it, or a replica for its drain."""
    tools = Tools(
        clock=at.clock,
        rng=at.rng,
        retry=RetryPolicy(attempts_max=6, cap_s=1.0),
        reach=at.points.reach,
    )
    return Reconciler(at.stores, at.ledger, RECONCILE, owner=owner, tools=tools)
