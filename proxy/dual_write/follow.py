"""What becomes of vectors once the primary has answered: put right, and fitted to the secondary.

Whoever changes a text sets its vector with it and looks at the record afterwards, so that the last
of several writers, on whichever replicas, leaves the vector of the text that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from proxy.dual_write.attempt import Item
from proxy.dual_write.embed import read_values
from proxy.dual_write.making import Made, Maker, SideVector, Wish
from proxy.dual_write.outcome import StoreAnswer
from proxy.dual_write.spaces import Spaces
from proxy.dual_write.stores import apply_on
from proxy.dual_write.texts import values_of
from proxy.errors import Ambiguous, CrossfadeError
from proxy.model import Applied, EmbeddingSpec, Write, WriteOp
from proxy.stores.sides import Sides
from proxy.vectors import same_space, text_of

_ROUNDS = 5
"""How often a vector is made again because somebody changed the record meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A record of the primary whose text is another than the one that was embedded."""

    item: Item
    write: Write
    embedding: EmbeddingSpec
    text: str


class Follower:
    """Looks after vectors once the primary has answered."""

    def __init__(self, sides: Sides, spaces: Spaces, maker: Maker) -> None:
        self._sides = sides
        self._spaces = spaces
        self._maker = maker

    async def correct(
        self,
        items: Sequence[Item],
        target: str,
        made: Made,
        *,
        deadline: Callable[[float], float],
    ) -> None:
        """Make the vectors again of records whose text has changed since it was read.

        An item whose vector cannot be put right is answered as Ambiguous: its key is dirty, and
        the same request may be sent again.

        Args:
            deadline: cuts a number of seconds to what is left of the lease.
        """
        due = [item for item in items if item.merged and _done(item)]
        for _ in range(_ROUNDS):
            stale = await self._stale(due, target, deadline) if due else []
            if not stale:
                return
            wishes = [Wish(embedding=it.embedding, text=it.text, must=True) for it in stale]
            await self._maker.make(wishes, made, must_s=self._wait_s(deadline))
            due = await self._patch_vectors(stale, target, made, deadline)
        for left in await self._stale(due, target, deadline):
            _doubt(left.item, f"the record kept changing for {_ROUNDS} rounds", target)

    def _wait_s(self, deadline: Callable[[float], float]) -> float:
        return max(0.001, deadline(self._maker.limits.primary_s))

    async def _stale(
        self, items: Sequence[Item], target: str, deadline: Callable[[float], float]
    ) -> list[Correction]:
        await self._look(items, target, deadline)
        stale: list[Correction] = []
        for item in items:
            write, values = item.write, item.seen
            if write is None or values is None or item.primary.error is not None:
                continue
            embedding = self._spaces.embedding(target, write.collection)
            if not item.corrects or embedding is None:
                continue
            text = text_of(embedding, values)
            if text != item.text:
                stale.append(Correction(item=item, write=write, embedding=embedding, text=text))
        return stale

    async def _look(
        self, items: Sequence[Item], target: str, deadline: Callable[[float], float]
    ) -> None:
        """Note the records after the writes: as a patch tells them, else as they are read."""
        unread: list[tuple[Item, Write]] = []
        for item in items:
            record = item.primary.result.record if item.primary.result is not None else None
            if record is not None:
                spec = self._spaces.held(target, record.collection)
                item.seen = values_of(spec, record.key, record.fields)
            elif item.write is not None and item.seen is None:
                unread.append((item, item.write))
        try:
            found = await read_values(
                self._sides,
                target,
                [write for _, write in unread],
                deadline_s=self._wait_s(deadline),
            )
        except CrossfadeError as error:
            for item, _ in unread:
                _doubt(item, f"the record cannot be read: {error.message}", target)
            return
        for item, write in unread:
            item.seen = found.get((write.collection, write.key))  # None: somebody has deleted it.

    async def _patch_vectors(
        self,
        stale: Sequence[Correction],
        target: str,
        made: Made,
        deadline: Callable[[float], float],
    ) -> list[Item]:
        """Write the vectors of these texts; return the items to be looked at once more."""
        asked: list[tuple[Correction, Write]] = []
        for it in stale:
            chosen = made.of(it.embedding, it.text)
            if chosen.error is not None:
                _doubt(it.item, chosen.error.message, target)
                continue
            patch = Write(
                op=WriteOp.PATCH,
                collection=it.write.collection,
                key=it.write.key,
                vector=chosen.vector,
            )
            asked.append((it, patch))
        if not asked:
            return []
        answers = await apply_on(
            self._sides[target],
            [patch for _, patch in asked],
            atomic=False,
            deadline_s=self._wait_s(deadline),
        )
        return [
            it.item
            for (it, patch), told in zip(asked, answers, strict=True)
            if self._took(it, patch, told, target)
        ]

    def _took(self, it: Correction, patch: Write, told: StoreAnswer, target: str) -> bool:
        """Note what became of a corrected vector; True if the record is to be looked at again."""
        item, result = it.item, told.result
        if result is None or result.applied not in (Applied.DONE, Applied.NOT_FOUND):
            why = told.skipped or (told.error.message if told.error is not None else "")
            _doubt(item, why or (result.detail if result is not None else ""), target)
            return False
        if result.applied is Applied.NOT_FOUND or result.record is None:
            return False  # Somebody has deleted it.
        item.text = it.text
        if it.write.op is WriteOp.PATCH:
            item.primary = replace(item.primary, result=result)
        else:
            item.write = replace(it.write, vector=patch.vector, set_vector=True)
            spec = self._spaces.held(target, it.write.collection)
            item.seen = values_of(spec, result.record.key, result.record.fields)
        return True

    async def fit(
        self,
        asked: Sequence[tuple[Item, Write | None]],
        secondary: str,
        made: Made,
        *,
        deadline_s: float,
    ) -> list[tuple[Write | None, str]]:
        """Put the secondary's own vectors into its writes.

        Returns:
            For each: the write (None: nothing is due), and why it cannot be made ("" if it can).
        """
        if not any(self._spaces.special(item.asked.collection) for item, _ in asked):
            return [(write, "") for _, write in asked]
        wishes = [
            Wish(embedding=embedding, text=self._text(item, write, embedding), must=False)
            for item, write in asked
            if write is not None
            and _follows(item)
            and (embedding := self._own_embedding(item, write, secondary)) is not None
        ]
        await self._maker.make(wishes, made, must_s=deadline_s)
        return [self._fitted(item, write, secondary, made) for item, write in asked]

    def _own_embedding(self, item: Item, write: Write, secondary: str) -> EmbeddingSpec | None:
        return self._spaces.own_embedding(secondary, item.target, write.collection)

    def _text(self, item: Item, record: Write, embedding: EmbeddingSpec) -> str:
        """Return the text of the record that the primary holds after the write."""
        spec = self._spaces.held(item.target, record.collection)
        patched = item.asked.op is WriteOp.PATCH or item.seen is None
        values = values_of(spec, record.key, record.fields) if patched else item.seen
        return text_of(embedding, values or {})

    def _fitted(
        self, item: Item, write: Write | None, secondary: str, made: Made
    ) -> tuple[Write | None, str]:
        if write is None or item.write is None or not self._spaces.special(write.collection):
            return write, ""
        own = self._own_embedding(item, write, secondary)
        chosen = item.other
        if item.asked.op is WriteOp.PATCH:
            chosen = self._after_patch(item, item.write, write, secondary, made)
        elif item.merged and self._shares(item, secondary):
            # The primary's vector may have been made anew since.
            chosen = SideVector(vector=item.write.vector, set_vector=item.write.set_vector)
        elif own is not None and _follows(item):
            chosen = made.of(own, self._text(item, write, own))
        if chosen is None:
            return write, ""
        if chosen.error is not None:
            return None, f"its vector cannot be made: {chosen.error.message}"
        return replace(write, vector=chosen.vector, set_vector=chosen.set_vector), ""

    def _shares(self, item: Item, secondary: str) -> bool:
        name = item.asked.collection
        return same_space(
            self._spaces.vector(item.target, name), self._spaces.vector(secondary, name)
        )

    def _after_patch(
        self, item: Item, patch: Write, record: Write, secondary: str, made: Made
    ) -> SideVector | None:
        """Return the vector of a patched record; None: that of the record itself."""
        mine = self._spaces.vector(secondary, record.collection)
        if mine is None:
            return SideVector()
        if self._shares(item, secondary):
            return None
        embedding = mine.embedding
        if embedding is not None:
            return made.of(embedding, self._text(item, record, embedding))
        if mine.given:
            return SideVector(vector=patch.vector, set_vector=patch.set_vector)
        return SideVector()


def _done(item: Item) -> bool:
    result = item.primary.result
    return result is not None and result.applied is Applied.DONE


def _follows(item: Item) -> bool:
    """True if the secondary's own vector is that of the record which the primary holds now."""
    return item.asked.op is WriteOp.PATCH or (item.merged and item.seen is not None)


def _doubt(item: Item, why: str, target: str) -> None:
    """Answer that the record is written, and that its vector may be of another text."""
    item.primary = StoreAnswer(
        error=Ambiguous(
            f"The record was changed while it was written, and its vector is not yet right: {why}.",
            where=target,
            hint="Write it again, with the same idempotency key or without.",
        )
    )
