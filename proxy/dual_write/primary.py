"""Writes on the store that answers; what was made of a record that has changed since, anew.

A vector is made of the record as it was read, and the write says so (`Write.expected`): the store
applies it to that record alone. So no vector of another text is ever stored, whoever else writes
and wherever a replica dies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from proxy.dual_write.attempt import Item
from proxy.dual_write.embed import Vectors
from proxy.dual_write.making import Made
from proxy.dual_write.outcome import StoreAnswer, refused_if_skipped
from proxy.dual_write.stores import apply_on
from proxy.errors import Unavailable
from proxy.ledger.types import Routing
from proxy.model import Applied, Key
from proxy.stores.sides import Sides

_TRIES = 8
"""How often a write is sent while others keep changing the record that it was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which writes are made.

    Attributes:
        wait_s: what a call may take from now on.
        over: True once nothing may be sent any more.
    """

    routing: Routing
    atomic: bool
    made: Made
    wait_s: Callable[[], float]
    over: Callable[[], bool]


class Primary:
    """Applies writes whose keys are locked on the store that their answer comes from."""

    def __init__(self, sides: Sides, vectors: Vectors) -> None:
        self._sides = sides
        self._vectors = vectors

    async def write(self, items: Sequence[Item], target: str, terms: Terms) -> None:
        """Write the items in order, and note the store's answers.

        A write that still finds another record than it was made from has changed nothing, and
        CHANGED is its answer; if its vector cannot be made again it has the error too.
        """
        whole = terms.atomic and self._sides.store(target).capabilities.transactions
        terms = replace(terms, atomic=whole)
        for number, part in enumerate([list(items)] if whole else _in_turn(items)):
            if number and terms.over():
                late = Unavailable("The lease ran out before this write.", where="ledger")
                for item in part:
                    item.primary = StoreAnswer(error=late)
            else:
                await self._write(part, target, terms)

    async def _write(self, items: list[Item], target: str, terms: Terms) -> None:
        for left in reversed(range(_TRIES)):
            writes = [item.write for item in items if item.write is not None]
            answers = await apply_on(
                self._sides[target], writes, atomic=terms.atomic, deadline_s=terms.wait_s()
            )
            for item, told in zip(items, answers, strict=True):
                item.primary = refused_if_skipped(told, target)
            items = _to_be_made_anew(items)
            if not items or not left or terms.over():
                return
            items = await self._made_anew(items, terms)

    async def _made_anew(self, items: list[Item], terms: Terms) -> list[Item]:
        """Read, embed and complete the writes again; return those that can be sent."""
        before = [item.write for item in items]
        await self._vectors.decide(items, terms.routing, terms.made, left_s=terms.wait_s())
        failed = False
        for item, write in zip(items, before, strict=True):
            if item.write is None:
                item.write, failed = write, True
        return [] if terms.atomic and failed else [item for item in items if item.error is None]


def _in_turn(items: Sequence[Item]) -> list[list[Item]]:
    """Cut a batch where a key comes again after a write of it that may have to be made anew."""
    parts: list[list[Item]] = [[]]
    unsure: set[tuple[str, Key]] = set()
    for item in items:
        if item.write is None:
            continue
        place = (item.write.collection, item.write.key)
        if place in unsure:
            parts.append([])
            unsure.clear()
        parts[-1].append(item)
        if item.write.expected is not None:
            unsure.add(place)
    return parts


def _to_be_made_anew(items: list[Item]) -> list[Item]:
    """Return the writes that found another record, with all that were undone on their account."""
    applied = [item.primary.result.applied if item.primary.result else None for item in items]
    if Applied.CHANGED not in applied:
        return []
    again = (Applied.CHANGED, Applied.ROLLED_BACK)
    return [item for item, outcome in zip(items, applied, strict=True) if outcome in again]
