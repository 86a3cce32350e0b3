"""Comparing the two sides of a range: digests first, then keys, then records read again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field

from proxy.ledger.types import Difference
from proxy.model import Key
from proxy.query import KeyRange
from proxy.stores.base import KeyDigest, RangeDigest, Store
from proxy.vectors import VectorPath
from reconcile.bench import Bench
from reconcile.digest import compare, difference
from reconcile.made import sampled, texts_to_judge, without_vector, wrong_vectors
from reconcile.reading import ReadBack, read_back
from reconcile.roles import Pair
from reconcile.tasks import both, to_the_end

LEAF_ROWS = 4096
"""A differing span of at most so many rows is listed key by key; a larger one is cut first."""

LOOKS_MAX = 4
"""How often a key in flight is looked at before it is counted as such."""

LOOK_PAUSE_S = 0.05
"""Pause before the next look; it doubles."""

SECOND_READ_ROWS = 256
"""Candidates that are read whole at a time, from both stores."""

VECTOR_ROWS = 20_000
"""Records whose vectors are looked through at a time; only their keys and digests come here."""

EMBEDDED_ROWS = 64
"""Texts embedded under one watermark, which is good for 60 s."""

FORGET_S_MAX = 5.0
"""How long forgetting a watermark may take."""


@dataclass(slots=True)
class Found:
    """What one range showed: counts by outcome, and the differences."""

    tally: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    moving: set[Key] = field(default_factory=set)

    def count(self, outcome: str, number: int = 1) -> None:
        """Count records of an outcome."""
        for name in (outcome, "rows"):
            self.tally[name] = self.tally.get(name, 0) + number

    def correct(self, later: Found) -> None:
        """Take in a second look at records that were counted as equal."""
        for outcome in ("mismatched", "missing", "extra", "in_flight"):
            number = later.tally.get(outcome, 0)
            self.tally["matched"] = max(0, self.tally.get("matched", 0) - number)
            self.tally[outcome] = self.tally.get(outcome, 0) + number
        self.differences += later.differences

    def declare(self, found: Difference) -> None:
        """Count a difference and keep it."""
        self.count(found.kind)
        self.differences.append(found)


class Comparer:
    """Compares one collection on both stores (design section 5)."""

    def __init__(
        self, bench: Bench, pair: Pair, *, job_id: int, known: Collection[Key] = ()
    ) -> None:
        """Make a comparer.

        Args:
            job_id: the verify job; each has samples of its own.
            known: keys that the same job declared before it was interrupted; they are dirty
                because of that, and are declared again if they still differ.
        """
        self._bench = bench
        self._pair = pair
        self._job_id = job_id
        self._known = frozenset(known)
        self._deadline_s = bench.settings.deadline_s

    async def range(self, keys: KeyRange) -> Found:
        """Compare a range, transferring nothing if its digests agree."""
        found = Found()
        await self._span(keys, found)
        if self._pair.scope.path is VectorPath.EMBEDDED:
            await self._made_vectors(keys, found)
        return found

    async def _made_vectors(self, keys: KeyRange, found: Found) -> None:
        """Compare vectors that were made from texts: none is lacking, and a sample is right."""
        known = {item.key for item in found.differences} | found.moving
        later = Found()
        async for piece in self._pieces(self._pair.secondary, keys, VECTOR_ROWS):
            digests = await self._key_digests(self._pair.secondary, piece, vector_alone=True)
            held = [item for item in digests if self._pair.scope.holds(item.key)]
            spec = self._pair.secondary.schema.collections[self._pair.name]
            suspects = dict.fromkeys(without_vector(spec, held))
            some = sampled([item.key for item in held], job_id=self._job_id)
            suspects |= dict.fromkeys(some)
            todo = [key for key in suspects if key not in known]
            for start in range(0, len(todo), EMBEDDED_ROWS):
                some = todo[start : start + EMBEDDED_ROWS]
                await self._candidates(some, later, made_vectors=True)
        found.correct(later)

    async def _span(self, keys: KeyRange, found: Found) -> None:
        pair = self._pair
        here, there = await both(
            self._digest(pair.primary, keys), self._digest(pair.secondary, keys)
        )
        if here == there:
            found.count("matched", here.rows)
        elif max(here.rows, there.rows) <= LEAF_ROWS:
            await self._leaf(keys, found)
        else:
            await self._cut(
                keys, pair.primary if here.rows >= there.rows else pair.secondary, found
            )

    async def _cut(self, keys: KeyRange, store: Store, found: Found) -> None:
        """Compare a large span piece by piece; the store with more rows says where to cut."""
        async for piece in self._pieces(store, keys, LEAF_ROWS // 2):
            await self._span(piece, found)

    async def _pieces(self, store: Store, keys: KeyRange, limit: int) -> AsyncIterator[KeyRange]:
        """Yield adjoining spans in each of which the store has so many rows at most."""
        after, ended = keys.after, False
        while not ended:
            rest = KeyRange(after=after, upto=keys.upto)
            async with store.page(
                self._pair.name,
                rest,
                limit=limit,
                order=self._pair.order,
                deadline_s=self._deadline_s,
            ) as page:
                ended = len(page.keys) < limit
                piece = rest if ended else KeyRange(after=after, upto=page.keys[-1])
            yield piece
            after = piece.upto

    async def _leaf(self, keys: KeyRange, found: Found) -> None:
        pair = self._pair
        here, there = await both(
            self._key_digests(pair.primary, keys), self._key_digests(pair.secondary, keys)
        )
        compared = compare(pair.scope, here, there)
        found.count("matched", compared.matched)
        for start in range(0, len(compared.candidates), SECOND_READ_ROWS):
            await self._candidates(compared.candidates[start : start + SECOND_READ_ROWS], found)

    async def _candidates(
        self, keys: Sequence[Key], found: Found, *, made_vectors: bool = False
    ) -> None:
        """Look at differing keys again until each is equal, declared, or known to be in flight."""
        for look in range(LOOKS_MAX):
            if look:
                await self._bench.clock.sleep(LOOK_PAUSE_S * 2**look)
            keys = await self._look(keys, found, made_vectors=made_vectors)
            if not keys:
                return
        found.count("in_flight", len(keys))
        found.moving.update(keys)

    async def _look(self, keys: Sequence[Key], found: Found, *, made_vectors: bool) -> list[Key]:
        """Read keys again from both stores under a watermark; return those still in flight.

        A difference is declared if, from before the reads until after them, the key was neither
        dirty nor had an unsettled or a newer intent: then nobody was writing it, on either side.
        """
        pair = self._pair
        ledger = self._bench.ledger
        snapshot = await ledger.begin_copy(pair.name, copying=False)
        try:
            busy = snapshot.in_flight | await ledger.fenced(pair.name, keys)
            here, there = await both(
                self._read(pair.primary, keys, vectors=pair.scope.vector),
                self._read(pair.secondary, keys, vectors=pair.scope.vector or made_vectors),
            )
            wrong = await self._wrong_vectors(here, there) if made_vectors else {}
            busy |= await ledger.settled_since(snapshot, keys)
            busy |= await ledger.fenced(pair.name, keys)
        finally:
            await to_the_end(ledger.abandon_copy(snapshot), deadline_s=FORGET_S_MAX)
        waiting: list[Key] = []
        for key in keys:
            differs = self._difference(key, here, there) or wrong.get(key)
            if differs is None:
                found.count("matched", int(key in here.records))
            elif key in busy and key not in self._known:
                waiting.append(key)
            else:
                found.declare(differs)
        return waiting

    async def _wrong_vectors(self, here: ReadBack, there: ReadBack) -> dict[Key, Difference]:
        scope = self._pair.scope
        texts = texts_to_judge(scope, here.records, there.records)
        made = await self._bench.vectors.make(scope, texts)
        return wrong_vectors(scope, here.records, there.records, made)

    def _difference(self, key: Key, here: ReadBack, there: ReadBack) -> Difference | None:
        broken = here.broken.get(key) or there.broken.get(key)
        if broken:
            return Difference(
                collection=self._pair.name,
                key=key,
                kind="mismatched",
                detail={"cannot be decoded": [here.broken.get(key), there.broken.get(key)]},
            )
        return difference(self._pair.scope, key, here.records.get(key), there.records.get(key))

    async def _read(self, store: Store, keys: Sequence[Key], *, vectors: bool) -> ReadBack:
        return await read_back(
            store, self._pair.name, keys, vectors=vectors, deadline_s=self._deadline_s
        )

    async def _digest(self, store: Store, keys: KeyRange) -> RangeDigest:
        pair = self._pair
        return await store.digest(
            pair.name,
            keys,
            fields=pair.scope.fields,
            order=pair.order,
            deadline_s=self._deadline_s,
            vectors=pair.scope.vector,
        )

    async def _key_digests(
        self, store: Store, keys: KeyRange, *, vector_alone: bool = False
    ) -> list[KeyDigest]:
        pair = self._pair
        return await store.key_digests(
            pair.name,
            keys,
            fields=() if vector_alone else pair.scope.fields,
            order=pair.order,
            deadline_s=self._deadline_s,
            vectors=pair.scope.vector or vector_alone,
        )
