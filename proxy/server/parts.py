"""Build the parts of a proxy from a configuration: stores, ledger, both paths, control."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from proxy.clock import Clock
from proxy.config.loader import Config
from proxy.config.settings import Settings
from proxy.control.evidence import flag_number
from proxy.control.preconditions import JudgeSettings
from proxy.control.service import ControlParts, ControlService
from proxy.control.switch import Switch
from proxy.controlplane import Precondition
from proxy.dual_write.writer import DualWriter
from proxy.embedding.base import Embedder
from proxy.errors import Rejected
from proxy.ledger.base import Ledger
from proxy.ledger.group_commit import SettleQueue
from proxy.ledger.types import Routing
from proxy.model import JsonValue
from proxy.plane import Plane
from proxy.read_path import ReaderParts, ReadPath
from proxy.routing.flags import TrafficFlags
from proxy.routing.member import MemberSettings, Membership
from proxy.server.housekeeping import DirtyCounts
from proxy.server.opening import Opening
from proxy.server.reconciling import build_reconciler
from proxy.server.write_path import (
    WritePath,
    WritePathParts,
    WritePathSettings,
    build_write_path,
)
from proxy.stores.base import Store
from proxy.stores.sides import Sides
from proxy.telemetry.instrument import InstrumentedStore
from proxy.telemetry.intents import InstrumentedIntents
from proxy.telemetry.setup import Telemetry
from reconcile.jobs import Reconciler
from reconcile.repair import Repair
from shadow.gate import gate
from shadow.report import build_report
from shadow.shadow_read import ShadowParts, ShadowReader
from shadow.stats import Stats, merge_json

_DRAIN_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A proxy, put together and not yet running."""

    config: Config
    opening: Opening
    stores: Mapping[str, Store]
    ledger: Ledger
    member: Membership
    settle: SettleQueue
    writer: DualWriter
    flags: TrafficFlags
    dirty: DirtyCounts
    shadow: ShadowReader
    plane: Plane
    control: ControlService
    reconciler: Reconciler
    embedder: Embedder | None = None

    async def close(self) -> None:
        """Release every connection; safe to call twice."""
        await asyncio.gather(
            self.flags.close(),
            *(store.close() for store in self.stores.values()),
            self.ledger.close(),
            *([self.embedder.close()] if self.embedder is not None else []),
        )


def build_parts(
    config: Config,
    opening: Opening,
    ledger: Ledger,
    telemetry: Telemetry,
    clock: Clock,
    *,
    embedder: Embedder | None = None,
) -> Parts:
    """Wire a proxy over stores, an open ledger and, if a collection needs one, an embedder."""
    settings = config.settings
    stores = _instrumented(opening, telemetry)
    intents = InstrumentedIntents(ledger, telemetry.tracing, telemetry.metrics)
    under = WritePathParts(
        stores=stores,
        ledger=ledger,
        intents=intents,
        clock=clock,
        specs=config.collections,
        embedder=embedder,
    )
    path = build_write_path(under, _path_settings(settings))

    def routing() -> Routing:
        return path.member.current

    flags = _build_flags(settings, telemetry, routing)
    dirty = DirtyCounts(ledger, clock)
    shadow = _build_shadow(
        settings, stores, ledger, routing=routing, clock=clock, embedder=embedder
    )
    reconciler = build_reconciler(
        stores,
        ledger,
        settings.reconcile,
        clock=clock,
        metrics=telemetry.metrics,
        embedder=embedder,
    )
    reader = ReadPath(
        _reader_parts(under, path, chooser=flags, dirty=dirty, observer=shadow), settings.reads
    )
    return Parts(
        config=config,
        opening=opening,
        stores=stores,
        ledger=ledger,
        member=path.member,
        settle=path.settle,
        writer=path.writer,
        flags=flags,
        dirty=dirty,
        shadow=shadow,
        plane=path.plane(reader),
        control=_build_control(settings, path.sides, ledger, shadow, reconciler),
        reconciler=reconciler,
        embedder=embedder,
    )


