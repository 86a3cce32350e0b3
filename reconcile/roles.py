"""Who is primary and who is secondary while a batch runs, and what is copied between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import CrossfadeError, Reason, Rejected
from proxy.ledger.base import CopyLog
from proxy.ledger.types import Job, Phase, Routing
from proxy.model import JsonValue, Key
from proxy.routing.phases import secondary_of, writes_both
from proxy.stores.base import Store
from reconcile.ranges import Scope, common_order, scope_of

ONE_STORE_PHASES = frozenset(phase for phase in Phase if not writes_both(phase))
"""In these nobody writes to both stores, so there is nothing to bring together."""


class RolesChanged(CrossfadeError):
    """The primary or the phase changed while a job ran; what it read must not be written."""


class Held(CrossfadeError):
    """Writes are held for a swap; the job waits so that the swap can drain."""


class CopyLedger(CopyLog, Protocol):
    """What a copier and a verifier ask of the ledger."""

    async def routing(self) -> Routing:
        """Return the routing in force."""

    async def fenced(self, collection: str, keys: Collection[Key]) -> frozenset[Key]:
        """Return those of the keys that are dirty or have an unsettled intent, right now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The two stores by role, under one routing."""

    routing: Routing
    primary: Store
    secondary: Store

    def require(self, now: Routing) -> None:
        """Raise RolesChanged if a copy that was begun under these roles may not go on."""
        if now.primary != self.routing.primary:
            raise RolesChanged(
                f"The primary changed from {self.routing.primary} to {now.primary} "
                f"(epoch {now.epoch}) while the job ran."
            )
        if now.phase in ONE_STORE_PHASES:
            raise RolesChanged(
                f"The phase changed to {now.phase.value} (epoch {now.epoch}) while the job ran."
            )


def roles_of(routing: Routing, stores: Mapping[str, Store], *, read_only: bool = False) -> Roles:
    """Return the stores by role.

    Args:
        read_only: nothing will be written, so a look ahead from old_only is allowed.

    Raises:
        Rejected(FAILED_PRECONDITION): the phase writes to one store only.
    """
    look_ahead = read_only and routing.phase is Phase.OLD_ONLY
    if routing.phase in ONE_STORE_PHASES and not look_ahead:
        raise Rejected(
            f"The migration is in phase {routing.phase.value}, where only one store is written.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Go to phase dual_write first: `crossfade phase dual_write`."
            if routing.phase is Phase.OLD_ONLY
            else "new_only is the point of no return; there is nothing left to reconcile.",
        )
    return Roles(
        routing=routing,
        primary=stores[routing.primary],
        secondary=stores[secondary_of(routing)],
    )


def period_epoch(flags: Mapping[str, JsonValue]) -> int:
    """Return the epoch since which both stores have been written in the roles of now.

    The ledger notes it in the transaction that begins dual writing or swaps the primary. What a
    job copied or compared before is worth nothing: writes under old_only are in no ledger, and a
    swap turns the direction round.
    """
    epochs = [0]
    for name in ("dual_write", "swap"):
        noted = flags.get(name)
        epoch = noted.get("epoch") if isinstance(noted, Mapping) else None
        if isinstance(epoch, int):
            epochs.append(epoch)
    return max(epochs)


def require_current(job: Job, flags: Mapping[str, JsonValue]) -> None:
    """Raise Rejected(FAILED_PRECONDITION) if the job is of an earlier period."""
    began = period_epoch(flags)
    if job.epoch < began:
        raise Rejected(
            f"Job {job.job_id} ({job.kind.value}) was asked for at epoch {job.epoch}; dual writing "
            f"began, or the primary was swapped, at epoch {began}. What it did is of another time.",
            reason=Reason.FAILED_PRECONDITION,
            hint=f"Start a new {job.kind.value}.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One collection on both stores, and the order in which its keys are walked."""

    scope: Scope
    roles: Roles
    order: str

    @property
    def name(self) -> str:
        """The collection."""
        return self.scope.spec.name

    @property
    def primary(self) -> Store:
        """The store that is right."""
        return self.roles.primary

    @property
    def secondary(self) -> Store:
        """The store that is brought to the same state."""
        return self.roles.secondary


async def pair_of(roles: Roles, collection: str) -> Pair:
    """Ask both stores for their key order and return the pair."""
    here = await roles.primary.key_order(collection)
    there = await roles.secondary.key_order(collection)
    return Pair(
        scope=scope_of(collection, roles.primary.schema, roles.secondary.schema),
        roles=roles,
        order=common_order(here, there),
    )
