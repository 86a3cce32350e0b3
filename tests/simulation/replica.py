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
from proxy.dual_write.deletes import Deletes
from proxy.dual_write.writer import DualWriter, WriterParts
from proxy.ledger.base import Ledger
from proxy.ledger.group_commit import AppendGroup, SettleQueue
from proxy.model import JsonValue
from proxy.plane import Plane
from proxy.read_path import ReaderParts, ReadPath
from proxy.routing.flags import TrafficFlags
from proxy.routing.member import MemberSettings, Membership
from proxy.server.housekeeping import DirtyCounts, HoldWatch, Housekeeping, settler
from proxy.server.parts import build_drain
from proxy.stores.base import Store
from proxy.stores.breaker import Breaker
from proxy.stores.sides import Side, Sides
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
        self.sides = Sides(
            {
                name: Side(
                    store=store,
                    breaker=Breaker(
                        at.clock,
                        failures_max=settings.breaker_failures,
                        open_s=settings.breaker_open_s,
                    ),
                )
                for name, store in at.stores.items()
            }
        )
        self.settle = SettleQueue(
            at.ledger,
            at.clock,
            delay_s=0.02,
            on_drop=lambda name: self.member.forsake(name),  # noqa: PLW0108 - made below
        )
        self.member = Membership(
            at.ledger,
            at.clock,
            MemberSettings(
                lease_s=LEASE_S,
                hold_max_s=settings.hold_max_s,
                address=at.name,
                ledger_down="refuse",
            ),
            drain=settler(self.settle, at.ledger, lambda: self.member, lambda: self.writer),
            reach=at.points.reach,
        )
        specs = schemas()["old"].collections
        self.writer = DualWriter(
            WriterParts(
                sides=self.sides,
                ledger=at.ledger,
                append=AppendGroup(at.ledger, rows_max=500),
                settle=self.settle,
                member=self.member,
                clock=at.clock,
                specs=specs,
                reach=at.points.reach,
            ),
            settings,
        )
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
                specs=specs,
            ),
            READS,
        )
        self.plane = Plane(
            self.writer, Deletes(self.writer, self.sides, self.member, specs), reader
        )
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
