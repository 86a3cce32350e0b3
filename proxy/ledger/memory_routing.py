"""Routing, epochs, replica leases, flags, events and shadow statistics in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from proxy.errors import LeaseLost, Reason, Rejected, StaleEpoch
from proxy.ledger.memory_state import MemoryState, StoredReplica
from proxy.ledger.types import Event, EventDraft, Replica, Routing, unverified
from proxy.model import JsonValue


class MemoryRouting:
    """`RoutingLog` over a MemoryState."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def routing(self) -> Routing:
        """See `RoutingLog.routing`."""
        return self._state.routing

    async def change_routing(
        self,
        expected_epoch: int,
        routing: Routing,
        event: EventDraft,
        *,
        drained: bool = False,
        note: str = "",
    ) -> Routing:
        """See `RoutingLog.change_routing`."""
        state = self._state
        if drained:
            self._require_drained()
        if state.routing.epoch != expected_epoch:
            raise StaleEpoch(
                f"The routing is not at epoch {expected_epoch} any more: somebody changed it.",
                where="ledger",
                hint="Look at `crossfade status` and try again.",
            )
        state.commit()
        state.routing = replace(routing, epoch=expected_epoch + 1)
        if note:
            state.flags[note] = {"epoch": state.routing.epoch}
        await self.log_event(event)
        state.changed.set()
        state.changed = asyncio.Event()
        return state.routing

    def _require_drained(self) -> None:
        state = self._state
        now_s = state.clock.monotonic_s()
        unsettled = sum(item.settled_xid is None for item in state.intents.values())
        copies = sum(item.copying and item.expires_s > now_s for item in state.snapshots.values())
        if state.flags.get("full_verify_needed"):
            raise unverified()
        if unsettled or state.dirty or copies:
            raise Rejected(
                f"Not drained: {unsettled} unsettled intents, {len(state.dirty)} dirty keys,"
                f" {copies} open copies.",
                reason=Reason.FAILED_PRECONDITION,
                hint="Run `crossfade repair` and try again; a copy that a killed reconciler left"
                " open is forgotten within a minute.",
            )

    async def register_replica(
        self, replica_id: str, *, address: str, lease_s: float, ledger_down: str
    ) -> Routing:
        """See `RoutingLog.register_replica`."""
        self._state.replicas[replica_id] = StoredReplica(
            replica_id=replica_id,
            address=address,
            ledger_down=ledger_down,
            started_at=self._state.clock.now(),
            lease_until_s=self._state.clock.monotonic_s() + lease_s,
        )
        return self._state.routing

    async def renew_replica(self, replica_id: str, *, acked_epoch: int, lease_s: float) -> Routing:
        """See `RoutingLog.renew_replica`."""
        replica = self._state.replicas.get(replica_id)
        if replica is None or not self._state.alive(replica):
            raise LeaseLost("This replica was taken for dead; its intents were taken over.")
        replica.acked_epoch = acked_epoch
        replica.lease_until_s = self._state.clock.monotonic_s() + lease_s
        return self._state.routing

    async def release_replica(self, replica_id: str) -> None:
        """See `RoutingLog.release_replica`."""
        replica = self._state.replicas.get(replica_id)
        if replica is not None:
            replica.clean_exit = True
            now_s = self._state.clock.monotonic_s()
            replica.lease_until_s = min(replica.lease_until_s, now_s)

    async def replicas(self) -> list[Replica]:
        """See `RoutingLog.replicas`."""
        now_s = self._state.clock.monotonic_s()
        return [
            Replica(
                replica_id=item.replica_id,
                acked_epoch=item.acked_epoch,
                alive=self._state.alive(item),
                lease_left_s=item.lease_until_s - now_s,
                started_at=item.started_at,
                address=item.address,
                ledger_down=item.ledger_down,
                clean_exit=item.clean_exit,
            )
            for item in self._state.replicas.values()
        ]

    async def wait_change(self, epoch: int, *, timeout_s: float) -> None:
        """See `RoutingLog.wait_change`."""
        changed = self._state.changed
        if self._state.routing.epoch != epoch:
            return
        waiter = asyncio.ensure_future(changed.wait())
        timer = asyncio.ensure_future(self._state.clock.sleep(timeout_s))
        try:
            await asyncio.wait((waiter, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            timer.cancel()
            await asyncio.gather(waiter, timer, return_exceptions=True)

    async def set_flag(
        self,
        name: str,
        value: JsonValue,
        *,
        actor: str,
        reason: str,
        only_if: JsonValue = None,
    ) -> None:
        """See `RoutingLog.set_flag`."""
        if only_if is not None and self._state.flags.get(name) != only_if:
            return
        self._state.flags[name] = value
        await self.log_event(
            EventDraft(kind=f"flag.{name}", actor=actor, reason=reason, detail={name: value})
        )

    async def flags(self) -> dict[str, JsonValue]:
        """See `RoutingLog.flags`."""
        return dict(self._state.flags)

    async def log_event(self, event: EventDraft) -> None:
        """See `RoutingLog.log_event`."""
        self._state.events.append(
            Event(
                event_id=self._state.number(),
                at=self._state.clock.now(),
                kind=event.kind,
                actor=event.actor,
                reason=event.reason,
                epoch=self._state.routing.epoch,
                detail=dict(event.detail),
            )
        )

    async def events(self, *, limit: int = 100, after: int = 0) -> list[Event]:
        """See `RoutingLog.events`."""
        return [event for event in self._state.events if event.event_id > after][:limit]

    async def put_shadow(
        self, replica_id: str, window: str, stats: Mapping[str, JsonValue]
    ) -> None:
        """See `RoutingLog.put_shadow`."""
        self._state.shadow[window, replica_id] = (self._state.routing.epoch, dict(stats))

    async def shadow(self, *, since_epoch: int = 0) -> list[Mapping[str, JsonValue]]:
        """See `RoutingLog.shadow`."""
        return [
            stats
            for _, (epoch, stats) in sorted(self._state.shadow.items())
            if epoch >= since_epoch
        ]
