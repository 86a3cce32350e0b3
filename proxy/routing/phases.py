"""What each phase means, as pure functions: who is written, who may answer, which steps exist."""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.ledger.types import Phase, Routing

ORDER = (
    Phase.OLD_ONLY,
    Phase.DUAL_WRITE,
    Phase.SHADOW,
    Phase.RAMP,
    Phase.NEW_PRIMARY,
    Phase.NEW_ONLY,
)
"""The phases in the order of a migration."""


def other_of(name: str) -> str:
    """Return the name of the other store of the two."""
    return "new" if name == "old" else "old"


def secondary_of(routing: Routing) -> str:
    """Return the name of the store that is not primary."""
    return other_of(routing.primary)


def writes_both(phase: Phase) -> bool:
    """True in the phases in which every write goes to both stores."""
    return phase not in (Phase.OLD_ONLY, Phase.NEW_ONLY)


def reads_both(phase: Phase) -> bool:
    """True in the phases in which either store may answer reads (it holds everything)."""
    return phase in (Phase.RAMP, Phase.NEW_PRIMARY)


def shadows(phase: Phase) -> bool:
    """True in the phases in which reads are repeated on the other store."""
    return phase in (Phase.SHADOW, Phase.RAMP, Phase.NEW_PRIMARY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One allowed step. `swap`: the roles change, so writes are held and drained."""

    source: Phase
    target: Phase
    swap: bool
    forward: bool


def step(source: Phase, target: Phase) -> Step | None:
    """Return the step from one phase to another, None if there is none.

    Forward is one phase at a time. Back may skip phases (a rollback in a hurry), but never out of
    new_only, and out of new_primary first to ramp (the swap), so that each command is one swap.
    """
    here, there = ORDER.index(source), ORDER.index(target)
    if here == there or source is Phase.NEW_ONLY:
        return None
    if there > here + 1:
        return None
    back_from_swap = source is Phase.NEW_PRIMARY and there < here
    if back_from_swap and target is not Phase.RAMP:
        return None
    swap = (source, target) == (Phase.RAMP, Phase.NEW_PRIMARY) or back_from_swap
    return Step(source=source, target=target, swap=swap, forward=there > here)


def after(routing: Routing, taken: Step) -> Routing:
    """Return the routing that a step leads to (its epoch is set by the ledger)."""
    if taken.target is Phase.NEW_PRIMARY:
        return replace(routing, phase=taken.target, primary="new", percent=100.0, hold=False)
    if taken.target is Phase.NEW_ONLY:
        return replace(routing, phase=taken.target, primary="new", percent=100.0, hold=False)
    # Ramp is entered at 0 %, from either side: forward nothing moves yet, and a rollback trusts
    # the old store until somebody raises the percentage again.
    return replace(routing, phase=taken.target, primary="old", percent=0.0, hold=False)


def allowed_targets(source: Phase) -> tuple[Phase, ...]:
    """Return the phases that can be reached in one step, forward first."""
    steps = [step(source, target) for target in ORDER]
    found = [item for item in steps if item is not None]
    return tuple(item.target for item in sorted(found, key=lambda item: not item.forward))
