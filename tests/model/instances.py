"""The bounded instances that are explored, and what each rule is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from tests.model.checker import Explored, explore
from tests.model.rules import Instance, Rules

SMALL = (
    Instance(name="a write, two copies", writes=(1,), copies=2),
    Instance(name="a delete, two copies", writes=(0,), copies=2),
    Instance(name="a write, a copy, a swap", writes=(1,), copies=1, swaps=1),
    Instance(name="two writes, a copy", writes=(1, 2), copies=1, failures=0),
)
"""Explored in every test run, seconds in all."""

LARGE = (
    *SMALL,
    Instance(name="a write, two copies, two swaps", writes=(1,), copies=2, swaps=2, failures=2),
    Instance(name="a write and a delete, a copy, a swap", writes=(1, 0), swaps=1, copies=1),
    Instance(name="two writes, a copy, a failure", writes=(1, 2), copies=1),
)
"""Explored by `make model`, some minutes in all."""

LEFT_OUT: Mapping[str, str] = {
    "copy_needs_mark": "copy rule, step 0: the mark stays until the copy has ended",
    "leave_out_in_flight": "copy rule, step 2: a key in flight is left out",
    "compare_at_end": "copy rule, step 5: an intent the snapshot does not see makes it dirty",
    "by_visibility": "copy rule, steps 1 and 5 by visibility, not by sequence order",
    "detect_overlap": "W5: overlapping intents make the key dirty",
    "settle_after_writes": "section 3, step 5: settled after both stores have answered",
    "fail_makes_dirty": "section 3, step 5: a store that failed makes the key dirty",
    "drain_before_swap": "section 7: the ledger is drained before the primary is swapped",
    "lease_before_calls": "section 4: the lease is checked before each store call",
}


def without(rule: str) -> Rules:
    """Return the rules but for one."""
    known = {item.name for item in fields(Rules)}
    if rule not in known:
        raise ValueError(f"{rule} is not a rule; these are: {', '.join(sorted(known))}")
    return Rules(**{rule: False})


def counterexample(rule: str) -> tuple[Instance, Explored] | None:
    """Return the smallest instance that breaks an invariant when a rule is left out, and how."""
    for instance in SMALL:
        found = explore(instance, without(rule))
        if found.broken:
            return instance, found
    return None
