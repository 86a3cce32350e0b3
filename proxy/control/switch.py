"""Put a new routing in force: an ordinary step, or the swap of the primary, no write failing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from proxy.clock import Clock
from proxy.config.settings import SwitchSettings
from proxy.errors import CrossfadeError, Reason, Rejected, StaleEpoch, Unavailable
from proxy.ledger.base import Ledger
from proxy.ledger.types import EventDraft, Routing, unverified
from proxy.model import DefaultKind, JsonValue
from proxy.pausepoints import PausePoint, Reach, pass_by
from proxy.routing.replicas import behind
from proxy.stores.base import Store

log = logging.getLogger(__name__)

_POLL_S = 0.004
_ASK_AGAIN_S = 0.05
_REST_S_MAX = 10.0
"""So long a swap waits for the upkeep of a store before it holds the writes."""
_WAIT_SHARE = 0.75
"""Of the time that writes may be held, the replicas have this much to stop writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who asks for a change, and why; it ends up in the event log.

    `note` names a flag that remembers the epoch of the change, if it begins a period: a backfill
    or a verify of before does not count.
    """

    actor: str
    reason: str
    detail: dict[str, JsonValue]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """What came of it. `late` are replicas that had not acknowledged in time."""

    applied: bool
    routing: Routing
    message: str
    stall_ms: float = 0.0


class Switch:
    """Changes the routing through the ledger and waits for the replicas.

    Args:
        drain: repairs what is dirty, now; handed in, because the copy rule lives elsewhere.
        reach: called at the pause points of a step and of a swap.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        settings: SwitchSettings,
        *,
        drain: Callable[[], Awaitable[None]],
        reach: Reach = pass_by,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._drain = drain
        self._reach = reach

    async def step(self, routing: Routing, target: Routing, order: Order) -> Switched:
        """Put `target` in force and wait until each live replica has acknowledged it."""
        changed = await self._change(routing, target, "phase", order)
        await self._reach(PausePoint.AFTER_STEP)
        late = await self._wait_acknowledged(changed.epoch, self._settings.ack_timeout_s)
        message = f"Epoch {changed.epoch} is in force: phase {changed.phase.value}."
        if late:
            message += f" Not yet acknowledged by {', '.join(late)}."
        return Switched(applied=True, routing=changed, message=message)

    async def swap(
        self, routing: Routing, target: Routing, order: Order, *, allocator: Store, source: Store
    ) -> Switched:
        """Swap the roles: hold new writes, drain to zero, swap, release.

        Args:
            allocator: the store that will be primary and hand out numbers from its sequences.
            source: the store that has done so until now.
        """
        await self._drain_first()
        await allocator.align_sequences()
        await _carry_sequences(source, allocator)
        await self._rest(allocator, source)
        await self._reach(PausePoint.BEFORE_HOLD)
        began_s = self._clock.monotonic_s()
        held = await self._hold(routing, order)
        try:
            await self._reach(PausePoint.AFTER_HOLD)
            changed = await self._swap_held(held, target, order, allocator, source)
        except CrossfadeError as error:
            changed = await self._release(held, routing, order, error)
            if not _in_force(changed, held, target):
                return Switched(
                    applied=False,
                    routing=changed,
                    message=f"Not swapped, everything is as it was: {error}",
                    stall_ms=self._since_ms(began_s),
                )
        except BaseException as error:
            await self._release(held, routing, order, error)
            raise
        stall_ms = self._since_ms(began_s)
        await self._reach(PausePoint.AFTER_SWAP)
        await self._wait_acknowledged(changed.epoch, self._settings.ack_timeout_s)
        message = f"The {changed.primary} store is primary since epoch {changed.epoch}."
        return Switched(applied=True, routing=changed, message=message, stall_ms=stall_ms)

    async def _hold(self, routing: Routing, order: Order) -> Routing:
        """Hold new writes; a hold whose answer is lost counts, so that it is released too."""
        try:
            return await self._change(routing, replace(routing, hold=True), "hold", order)
        except Unavailable as error:
            found = await self._insist(self._ledger.routing, error)
            if found != replace(routing, epoch=routing.epoch + 1, hold=True):
                raise
            return found

    async def _rest(self, *stores: Store) -> None:
        """Let no upkeep of a store keep writes waiting while they are held; try, and go on."""
        for_s = self._settings.drain_timeout_s
        resting = (store.rest(for_s=for_s, deadline_s=_REST_S_MAX) for store in stores)
        for ended in await asyncio.gather(*resting, return_exceptions=True):
            if isinstance(ended, CrossfadeError):
                log.warning("the swap may hold writes for longer: %s", ended)
            elif ended is not None:
                raise ended

    async def _drain_first(self) -> None:
        """Repair what is dirty before writes are held. Raises Rejected if that cannot be."""
        if (await self._ledger.flags()).get("full_verify_needed"):
            raise unverified()
        try:
            await self._drain()
        except Unavailable as error:
            dirty = sum((await self._ledger.dirty_counts()).values())
            raise Rejected(
                f"{dirty} dirty keys cannot be repaired: {error.message}",
                reason=Reason.FAILED_PRECONDITION,
                hint="Bring the store back first. Not even --force swaps over dirty keys: their"
                " newest state is on the primary alone, and under the new roles a repair would"
                " overwrite it.",
            ) from error

    async def _swap_held(
        self, held: Routing, target: Routing, order: Order, allocator: Store, source: Store
    ) -> Routing:
        limit_s = self._settings.drain_timeout_s
        deadline_s = self._clock.monotonic_s() + limit_s
        try:
            async with asyncio.timeout(limit_s):
                await self._stop_writing(held, limit_s * _WAIT_SHARE)
                await _carry_sequences(source, allocator)
        except TimeoutError as error:
            raise Rejected(f"Ledger and stores did not answer within {limit_s:g} s.") from error
        await self._reach(PausePoint.BEFORE_SWAP)
        while True:
            try:
                # Never under a timeout: it would not be known whether it is in force.
                return await self._change(held, target, "swap", order, drained=True)
            except StaleEpoch:
                raise
            except Rejected:
                if not await self._drain_until(deadline_s):
                    raise

    async def _stop_writing(self, held: Routing, limit_s: float) -> None:
        late = await self._wait_acknowledged(held.epoch, limit_s)
        if late:
            raise Rejected(f"{', '.join(late)} did not stop writing in time.")
        await self._ledger.sweep()

    async def _drain_until(self, deadline_s: float) -> bool:
        """Repair while writes are held. False if the time is over."""
        try:
            async with asyncio.timeout(deadline_s - self._clock.monotonic_s()):
                await self._drain()
                await self._clock.sleep(_POLL_S)
        except TimeoutError:
            return False
        return True

    async def _release(
        self, held: Routing, before: Routing, order: Order, error: BaseException
    ) -> Routing:
        """Let writes go on under the roles they had. Somebody else may have done so already.

        The answer to the hold or to the swap may have been lost: the routing that is returned
        tells what came of it.
        """

        await self._reach(PausePoint.BEFORE_RELEASE)

        async def release() -> Routing:
            return await self._try_release(held, before, order, error)

        return await self._insist(release, error)

    async def _insist(self, ask: Callable[[], Awaitable[Routing]], error: BaseException) -> Routing:
        """Ask the ledger until it answers, for as long as a drain may take."""
        deadline_s = self._clock.monotonic_s() + self._settings.drain_timeout_s
        while True:
            try:
                return await ask()
            except Unavailable as unavailable:
                if self._clock.monotonic_s() >= deadline_s:
                    raise Unavailable(
                        f"What came of the swap is not known: {unavailable.message}",
                        where="ledger",
                        hint="Look at `crossfade status`; a hold that was left behind is released"
                        " by any replica after writes.hold_max_s.",
                    ) from error
                await self._clock.sleep(_ASK_AGAIN_S)

    async def _try_release(
        self, held: Routing, before: Routing, order: Order, error: BaseException
    ) -> Routing:
        detail: dict[str, JsonValue] = {**order.detail, "error": str(error)}
        try:
            return await self._ledger.change_routing(
                held.epoch,
                replace(before, hold=False),
                EventDraft(
                    kind="release", actor=order.actor, reason="the swap was given up", detail=detail
                ),
            )
        except StaleEpoch:
            return await self._ledger.routing()

    async def _change(
        self, routing: Routing, target: Routing, kind: str, order: Order, *, drained: bool = False
    ) -> Routing:
        return await self._ledger.change_routing(
            routing.epoch,
            target,
            EventDraft(kind=kind, actor=order.actor, reason=order.reason, detail=order.detail),
            drained=drained,
            note="" if kind == "hold" else order.note,
        )

    async def _wait_acknowledged(self, epoch: int, timeout_s: float) -> list[str]:
        """Wait for every live replica; return the ids of those that are late."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            late = behind(await self._ledger.replicas(), epoch)
            if not late or self._clock.monotonic_s() >= deadline_s:
                return [item.replica_id for item in late]
            await self._clock.sleep(_POLL_S)

    def _since_ms(self, began_s: float) -> float:
        return (self._clock.monotonic_s() - began_s) * 1000.0


def _in_force(routing: Routing, held: Routing, target: Routing) -> bool:
    """True if the swap was made although its answer was lost."""
    return routing.epoch > held.epoch and (routing.phase, routing.primary) == (
        target.phase,
        target.primary,
    )


async def _carry_sequences(source: Store, allocator: Store) -> None:
    """Let the new primary's sequences go on past the old one's; nothing is written meanwhile.

    A store that is left because it does not answer cannot be asked. As no key is dirty at a swap,
    the rows of the new primary are all there are, and its sequences go on past those.
    """
    floors: dict[tuple[str, str], int] = {}
    try:
        for name, spec in source.schema.collections.items():
            for item in spec.fields:
                if item.default is DefaultKind.SEQUENCE:
                    floors[name, item.name] = max(await source.next_ids(name, item.name, 1))
    except Unavailable as error:
        log.warning("the old primary's sequences are unknown, its rows must do: %s", error)
        await allocator.align_sequences()
        return
    if floors:
        await allocator.align_sequences(floors)


async def release_forgotten_hold(
    ledger: Ledger, clock: Clock, *, held_since_s: float, hold_max_s: float
) -> bool:
    """Release a hold whose keeper died: after `hold_max_s` anybody may. True if it was released.

    A keeper that comes back late finds its epoch gone and gives up.
    """
    routing = await ledger.routing()
    if not routing.hold or clock.monotonic_s() - held_since_s < hold_max_s:
        return False
    try:
        await ledger.change_routing(
            routing.epoch,
            replace(routing, hold=False),
            EventDraft(
                kind="release",
                actor="watchdog",
                reason="whoever held the writes has not been heard of",
            ),
        )
    except StaleEpoch:
        return False
    return True
