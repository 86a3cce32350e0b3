"""The write path of one replica, put together: breakers, settling, membership and the writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.config.settings import WriteSettings
from proxy.dual_write.deletes import Deletes
from proxy.dual_write.writer import DualWriter, WriterParts
from proxy.embedding.base import Embedder
from proxy.ledger.base import IntentLog, Ledger
from proxy.ledger.group_commit import AppendGroup, SettleQueue
from proxy.model import CollectionSpec
from proxy.pausepoints import Reach, pass_by
from proxy.plane import Plane
from proxy.read_path import ReadPath
from proxy.routing.member import MemberSettings, Membership
from proxy.server.housekeeping import settler
from proxy.stores.base import Store
from proxy.stores.breaker import Breaker
from proxy.stores.sides import Side, Sides


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePathParts:
    """What a write path stands on.

    Attributes:
        intents: the ledger as the writes see it (instrumented, or the ledger itself).
        specs: the collections as clients see them.
        reach: called at the pause points.
    """

    stores: Mapping[str, Store]
    ledger: Ledger
    intents: IntentLog
    clock: Clock
    specs: Mapping[str, CollectionSpec]
    embedder: Embedder | None = None
    reach: Reach = pass_by


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePathSettings:
    """How it works: of the writes, of the replica's lease, of groups in the ledger."""

    writes: WriteSettings
    member: MemberSettings
    settle_delay_s: float
    append_rows_max: int = 500
    embed_deadline_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePath:
    """The parts that live as long as the replica."""

    sides: Sides
    settle: SettleQueue
    member: Membership
    writer: DualWriter
    specs: Mapping[str, CollectionSpec]

    def plane(self, reader: ReadPath) -> Plane:
        """Return the data plane over this path and a read path."""
        deletes = Deletes(self.writer, self.sides, self.member, self.specs)
        return Plane(self.writer, deletes, reader)


def build_sides(stores: Mapping[str, Store], settings: WriteSettings, clock: Clock) -> Sides:
    """Give each store its circuit breaker."""
    return Sides(
        {
            name: Side(
                store=store,
                breaker=Breaker(
                    clock,
                    failures_max=settings.breaker_failures,
                    open_s=settings.breaker_open_s,
                ),
            )
            for name, store in stores.items()
        }
    )


def build_write_path(parts: WritePathParts, settings: WritePathSettings) -> WritePath:
    """Wire a replica's writes; nothing runs yet."""
    clock = parts.clock
    sides = build_sides(parts.stores, settings.writes, clock)
    settle = SettleQueue(
        parts.intents,
        clock,
        delay_s=settings.settle_delay_s,
        on_drop=lambda name: member.forsake(name),  # noqa: PLW0108 - made below
    )
    member = Membership(
        parts.ledger,
        clock,
        settings.member,
        drain=settler(settle, parts.ledger, clock, lambda: member, lambda: writer),
        reach=parts.reach,
    )
    writer = DualWriter(
        WriterParts(
            sides=sides,
            ledger=parts.intents,
            append=AppendGroup(parts.intents, rows_max=settings.append_rows_max),
            settle=settle,
            member=member,
            clock=clock,
            specs=parts.specs,
            embedder=parts.embedder,
            embed_deadline_s=settings.embed_deadline_s,
            reach=parts.reach,
        ),
        settings.writes,
    )
    return WritePath(sides=sides, settle=settle, member=member, writer=writer, specs=parts.specs)
