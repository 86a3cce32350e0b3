"""This replica's membership: its lease, the routing it follows, and the writes it has admitted."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.errors import Corrupt, LeaseLost, Unavailable
from proxy.ledger.base import RoutingLog
from proxy.ledger.types import Routing
from proxy.pausepoints import PausePoint, Reach, pass_by

log = logging.getLogger(__name__)

_COMPLAIN_EVERY_S = 10.0
"""Of a ledger that stays away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSettings:
    """How a replica keeps its lease.

    Attributes:
        lease_s: how long the ledger believes in it without news.
        hold_max_s: how long a write waits for a swap before it is refused.
    """

    lease_s: float
    hold_max_s: float
    address: str
    ledger_down: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A write's admission: the routing and the replica identity it runs under."""

    routing: Routing
    replica_id: str


class Membership:
    """Follows the routing in force.

    An epoch is acknowledged only when every write admitted under an earlier one has ended, so
    "all replicas acknowledged" means that nothing of the past is still on its way (rule B0).

    Args:
        drain: called before an acknowledgement, to settle what has ended and to tell what was
            written without the ledger.
        reach: called at the pause point of an acknowledgement.
    """

    def __init__(
        self,
        ledger: RoutingLog,
        clock: Clock,
        settings: MemberSettings,
        *,
        drain: Callable[[], Awaitable[None]],
        reach: Reach = pass_by,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._drain = drain
        self._reach = reach
        self._admitted: dict[int, int] = {}
        self._in_flight: dict[str, int] = {}
        self._former: set[str] = set()
        self._forsaken = False
        self._changed = asyncio.Condition()
        self._lease_until_s = 0.0
        self._acked_epoch = 0
        self._refresh_lock = asyncio.Lock()
        self._lingering: set[asyncio.Task[None]] = set()
        self._acknowledging: set[asyncio.Task[None]] = set()
        self.replica_id = ""
        self.routing: Routing | None = None
        self.reachable = False
        self._complain_s = 0.0
        self._left = False

    async def start(self) -> None:
        """Register, so that `routing` is known. Raises Unavailable, Corrupt."""
        await self._register()
        await self._acknowledge()

    async def _register(self) -> None:
        replica_id = f"{self._settings.address or 'replica'}-{uuid.uuid4().hex[:12]}"
        began_s = self._clock.monotonic_s()
        routing = await self._ledger.register_replica(
            replica_id,
            address=self._settings.address,
            lease_s=self._settings.lease_s,
            ledger_down=self._settings.ledger_down,
        )
        if self.replica_id:
            self._former.add(self.replica_id)
        self.replica_id = replica_id
        self._forsaken = False
        self._acked_epoch = 0
        self._lease_until_s = began_s + self._settings.lease_s
        await self._follow(routing)

    @property
    def current(self) -> Routing:
        """The routing as last seen.

        Raises:
            Unavailable: `start` has not finished.
        """
        if self.routing is None:
            raise Unavailable("The proxy has not joined its migration yet.", where="ledger")
        return self.routing

    def lease_left_s(self) -> float:
        """Seconds of the lease that are left; the ledger's own clock gives no less."""
        return self._lease_until_s - self._clock.monotonic_s()

    async def run(self) -> None:
        """Renew the lease and follow the routing until cancelled."""
        beat_s = self._settings.lease_s / 4
        while True:
            try:
                await self._ledger.wait_change(self.current.epoch, timeout_s=beat_s)
                await self.refresh()
                await self._acknowledge()
            except (Unavailable, Corrupt) as error:
                self._complain(error)
                await self._clock.sleep(min(beat_s, 0.25))

    def _complain(self, error: Exception) -> None:
        now_s = self._clock.monotonic_s()
        if self.reachable or now_s >= self._complain_s:
            log.warning("the ledger is out of reach: %s", error)
            self._complain_s = now_s + _COMPLAIN_EVERY_S
        self.reachable = False

    async def refresh(self) -> Routing:
        """Renew the lease and take the routing in force. Raises Unavailable, Corrupt."""
        async with self._refresh_lock:
            if self._forsaken:
                await self._register()
                return self.current
            began_s = self._clock.monotonic_s()
            try:
                routing = await self._ledger.renew_replica(
                    self.replica_id, acked_epoch=self._acked_epoch, lease_s=self._settings.lease_s
                )
            except LeaseLost:
                log.error("the lease was lost; registering as a new replica")
                await self._register()
            else:
                self._lease_until_s = began_s + self._settings.lease_s
                await self._follow(routing)
            return self.current

    def forsake(self, replica_id: str) -> None:
        """Go on under a new identity: the ledger may hold intents of this one that nobody knows.

        An append whose answer was lost may have been applied. Its intents can only be taken over,
        and that happens once this identity is given up.
        """
        if replica_id == self.replica_id:
            self._forsaken = True

    async def settle(self) -> None:
        """Settle what has ended, and tell what the ledger does not know. Raises Unavailable."""
        await self._drain()

    async def release_former(self) -> None:
        """Give up former identities of which nothing is in flight any more. Raises Unavailable."""
        ended = [name for name in self._former if name not in self._in_flight]
        if ended:
            await self._drain()
        for name in ended:
            await self._ledger.release_replica(name)
            self._former.discard(name)

    async def _follow(self, routing: Routing) -> None:
        self.reachable = True
        if self.routing is not None and routing.epoch == self.routing.epoch:
            return
        async with self._changed:
            self.routing = routing
            self._changed.notify_all()
        self._wake_acknowledger()  # whoever refreshed: `run` may have seen this epoch as old
        log.info(
            "following epoch %d: phase %s, primary %s, %g %%%s",
            routing.epoch,
            routing.phase.value,
            routing.primary,
            routing.percent,
            ", writes held" if routing.hold else "",
        )

    async def _acknowledge(self) -> None:
        """Acknowledge the epoch once everything admitted before it has ended."""
        epoch = self.current.epoch
        if self._acked_epoch >= epoch or self._older_than(epoch):
            return
        await self._drain()
        await self._reach(PausePoint.BEFORE_ACKNOWLEDGE)
        if self._acked_epoch < epoch and not self._older_than(epoch):
            self._acked_epoch = epoch
            await self.refresh()

    def _older_than(self, epoch: int) -> bool:
        return any(admitted < epoch for admitted in self._admitted)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[Ticket]:
        """Admit one write under the routing in force; waits while writes are held (bounded).

        Raises:
            Unavailable: held for longer than `hold_max_s`.
        """
        if self.current.hold:
            await self._wait_for_release()
        ticket = Ticket(routing=self.current, replica_id=self.replica_id)
        self._enter(ticket)
        try:
            yield ticket
        finally:
            self._leave(ticket)

    def linger(self, ticket: Ticket, delay_s: float) -> None:
        """Count a write as admitted for a while longer: it was given up, but may still land."""
        self._enter(ticket)
        task = asyncio.create_task(self._linger(ticket, delay_s), name="linger")
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    async def _linger(self, ticket: Ticket, delay_s: float) -> None:
        try:
            await self._clock.sleep(delay_s)
        finally:
            self._leave(ticket)

    def _enter(self, ticket: Ticket) -> None:
        epoch, name = ticket.routing.epoch, ticket.replica_id
        self._admitted[epoch] = self._admitted.get(epoch, 0) + 1
        self._in_flight[name] = self._in_flight.get(name, 0) + 1

    def _leave(self, ticket: Ticket) -> None:
        epoch, name = ticket.routing.epoch, ticket.replica_id
        self._in_flight[name] -= 1
        if not self._in_flight[name]:
            del self._in_flight[name]
        self._admitted[epoch] -= 1
        if not self._admitted[epoch]:
            del self._admitted[epoch]
            if epoch < self.current.epoch:
                self._wake_acknowledger()

    async def _wait_for_release(self) -> None:
        try:
            async with asyncio.timeout(self._settings.hold_max_s), self._changed:
                await self._changed.wait_for(lambda: not self.current.hold)
        except TimeoutError as error:
            raise Unavailable(
                f"Writes have been held for {self._settings.hold_max_s:g} s by a swap of the"
                " primary.",
                where="proxy",
                hint="Retry; the swap ends or gives up by itself.",
            ) from error

    def _wake_acknowledger(self) -> None:
        if self._left or self._older_than(self.current.epoch):
            return  # of older ones the last wakes it
        task = asyncio.create_task(self._acknowledge_soon(), name="acknowledge")
        self._acknowledging.add(task)
        task.add_done_callback(self._acknowledging.discard)

    async def _acknowledge_soon(self) -> None:
        try:
            await self._acknowledge()
        except (Unavailable, Corrupt) as error:
            log.warning("the acknowledgement waits for the ledger: %s", error)

    async def stop(self) -> None:
        """Say that nothing of this replica is in flight any more. Raises Unavailable."""
        self._left = True
        await self._stop_acknowledging()
        await self._drain()
        for name in (*self._former, self.replica_id):
            await self._ledger.release_replica(name)

    async def _stop_acknowledging(self) -> None:
        """End what would take the lost lease of a replica that has left for a reason to join."""
        tasks = [*self._acknowledging]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
