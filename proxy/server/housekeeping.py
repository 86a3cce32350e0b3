"""What a running proxy does beside the requests: count, sweep, prune, release forgotten holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from proxy.clock import Clock
from proxy.control.switch import release_forgotten_hold
from proxy.dual_write.writer import DualWriter
from proxy.errors import CrossfadeError
from proxy.ledger.base import IntentLog, Ledger
from proxy.ledger.group_commit import SettleQueue
from proxy.routing.member import Membership

log = logging.getLogger(__name__)

_DIRTY_POLL_S = 0.5
_PRUNE_EVERY_S = 10.0
_HOLD_POLL_S = 0.1


class DirtyCounts:
    """How many keys of each collection are dirty, as of half a second ago (rule R2)."""

    def __init__(self, ledger: IntentLog, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._counts: dict[str, int] = {}

    def dirty(self, collection: str) -> int:
        """See `proxy.read_path.DirtyWatch`."""
        return self._counts.get(collection, 0)

    async def run(self) -> None:
        """Look again and again until cancelled; while the ledger is away the last look counts."""
        while True:
            try:
                self._counts = await self._ledger.dirty_counts()
            except CrossfadeError as error:
                log.debug("dirty keys cannot be counted: %s", error)
            await self._clock.sleep(_DIRTY_POLL_S)


async def pay_debt(ledger: Ledger, member: Membership, writer: DualWriter, clock: Clock) -> None:
    """Record that writes went to the primary alone (rule W6), as soon as the ledger is back.

    Their keys become dirty, so that they are fenced and repaired at once. The mark says when: a
    verify that had begun before does not make up for it.

    Raises:
        Unavailable: it is not back yet; the debt stays.
    """
    if not writer.owes_full_verify:
        return
    alone, writer.written_alone = writer.written_alone, set()
    writer.owes_full_verify = False
    try:
        for collection in sorted({name for name, _ in alone}):
            keys = [key for name, key in alone if name == collection]
            await ledger.mark_dirty(collection, keys, reason="written without the ledger")
        await ledger.set_flag(
            "full_verify_needed",
            {"at": clock.now().isoformat(), "replica": member.replica_id},
            actor=member.replica_id,
            reason="writes went to the primary alone while the ledger was down",
        )
    except BaseException:
        writer.owes_full_verify = True
        writer.written_alone |= alone
        raise


def settler(
    settle: SettleQueue,
    ledger: Ledger,
    clock: Clock,
    member: Callable[[], Membership],
    writer: Callable[[], DualWriter],
) -> Callable[[], Awaitable[None]]:
    """Return what an acknowledgement vouches for: all settled, no write without the ledger untold.

    One at a time: whoever finds a debt being paid waits until it is.
    """
    lock = asyncio.Lock()

    async def settle_all() -> None:
        async with lock:
            await settle.flush()
            await pay_debt(ledger, member(), writer(), clock)

    return settle_all


class Housekeeping:
    """Sweeps dead replicas, settles, gives up former identities, and prunes the ledger."""

    def __init__(
        self, ledger: Ledger, member: Membership, clock: Clock, *, sweep_every_s: float
    ) -> None:
        self._ledger = ledger
        self._member = member
        self._clock = clock
        self._sweep_every_s = sweep_every_s

    async def run(self) -> None:
        """Keep house until cancelled; an unreachable ledger is tried again at the next turn."""
        pruned_s = self._clock.monotonic_s()
        while True:
            await self._clock.sleep(self._sweep_every_s)
            try:
                taken = await self._ledger.sweep()
                if taken:
                    log.warning("took over %d intents of dead replicas", taken)
                await self._member.settle()
                await self._member.release_former()
                if self._clock.monotonic_s() - pruned_s >= _PRUNE_EVERY_S:
                    pruned_s = self._clock.monotonic_s()
                    await self._ledger.prune()
            except CrossfadeError as error:
                log.warning("housekeeping waits for the ledger: %s", error)


class HoldWatch:
    """Releases the writes when whoever held them has died.

    Args:
        hold_max_s: longer than any swap holds writes, and less than a held write waits, so that
            none of them fails.
    """

    def __init__(
        self, ledger: Ledger, member: Membership, clock: Clock, *, hold_max_s: float
    ) -> None:
        self._ledger = ledger
        self._member = member
        self._clock = clock
        self._hold_max_s = hold_max_s
        self._held_epoch = 0
        self._held_since_s = 0.0

    async def run(self) -> None:
        """Watch until cancelled; the ledger is asked only once a hold has lasted too long."""
        while True:
            await self._clock.sleep(_HOLD_POLL_S)
            try:
                await self._look()
            except CrossfadeError as error:
                log.warning("a forgotten hold waits for the ledger: %s", error)

    async def _look(self) -> None:
        routing, now_s = self._member.current, self._clock.monotonic_s()
        if not routing.hold:
            self._held_epoch = 0
            return
        if routing.epoch != self._held_epoch:
            self._held_epoch, self._held_since_s = routing.epoch, now_s
        if now_s - self._held_since_s < self._hold_max_s:
            return
        released = await release_forgotten_hold(
            self._ledger,
            self._clock,
            held_since_s=self._held_since_s,
            hold_max_s=self._hold_max_s,
        )
        if released:
            log.error("released the writes: whoever held them has not been heard of")
