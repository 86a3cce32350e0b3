"""Writes on the store that answers; what was made of a record that has changed since, anew.

A vector is made of the record as it was read, and the write says so (`Write.expected`): the store
applies it to that record alone. So no vector of another text is ever stored, whoever else writes
and wherever a replica dies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.dual_write.attempt import Item, accept_resumed, may_be_ours
from proxy.dual_write.embed import Vectors
from proxy.dual_write.making import Made
from proxy.dual_write.outcome import StoreAnswer, refused_if_skipped, unproven
from proxy.dual_write.stores import apply_on
from proxy.errors import CrossfadeError, Reason, Rejected, Unavailable
from proxy.ledger.types import Routing
from proxy.model import Applied, CollectionSpec, Key, WriteOp
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

    def __init__(self, sides: Sides, vectors: Vectors, specs: Mapping[str, CollectionSpec]) -> None:
        self._sides = sides
        self._specs = specs
        self._vectors = vectors

    def never_whole(self, items: Sequence[Item]) -> Rejected | None:
        """Return why their store cannot apply these writes all or none; None if it can."""
        if len(items) <= 1 or self._sides.store(items[0].target).capabilities.transactions:
            return None
        return Rejected(
            f"The {items[0].target} store has no transactions, so {len(items)} writes cannot be all"
            " or none.",
            reason=Reason.UNIMPLEMENTED,
            hint="Send the batch without atomic: each write has an outcome of its own.",
        )

    async def write(self, items: Sequence[Item], target: str, terms: Terms) -> None:
        """Write the items in order, and note the store's answers.

        A write that still finds another record than it was made from has changed nothing, and
        CHANGED is its answer; if its vector cannot be made again it has the error too. A retried
        insert that finds its own record has succeeded.
        """
        whole = terms.atomic and self._sides.store(target).capabilities.transactions
        terms = replace(terms, atomic=whole)
        if whole:
            await self._write_whole(list(items), target, terms)
            return
        for number, part in enumerate(_in_turn(items)):
            unsent = _barred(items, terms) if number else None
            if unsent is None:
                await self._write(part, target, terms)
                continue
            for item in part:
                item.primary = StoreAnswer(error=unsent)
        await self._accept_resumed([item for item in items if may_be_ours(item)], target, terms)

    async def _write_whole(self, items: list[Item], target: str, terms: Terms) -> None:
        """Write all or none; of a retried batch, what is left without the records of its own.

        An earlier try that was applied made them all, so they are looked for together once one of
        them is found. Each further round has accepted one at least.
        """
        left = items
        while left:
            await self._write(left, target, terms)
            await self._accept_resumed([item for item in left if may_be_ours(item)], target, terms)
            if not any(item.accepted for item in left):
                return
            await self._accept_resumed(_resumed_inserts(left), target, terms)
            left = [item for item in left if not item.accepted]
            if any(item.primary.error is not None for item in left):
                return
            unsent = _barred(left, terms)
            if unsent is not None:
                for item in left:
                    item.primary = StoreAnswer(error=unsent)
                return

    async def _accept_resumed(self, items: Sequence[Item], target: str, terms: Terms) -> None:
        """Look whether the records of retried inserts are their own."""
        keys: dict[str, list[Key]] = {}
        for item in items:
            if item.write is not None:
                keys.setdefault(item.write.collection, []).append(item.write.key)
        for name, wanted in keys.items():
            same = [item for item in items if item.asked.collection == name]
            try:
                found = await self._sides.store(target).get(
                    name, wanted, vectors=True, deadline_s=terms.wait_s()
                )
            except CrossfadeError as error:
                for item in same:
                    item.primary = StoreAnswer(error=unproven(error, target))
                continue
            for item in same:
                stored = found.get(item.write.key) if item.write is not None else None
                accept_resumed(item, stored, self._specs[name])

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


def _barred(items: Sequence[Item], terms: Terms) -> Unavailable | None:
    """Return why the rest of a batch is not sent."""
    why = "the lease ran out" if terms.over() else ""
    if any(item.primary.uncertain for item in items):
        why = "nobody knows how one before it ended, which may still come after it"
    if not why:
        return None
    return Unavailable(f"This write of a batch was not sent: {why}.", where="proxy", hint="Retry.")


def _resumed_inserts(items: Sequence[Item]) -> list[Item]:
    """Return the retried inserts of keys that no other of these writes makes or deletes."""
    inserts = [
        (item, (item.write.collection, item.write.key)) for item in items if item.write is not None
    ]
    times = Counter(place for _, place in inserts)
    return [
        item
        for item, place in inserts
        if times[place] == 1
        and not item.accepted
        and item.asked.op is WriteOp.INSERT
        and item.intent is not None
        and item.intent.resumed
    ]


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
