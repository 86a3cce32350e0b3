"""Breadth-first search over every interleaving, with the shortest way to a broken invariant."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.model.rules import Instance, Rules, moves
from tests.model.state import At, State, Step

STATES_MAX = 3_000_000
"""A search that grows past this is a mistake in the instance."""

Invariant = Callable[[State], bool]


def clean_means_equal(state: State) -> bool:
    """A key that no rule keeps from being read anywhere is the same on both stores."""
    return state.fenced or state.stores[0] == state.stores[1]


def primary_keeps_its_writes(state: State) -> bool:
    """The primary holds what the last write applied there made of it: none is lost or undone."""
    return state.stores[state.primary] == state.truth


def repair_converges(state: State) -> bool:
    """When all is quiet, one undisturbed copy makes the key clean and equal."""
    if not _quiet(state) or not state.fenced:
        return True
    after = replace(state, copies=1)
    for prefix in ("copier takes", "copier reads", "copier writes", "copier finishes"):
        steps = [found for name, found in moves(after, Rules()) if name.startswith(prefix)]
        if not steps:
            return False
        after = steps[0]
    return not after.fenced and after.stores[0] == after.stores[1]


def _quiet(state: State) -> bool:
    ended = all(item.at in (At.IDLE, At.ENDED) for item in state.writers)
    return ended and state.copier.step is Step.IDLE and not state.held


INVARIANTS: Mapping[str, Invariant] = {
    "clean means equal": clean_means_equal,
    "the primary keeps its writes": primary_keeps_its_writes,
    "repair converges": repair_converges,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """What a search has seen.

    Attributes:
        states: how many different states there are.
        broken: the invariant that does not hold, "" if all do.
        trace: the steps to the first state that breaks it, from the start.
        last: that state.
    """

    states: int
    broken: str = ""
    trace: tuple[str, ...] = ()
    last: State | None = None


def explore(instance: Instance, rules: Rules) -> Explored:
    """Visit every state that can be reached; stop at the first that breaks an invariant."""
    start = instance.start()
    came: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        for name, holds in INVARIANTS.items():
            if not holds(state):
                trace = _trace(came, state)
                return Explored(states=len(came), broken=name, trace=trace, last=state)
        for step, after in moves(state, rules):
            if after not in came:
                came[after] = (state, step)
                waiting.append(after)
        if len(came) > STATES_MAX:
            raise AssertionError(f"{instance.name} has more than {STATES_MAX} states")
    return Explored(states=len(came))


def _trace(came: Mapping[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    found = came[state]
    while found is not None:
        state, step = found
        steps.append(step)
        found = came[state]
    return tuple(reversed(steps))
