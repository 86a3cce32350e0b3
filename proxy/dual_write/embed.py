"""Gives writes their vectors: texts are embedded once, before any store is called, for both stores.

What a write says in full is embedded before the write is admitted, so that no swap of the primary
waits for a model. A write that changes a part of a record's text is completed from the record that
the primary holds, under the key's lock, and expects that record when it is written: another replica
may change it meanwhile (`proxy.dual_write.primary`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.dual_write.attempt import Item
from proxy.dual_write.making import Made, Maker, SideVector, Wish
from proxy.dual_write.spaces import Spaces
from proxy.dual_write.texts import Need, after, decided, expected, gives_text, need, values_of
from proxy.errors import CrossfadeError, Rejected, Unavailable, Violation
from proxy.ledger.types import Routing
from proxy.model import CollectionSpec, EmbeddingSpec, Expected, Key, Value, Write, WriteOp
from proxy.routing.phases import secondary_of, writes_both
from proxy.stores.sides import Sides
from proxy.vectors import text_of

RecordId = tuple[str, Key]
_State = dict[RecordId, dict[str, Value] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """What one store needs for one item.

    Attributes:
        need: KEPT, though a part of the text is stored, if the text does not change.
        text: of the record after the write, where a vector is or was made of it.
        expected: the record that the text is partly of.
    """

    item: Item
    write: Write
    side: str
    need: Need
    text: str | None = None
    embedding: EmbeddingSpec | None = None
    expected: Expected | None = None

    @property
    def makes(self) -> bool:
        """True if a vector is to be made."""
        return self.text is not None and self.need is not Need.KEPT

    @property
    def mine(self) -> bool:
        """True for the store that the item's answer comes from."""
        return self.side == self.item.target


async def read_values(
    sides: Sides, side: str, writes: Sequence[Write], *, deadline_s: float
) -> dict[RecordId, dict[str, Value]]:
    """Return the values of those records that exist.

    Raises:
        Unavailable: the store does not answer, or keeps failing.
        Corrupt: a record cannot be decoded.
    """
    found: dict[RecordId, dict[str, Value]] = {}
    store, breaker = sides.store(side), sides[side].breaker
    for name in sorted({write.collection for write in writes}):
        keys = list(dict.fromkeys(item.key for item in writes if item.collection == name))
        if breaker.state == "open":
            raise Unavailable(f"The {side} store keeps failing.", where=side, hint="Retry later.")
        try:
            records = await store.get(name, keys, vectors=False, deadline_s=deadline_s)
        except Unavailable:
            breaker.failed()
            raise
        spec = store.schema.collections[name]
        found.update(
            {(name, key): values_of(spec, key, item.fields) for key, item in records.items()}
        )
    return found


