"""What every job is given: the stores, the ledger, settings, time, and the watch on the routing."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.config.settings import ReconcileSettings
from proxy.embedding.base import Embedder
from proxy.errors import Reason, Rejected
from proxy.ledger.base import Ledger
from proxy.ledger.types import Job, Routing
from proxy.routing.replicas import behind
from proxy.stores.base import Store
from reconcile.checkpoint import Observer
from reconcile.copy import Copier
from reconcile.late import LateWrites
from reconcile.letters import DeadLetters
from reconcile.retry import Retry
from reconcile.roles import Pair, Roles, pair_of, require_current, roles_of
from reconcile.snapshot import CopyDesk, Reach
from reconcile.vectors import Vectors

HOLD_POLL_S = 0.25
"""How often a waiting job looks whether a swap is over."""

ACK_POLL_S = 0.1
ACK_WAIT_S_MAX = 10.0
"""How long a backfill waits for replicas to acknowledge the epoch."""

Check = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The tools of a job. `stores` by name: "old" and "new".

    Attributes:
        embedder: makes vectors where the two stores hold different ones, None: nobody can.
    """

    stores: Mapping[str, Store]
    ledger: Ledger
    settings: ReconcileSettings
    clock: Clock
    rng: random.Random
    retry: Retry
    observer: Observer
    reach: Reach
    late: LateWrites
    embedder: Embedder | None = None

    @property
    def vectors(self) -> Vectors:
        """What makes the secondary's vectors."""
        return Vectors(self.embedder, deadline_s=self.settings.deadline_s)

    def copier(self, letters: DeadLetters) -> Copier:
        """Return a copier for one job."""
        return Copier(
            CopyDesk(ledger=self.ledger, late=self.late),
            letters,
            vectors=self.vectors,
            deadline_s=self.settings.deadline_s,
            reach=self.reach,
        )

    async def roles(self, *, read_only: bool = False) -> Roles:
        """Return the stores by role under the routing in force.

        Raises:
            Rejected(FAILED_PRECONDITION): the phase writes to one store only.
        """
        return roles_of(await self.ledger.routing(), self.stores, read_only=read_only)

    async def pairs(self, roles: Roles, names: list[str]) -> dict[str, Pair]:
        """Return the pair of each collection."""
        return {name: await pair_of(roles, name) for name in names}

    async def released(self, roles: Roles, check: Check) -> Routing:
        """Return the routing once no swap is in progress.

        Raises:
            RolesChanged: the primary or the phase is another one now.
        """
        while True:
            routing = await self.retry(self.ledger.routing, check)
            roles.require(routing)
            if not routing.hold:
                return routing
            check()
            await self.ledger.wait_change(routing.epoch, timeout_s=HOLD_POLL_S)

    async def current(self, job: Job, routing: Routing, last: Routing | None) -> None:
        """Return if the job's work is of this period; asked again when the epoch has changed.

        Raises:
            Rejected(FAILED_PRECONDITION): dual writing began, or a swap came, after the job did.
        """
        if last is None or routing.epoch != last.epoch:
            require_current(job, await self.ledger.flags())

    async def acknowledged(self, check: Check) -> Routing:
        """Return the routing once every live replica works under it (rule B0).

        Raises:
            Rejected(FAILED_PRECONDITION): a replica does not acknowledge; the message names it.
        """
        ends_s = self.clock.monotonic_s() + ACK_WAIT_S_MAX
        while True:
            routing = await self.ledger.routing()
            late = [item.replica_id for item in behind(await self.ledger.replicas(), routing.epoch)]
            if not late:
                return routing
            if self.clock.monotonic_s() >= ends_s:
                raise Rejected(
                    f"Not every proxy works under epoch {routing.epoch} yet: {', '.join(late)}.",
                    reason=Reason.FAILED_PRECONDITION,
                    hint="Wait until `crossfade status` shows the epoch acknowledged, then retry.",
                )
            check()
            await self.clock.sleep(ACK_POLL_S)
