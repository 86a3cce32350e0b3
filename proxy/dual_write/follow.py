"""Fits vectors to the secondary once the primary has answered, where it holds those of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from proxy.dual_write.attempt import Item
from proxy.dual_write.embed import read_values
from proxy.dual_write.making import Made, Maker, SideVector, Wish
from proxy.dual_write.spaces import Spaces
from proxy.dual_write.texts import values_of
from proxy.errors import CrossfadeError
from proxy.model import Applied, EmbeddingSpec, Write, WriteOp
from proxy.stores.sides import Sides
from proxy.vectors import same_space, text_of


class Follower:
    """Looks after vectors once the primary has answered."""

    def __init__(self, sides: Sides, spaces: Spaces, maker: Maker) -> None:
        self._sides = sides
        self._spaces = spaces
        self._maker = maker

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
        unseen = await self._look(asked, secondary, deadline_s)
        wishes = [
            Wish(embedding=embedding, text=self._text(item, write, embedding), must=False)
            for item, write in asked
            if write is not None
            and _follows(item)
            and (embedding := self._own_embedding(item, write, secondary)) is not None
        ]
        await self._maker.make(wishes, made, must_s=deadline_s)
        return [
            (None, unseen)
            if unseen and self._is_looked_at(item, write, secondary)
            else self._fitted(item, write, secondary, made)
            for item, write in asked
        ]

    def _is_looked_at(self, item: Item, write: Write | None, secondary: str) -> bool:
        """True if the secondary's vector is of a text that nobody has told yet."""
        if write is None or not item.merged or item.asked.op is WriteOp.PATCH or not _done(item):
            return False
        return self._own_embedding(item, write, secondary) is not None

    async def _look(
        self,
        asked: Sequence[tuple[Item, Write | None]],
        secondary: str,
        deadline_s: float,
    ) -> str:
        """Note the records after the writes; return why they cannot be read, "" if they can."""
        due = [
            (item, write)
            for item, write in asked
            if write is not None and self._is_looked_at(item, write, secondary)
        ]
        for target in {item.target for item, _ in due}:
            writes = [write for item, write in due if item.target == target]
            try:
                found = await read_values(self._sides, target, writes, deadline_s=deadline_s)
            except CrossfadeError as error:
                return f"the record cannot be read: {error.message}"
            for item, write in due:
                if item.target == target:  # None: somebody has deleted it.
                    item.seen = found.get((write.collection, write.key))
        return ""

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