class Vectors:
    """Decides the vector of each write for each store.

    Args:
        specs: the collections as clients see them.
    """

    def __init__(
        self, sides: Sides, spaces: Spaces, maker: Maker, specs: Mapping[str, CollectionSpec]
    ) -> None:
        self._sides = sides
        self._spaces = spaces
        self._maker = maker
        self._specs = specs

    async def prepare(
        self, writes: Sequence[Write], routing: Routing, made: Made, *, left_s: float
    ) -> None:
        """Embed what can be foreseen under this routing, before the writes are admitted.

        Nothing fails here: what could not be made is missed by `decide`.

        Args:
            left_s: seconds that the client still waits.
        """
        due = [item for item in writes if self._spaces.special(item.collection)]
        if not due or left_s <= 0:
            return
        reading = [item for item in due if item.key and self._foresees_by_reading(item, routing)]
        wait_s = min(left_s, self._maker.limits.primary_s)
        stored: _State = dict.fromkeys(_id(item) for item in reading)
        try:
            stored.update(
                await read_values(self._sides, routing.primary, reading, deadline_s=wait_s)
            )
        except CrossfadeError:
            stored = {}  # It is read again under the lock, and may fail there.
        wishes = [wish for item in due for wish in self._foreseen(item, routing, stored)]
        await self._maker.make(wishes, made, must_s=left_s)

    def _foresees_by_reading(self, write: Write, routing: Routing) -> bool:
        name, primary = write.collection, routing.primary
        if need(self._spaces.held(primary, name), write) is Need.MERGED:
            return True
        if not writes_both(routing.phase) or write.op is WriteOp.DELETE:
            return False
        other = secondary_of(routing)
        if write.op is WriteOp.PATCH:
            return self._spaces.own_embedding(other, primary, name) is not None
        return need(self._spaces.held(other, name), write) is Need.MERGED

    def _foreseen(self, write: Write, routing: Routing, stored: _State) -> Iterator[Wish]:
        name, primary = write.collection, routing.primary
        both = writes_both(routing.phase) and write.op is not WriteOp.DELETE
        for side in (primary, secondary_of(routing)) if both else (primary,):
            spec, embedding = self._spaces.held(side, name), self._spaces.embedding(side, name)
            if embedding is None:
                continue
            wanted = need(spec, write)
            if side != primary and write.op is WriteOp.PATCH:
                # It follows the record that the primary will hold.
                own = self._spaces.own_embedding(side, primary, name)
                wanted = Need.MERGED if own is not None else Need.NOTHING
            values: Mapping[str, Value] | None = None
            if wanted is Need.WHOLE and decided(spec, embedding, write):
                values = values_of(spec, write.key, write.fields)
            elif wanted is Need.MERGED and _id(write) in stored:
                values = after(spec, write, stored[_id(write)])
            if values is not None:
                text = text_of(embedding, values)
                yield Wish(embedding=embedding, text=text, must=side == primary)

    async def decide(
        self, items: Sequence[Item], routing: Routing, made: Made, *, left_s: float
    ) -> None:
        """Set the vectors of resolved items whose keys are locked, for each store that is due.

        An item whose own store's vector cannot be made gets the error, and loses its write. Items
        that were decided before are decided anew.
        """
        due = [item for item in items if item.write and self._spaces.special(item.asked.collection)]
        for item in due:
            item.write = item.resolved = item.resolved or item.write
        if not due:
            return
        must_s = max(0.001, min(left_s, self._maker.limits.primary_s))
        drafts = await self._drafts(due, routing, deadline_s=must_s)
        wishes = [
            Wish(embedding=draft.embedding, text=draft.text, must=draft.mine)
            for draft in drafts
            if draft.makes and draft.text and draft.embedding is not None
        ]
        await self._maker.make(wishes, made, must_s=must_s)
        for draft in drafts:
            self._choose(draft, made)

    async def _drafts(
        self, items: Sequence[Item], routing: Routing, *, deadline_s: float
    ) -> list[_Draft]:
        state: _State = {}
        for target in sorted({item.target for item in items}):
            reading = [
                item for item in items if item.target == target and self._reads_first(item, routing)
            ]
            writes = [item.write for item in reading if item.write is not None]
            try:
                found = await read_values(self._sides, target, writes, deadline_s=deadline_s)
            except CrossfadeError as error:
                for item in reading:
                    fail(item, error)
            else:
                state.update({_id(write): found.get(_id(write)) for write in writes})
        drafts: list[_Draft] = []
        for item in items:
            if item.write is not None:
                drafts.extend(self._draft(item, item.write, routing, state))
        return drafts

    def _sides_of(self, item: Item, routing: Routing) -> tuple[str, ...]:
        """Return the stores that a write of this item goes to as it is; its own first.

        A patch reaches the secondary as the record that the primary holds after it.
        """
        both = writes_both(routing.phase) and not item.one_sided
        patch = item.asked.op is WriteOp.PATCH
        return (item.target, secondary_of(routing)) if both and not patch else (item.target,)

    def _reads_first(self, item: Item, routing: Routing) -> bool:
        write = item.write
        return write is not None and any(
            need(self._spaces.held(side, write.collection), write) is Need.MERGED
            for side in self._sides_of(item, routing)
        )

    def _draft(self, item: Item, write: Write, routing: Routing, state: _State) -> Iterator[_Draft]:
        """Yield what each store needs; `state` follows the writes of one key in a batch."""
        name, before = write.collection, state.get(_id(write))
        for side in self._sides_of(item, routing):
            spec, embedding = self._spaces.held(side, name), self._spaces.embedding(side, name)
            wanted = need(spec, write)
            values: Mapping[str, Value] | None = None
            expects: Expected | None = None
            if wanted is Need.WHOLE:
                values = values_of(spec, write.key, write.fields)
            elif wanted is Need.MERGED:
                item.merged = True
                expects = expected(spec, write, before)
                values = after(spec, write, before)
                if values is None or (before is not None and not gives_text(spec, write)):
                    wanted = Need.KEPT
            text = text_of(embedding, values) if embedding and values is not None else None
            yield _Draft(
                item=item,
                write=write,
                side=side,
                need=wanted,
                text=text,
                embedding=embedding,
                expected=expects,
            )
        if _id(write) in state:
            state[_id(write)] = after(self._spaces.held(item.target, name), write, before)

    def _choose(self, draft: _Draft, made: Made) -> None:
        item, write = draft.item, draft.write
        chosen = self._chosen(draft, made)
        if not draft.mine:
            item.other = chosen
            return
        vector = self._specs[write.collection].vector
        textless = draft.makes and not draft.text
        if textless and vector is not None and vector.required and draft.embedding:
            fail(item, _textless(write.collection, draft.embedding))
        elif chosen.error is not None:
            fail(item, chosen.error)
        elif item.write is not None:
            item.write = replace(
                write,
                vector=chosen.vector,
                set_vector=chosen.set_vector,
                expected=draft.expected,
            )

    def _chosen(self, draft: _Draft, made: Made) -> SideVector:
        if draft.makes and draft.text is not None and draft.embedding is not None:
            return made.of(draft.embedding, draft.text)
        vector = self._spaces.vector(draft.side, draft.write.collection)
        if draft.need is Need.KEPT or vector is None or not vector.given:
            return SideVector()
        return SideVector(vector=draft.write.vector, set_vector=draft.write.set_vector)


def fail(item: Item, error: CrossfadeError) -> None:
    """Let an item end with an error before anything of it is written."""
    item.error = error
    item.write = None


def _textless(collection: str, embedding: EmbeddingSpec) -> Rejected:
    return Rejected(
        f"A record of {collection!r} needs a vector, and its text is empty.",
        violations=tuple(
            Violation(where=f"fields.{name}", expected="some text (one of the fields will do)")
            for name in embedding.fields
        ),
        hint="Give a text, or the vector.",
    )


def _id(write: Write) -> RecordId:
    return write.collection, write.key
