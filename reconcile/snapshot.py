"""An open copy: steps 1 and 5 of the copy rule, the roles guard, and what happens on failure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

from proxy.config.settings import LATE_WRITE_S
from proxy.errors import CrossfadeError, Unavailable
from proxy.ledger.types import CopyOutcome, CopySnapshot, RangeState
from proxy.model import Key
from reconcile.late import LateWrites
from reconcile.roles import CopyLedger, Held, Roles
from reconcile.tasks import to_the_end

COPY_S_MAX = 45.0
"""A snapshot is good for 60 s and a swap waits for it no longer; every write ends well before."""

REPAIR_S_MAX = 20.0
"""A claim on keys is good for 25 s; what was sent before this has landed by then, or never."""

GIVE_UP_S_MAX = 10.0
"""How long a failing copy may take to mark what it wrote."""

UNTOLD_MAX = 64
"""Copies that were given up and that the ledger has not been told of."""


class Step(Enum):
    """The points of a copy at which a test can stop it; the numbers are the design's."""

    BEGUN = "1 snapshot taken"
    READ = "3 primary read"
    WRITTEN = "4 secondary written"
    FINISHED = "5 finished"


Reach = Callable[[Step], Awaitable[None]]


async def pass_by(step: Step) -> None:
    """Do nothing at a step."""


class TooSlow(Unavailable):
    """A batch took longer than a snapshot may be used; a smaller one may do."""


class OpenCopy:
    """A copy between steps 1 and 5.

    Attributes:
        in_flight: keys that must be left out (step 2), late writes of this process included.
        claimed: keys that only this copy may write now.
        written: the keys that step 4 has begun to write.
        answered: the secondary has answered for all of them.
    """

    def __init__(
        self,
        ledger: CopyLedger,
        roles: Roles,
        snapshot: CopySnapshot,
        late: LateWrites,
        *,
        began_s: float,
    ) -> None:
        self.snapshot = snapshot
        self.in_flight = snapshot.in_flight | late.keys(snapshot.collection)
        self.claimed = snapshot.claimed - self.in_flight
        self.written: set[Key] = set()
        self.answered = False
        self._given_up = False
        self._ledger = ledger
        self._roles = roles
        self._late = late
        self._began_s = began_s

    async def require_roles(self, *, under_hold: bool) -> None:
        """Raise RolesChanged, or Held unless this copy may run while writes are held."""
        routing = await self._ledger.routing()
        self._roles.require(routing)
        if routing.hold and not under_hold:
            raise Held("Writes are held for a swap of the primary.")

    def require_claims(self) -> None:
        """Raise TooSlow if the claims may have run out: this process was stopped meanwhile."""
        if self._late.now_s() - self._began_s > REPAIR_S_MAX:
            raise _too_slow(self.snapshot.collection, REPAIR_S_MAX)

    async def finish(
        self,
        *,
        touched: Collection[Key],
        left_out: Collection[Key] = (),
        progress: RangeState | None = None,
    ) -> CopyOutcome:
        """Step 5."""
        return await self._ledger.finish_copy(
            self.snapshot, touched=touched, left_out=left_out, progress=progress
        )

    async def give_up(self) -> bool:
        """Mark what may have been written, then forget the snapshot.

        The range is still open or the keys still dirty, durably, so a ledger that does not answer
        here loses nothing; but until it is told, or the claims have run out, nobody else copies
        these keys.

        Returns:
            True if the ledger was told.
        """
        if not self.answered and not self._given_up:
            self._late.add(self.snapshot.collection, self.written)
        self._given_up = True
        late_s = 0.0 if self.answered else LATE_WRITE_S
        try:
            await self._ledger.abandon_copy(self.snapshot, written=self.written, late_s=late_s)
        except CrossfadeError:
            return False
        return True


async def _begin(ledger: CopyLedger, collection: str, keys: Collection[Key]) -> CopySnapshot:
    """Take a snapshot; if the caller is cancelled meanwhile it is forgotten, not left behind."""
    beginning = asyncio.ensure_future(
        ledger.begin_copy(collection, keys=keys) if keys else ledger.begin_copy(collection)
    )
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        await to_the_end(_forget(ledger, beginning), deadline_s=GIVE_UP_S_MAX)
        raise


async def _forget(ledger: CopyLedger, beginning: asyncio.Future[CopySnapshot]) -> None:
    try:
        await ledger.abandon_copy(await beginning)
    except CrossfadeError:
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDesk:
    """Where copies are opened: the ledger, and what this process has sent and not heard of.

    Attributes:
        untold: copies that were given up while the ledger did not answer; it is told before the
            next copy. One that is dropped here only has its keys wait for the end of its claims.
    """

    ledger: CopyLedger
    late: LateWrites
    untold: deque[OpenCopy] = field(default_factory=lambda: deque(maxlen=UNTOLD_MAX))

    @asynccontextmanager
    async def open(
        self, roles: Roles, collection: str, *, under_hold: bool, keys: Collection[Key] = ()
    ) -> AsyncIterator[OpenCopy]:
        """Take a snapshot, check the roles under it, and give up cleanly on any failure.

        `keys` are claimed: nobody else copies them until this copy has ended.

        With a copying snapshot open the primary cannot be swapped, so the roles that are checked
        here hold until the copy ends.

        Raises:
            RolesChanged: the roles are not those the copier was made for.
            Held: writes are held and `under_hold` is False.
            TooSlow: the copy took longer than a snapshot may be used.
        """
        limit_s = REPAIR_S_MAX if keys else COPY_S_MAX
        await self._tell()
        began_s = self.late.now_s()
        snapshot = await _begin(self.ledger, collection, keys)
        copy = OpenCopy(self.ledger, roles, snapshot, self.late, began_s=began_s)
        try:
            async with asyncio.timeout(limit_s) as limit:
                await copy.require_roles(under_hold=under_hold)
                yield copy
        except BaseException as error:
            self.untold.append(copy)
            await to_the_end(self._tell(), deadline_s=GIVE_UP_S_MAX)
            if isinstance(error, TimeoutError) and limit.expired():
                raise _too_slow(collection, limit_s) from error
            raise

    async def _tell(self) -> None:
        """Tell the ledger of the copies that were given up, as long as it answers."""
        while self.untold:
            copy = self.untold.popleft()
            told = False
            try:
                told = await copy.give_up()
            finally:
                if not told:
                    self.untold.appendleft(copy)
            if not told:
                return


def _too_slow(collection: str, limit_s: float) -> TooSlow:
    return TooSlow(
        f"A batch of {collection} took longer than {limit_s:.0f} s.",
        where="reconciler",
        hint="Use smaller batches (reconcile.batch_rows).",
    )