def _reader_parts(
    under: WritePathParts,
    path: WritePath,
    *,
    chooser: TrafficFlags,
    dirty: DirtyCounts,
    observer: ShadowReader,
) -> ReaderParts:
    return ReaderParts(
        sides=path.sides,
        ledger=under.intents,
        member=path.member,
        chooser=chooser,
        dirty=dirty,
        clock=under.clock,
        specs=under.specs,
        observers=(observer,),
        embedder=under.embedder,
    )


def _instrumented(opening: Opening, telemetry: Telemetry) -> dict[str, Store]:
    return {
        name: InstrumentedStore(store, telemetry.tracing, telemetry.metrics)
        for name, store in opening.stores.items()
    }


def _build_flags(
    settings: Settings, telemetry: Telemetry, routing: Callable[[], Routing]
) -> TrafficFlags:
    return TrafficFlags(
        settings.flags,
        migration=settings.migration,
        routing=routing,
        on_error=telemetry.metrics.flag_error,
    )


def _build_shadow(
    settings: Settings,
    stores: Mapping[str, Store],
    ledger: Ledger,
    *,
    routing: Callable[[], Routing],
    clock: Clock,
    embedder: Embedder | None,
) -> ShadowReader:
    return ShadowReader(
        ShadowParts(
            stores=stores,
            ledger=ledger,
            routing=routing,
            replica_id=f"shadow-{uuid.uuid4().hex[:12]}",
            clock=clock,
            engines={"old": settings.old.engine, "new": settings.new.engine},
            embedder=embedder,
        ),
        settings.shadow,
    )


def _path_settings(settings: Settings) -> WritePathSettings:
    return WritePathSettings(
        writes=settings.writes,
        member=_member_settings(settings),
        settle_delay_s=settings.ledger.settle_delay_ms / 1000.0,
        append_rows_max=settings.ledger.flush_rows_max,
        embed_deadline_s=settings.embedder.deadline_s,
    )


def _member_settings(settings: Settings) -> MemberSettings:
    return MemberSettings(
        lease_s=settings.ledger.lease_s,
        hold_max_s=settings.writes.hold_max_s,
        address=settings.listen.address,
        ledger_down=settings.writes.ledger_down,
    )


def _build_control(
    settings: Settings, sides: Sides, ledger: Ledger, shadow: ShadowReader, reconciler: Reconciler
) -> ControlService:
    clock = reconciler.clock
    return ControlService(
        ControlParts(
            migration=settings.migration,
            ledger=ledger,
            sides=sides,
            switch=Switch(ledger, clock, settings.switch, drain=build_drain(reconciler)),
            engines={"old": settings.old.engine, "new": settings.new.engine},
            judge=JudgeSettings(
                dirty_reads_max=settings.reads.dirty_keys_max,
                dirty_swap_max=settings.switch.dirty_max,
            ),
            gate=partial(_judge_shadow, ledger, settings, shadow),
            report=partial(_report_shadow, ledger, settings, shadow, clock),
            check_job=reconciler.check,
            clock=clock,
        )
    )


def build_drain(reconciler: Reconciler) -> Callable[[], Awaitable[None]]:
    """Return what the switch calls to repair the last dirty keys while writes are held."""

    async def drain() -> None:
        repair = Repair(reconciler.bench(), job_id=0, check=_never_interrupted)
        try:
            await repair.until_clean((), rounds_max=_DRAIN_ROUNDS)
        except Rejected:
            # The phase writes one store only: there is nothing to drain.
            return

    return drain


def _never_interrupted() -> None:
    """A drain is short; whoever waits for it has the deadline."""


async def _judge_shadow(
    ledger: Ledger, settings: Settings, shadow: ShadowReader
) -> Sequence[Precondition]:
    return gate(await _counted(ledger, shadow), settings.shadow)


async def _report_shadow(
    ledger: Ledger, settings: Settings, shadow: ShadowReader, clock: Clock
) -> Mapping[str, JsonValue]:
    stats = await _counted(ledger, shadow)
    return build_report(
        stats, settings.shadow, migration=settings.migration, generated_at=clock.now()
    )


async def _counted(ledger: Ledger, shadow: ShadowReader) -> Stats:
    """Return the shadow statistics of every replica, what this one holds included.

    Those of before the last change of phase to shadow say nothing about the data of now.
    """
    await shadow.flush()
    since = flag_number(await ledger.flags(), "shadow", "epoch")
    return merge_json(await ledger.shadow(), since_epoch=since)
