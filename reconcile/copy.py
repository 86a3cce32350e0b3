"""The copy rule for one batch: a page of a backfill, or a set of dirty keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from proxy.errors import Corrupt, Reason, Rejected, Unavailable
from proxy.model import Key, WriteOp
from proxy.query import KeyRange
from proxy.stores.base import BulkTarget, KeyDigest, Page, Store
from reconcile.batch import Copied, Counter, PageAsk, Path, Span, outcome_of
from reconcile.digest import equal_keys
from reconcile.letters import DeadLetters
from reconcile.ranges import BatchPlan, plan_batch, remaining
from reconcile.reading import ReadBack, read_back
from reconcile.roles import Pair
from reconcile.snapshot import CopyDesk, OpenCopy, Reach, Step, pass_by
from reconcile.tasks import both
from reconcile.vectors import Vectors
from reconcile.writing import SecondaryWriter, Stored

COLLISIONS_MAX = 2
"""A live write between step 3 and a bulk load undoes the load; after this many go by records."""

THERE_PER_ROW = 4
"""Keys of the secondary that one batch looks at, per row of the batch: memory stays bounded."""

NARROWINGS_MAX = 8
"""How often a span is narrowed because the secondary holds too many keys in it."""


class Copier:
    """Copies batches of one job under the copy rule (design section 4)."""

    def __init__(
        self,
        desk: CopyDesk,
        letters: DeadLetters,
        *,
        vectors: Vectors,
        deadline_s: float,
        reach: Reach = pass_by,
    ) -> None:
        self._desk = desk
        self._vectors = vectors
        self._no_bulk: set[tuple[str, str]] = set()
        self._letters = letters
        self._deadline_s = deadline_s
        self._reach = reach
        self._writer = SecondaryWriter(desk.ledger, deadline_s=deadline_s)

    async def copy_page(self, ask: PageAsk) -> Copied:
        """Copy the next rows of a range, and advance its checkpoint.

        Rows that the secondary lacks are inserted, never laid over a row that is there: keys that
        differ and keys that only the secondary has become dirty in step 5 and are repaired by key.

        Raises:
            RolesChanged, Held: see `CopyDesk.open`; nothing was written.
            Unavailable, Ambiguous: a store or the ledger failed; the batch may be repeated.
            Corrupt: the keys of the page cannot be read.
        """
        path = Path.RECORDS if not self._in_bulk(ask) else Path.BULK
        collisions = 0
        while True:
            try:
                return await self._page(ask, path)
            except Rejected as error:
                if path is not Path.BULK:
                    raise
                collisions += 1
                if error.reason is Reason.UNIMPLEMENTED:
                    self._no_bulk.add((ask.pair.primary.name, ask.pair.name))
                if error.reason is not Reason.ALREADY_EXISTS or collisions > COLLISIONS_MAX:
                    path = Path.RECORDS
            except Corrupt:
                if path is Path.ISOLATE:
                    raise
                path = Path.ISOLATE

    def _in_bulk(self, ask: PageAsk) -> bool:
        """True if this pair's rows may go in bulk, and the primary has not said it cannot."""
        pair = ask.pair
        spoken = (pair.primary.name, pair.name) not in self._no_bulk
        return ask.target is not None and pair.scope.bulk and spoken

    async def copy_keys(self, pair: Pair, keys: Sequence[Key]) -> Copied:
        """Bring dirty keys to the primary's state: stored there if it has them, else deleted.

        Step 0: keys that are not dirty any more, and those that somebody else is copying, are left
        alone. Keys that one store cannot hold are nobody's business; their marks are cleared.

        Raises:
            RolesChanged, Unavailable, Ambiguous: as `copy_page`.
        """
        async with self._desk.open(pair.roles, pair.name, under_hold=True, keys=keys) as copy:
            await self._reach(Step.BEGUN)
            foreign = {key for key in keys if not pair.scope.holds(key)}
            flying = copy.in_flight.intersection(keys) - foreign
            todo = [key for key in keys if key in copy.claimed and key not in foreign]
            await pair.primary.landed(pair.name, deadline_s=self._deadline_s)
            read = await self._read(pair, todo)
            await self._reach(Step.READ)
            gone = [key for key in todo if key not in read.records and key not in read.broken]
            fitted, textless = await self._vectors.fit(pair.scope, list(read.records.values()))
            copy.require_claims()
            stored = await self._writer.store(
                pair, fitted, gone, op=WriteOp.UPSERT, written=copy.written
            )
            copy.answered = True
            stored.dead.update({**read.broken, **textless})
            await self._reach(Step.WRITTEN)
            resolved = await self._note_letters(pair, stored.dead, stored.touched)
            await copy.finish(touched=stored.touched | foreign, left_out=stored.left)
        await self._reach(Step.FINISHED)
        return Copied(
            collection=pair.name,
            rows=len(todo),
            bytes=stored.bytes,
            stored=len(stored.touched),
            deleted=stored.deleted,
            in_flight=len(flying),
            dead=len(stored.dead),
            resolved=resolved,
            left=stored.left,
        )

    async def _page(self, ask: PageAsk, path: Path) -> Copied:
        pair = ask.pair
        async with self._desk.open(pair.roles, pair.name, under_hold=False) as copy:
            await self._reach(Step.BEGUN)
            span = await self._write_span(copy, ask, path)
            copy.answered = True
            await self._reach(Step.WRITTEN)
            copied = outcome_of(ask.state, pair.name, span)
            touched = span.stored.touched | span.equal
            await self._note_letters(pair, span.stored.dead, touched)
            await copy.finish(
                touched=touched,
                left_out=copied.left | span.plan.in_flight,
                progress=copied.progress,
            )
        await self._reach(Step.FINISHED)
        return copied

    async def _note_letters(
        self, pair: Pair, dead: Mapping[Key, str], touched: Collection[Key]
    ) -> int:
        """Write dead letters, and close those of keys that were stored, before step 5.

        A crash in between leaves the key dirty, so repair comes by again and puts it right.
        """
        await self._letters.add(pair.name, dead)
        return await self._letters.resolve(pair.name, touched)

    async def _write_span(self, copy: OpenCopy, ask: PageAsk, path: Path) -> Span:
        """Steps 2 to 4 for as many rows as fit the page and the memory."""
        span = await self._insert_span(copy, ask, path)
        # After the page is closed: a worker never holds two connections of one store.
        equal = await self._equal(ask.pair, span.keys, span.plan.present)
        return replace(span, equal=equal)

    async def _insert_span(self, copy: OpenCopy, ask: PageAsk, path: Path) -> Span:
        pair, most = ask.pair, ask.limit * THERE_PER_ROW
        after, upto = remaining(ask.state).after, ask.state.keys.upto
        for _ in range(NARROWINGS_MAX):
            keys = KeyRange(after=after, upto=upto)
            async with pair.primary.page(
                pair.name, keys, limit=ask.limit, order=pair.order, deadline_s=self._deadline_s
            ) as page:
                ended = len(page.keys) < ask.limit
                span = keys if ended else KeyRange(after=after, upto=page.keys[-1])
                there = await self._there(pair, span, most + 1)
                if len(there) <= most:
                    await self._reach(Step.READ)
                    plan = plan_batch(pair.scope, page.keys, there, copy.in_flight)
                    return Span(
                        keys=span,
                        ended=ended,
                        rows=sum(1 for key in page.keys if key not in plan.foreign),
                        plan=plan,
                        stored=await self._insert(copy, ask, page, plan, path),
                    )
            upto = there[most - 1]
        raise Unavailable(
            f"Keys of {pair.name} on the {pair.secondary.name} store grow while they are read.",
            where=pair.secondary.name,
        )

    async def _there(self, pair: Pair, span: KeyRange, limit: int) -> Sequence[Key]:
        """Return the secondary's first keys of a span."""
        async with pair.secondary.page(
            pair.name, span, limit=limit, order=pair.order, deadline_s=self._deadline_s
        ) as page:
            return list(page.keys)

    async def _equal(self, pair: Pair, span: KeyRange, present: Sequence[Key]) -> frozenset[Key]:
        """Return those of the keys on both sides whose records are equal already."""
        if not present:
            return frozenset()
        here, there = await both(
            self._digests(pair.primary, pair, span), self._digests(pair.secondary, pair, span)
        )
        return equal_keys(here, there).intersection(present)

    async def _digests(self, store: Store, pair: Pair, span: KeyRange) -> list[KeyDigest]:
        return await store.key_digests(
            pair.name,
            span,
            fields=pair.scope.fields,
            order=pair.order,
            deadline_s=self._deadline_s,
            vectors=pair.scope.vector,
        )

    async def _insert(
        self, copy: OpenCopy, ask: PageAsk, page: Page, plan: BatchPlan, path: Path
    ) -> Stored:
        """Step 4 for the rows that the secondary lacks."""
        if not plan.fresh:
            return Stored()
        if path is Path.BULK and ask.target is not None:
            return await self._load(copy, ask.pair, page, plan, ask.target)
        dead: dict[Key, str] = {}
        if path is Path.ISOLATE or not ask.pair.scope.vector:
            read = await self._read(ask.pair, plan.fresh)  # without vectors nobody needs
            records, dead = list(read.records.values()), read.broken
        else:
            records = await page.records(plan.not_fresh)
        fitted, textless = await self._vectors.fit(ask.pair.scope, records)
        stored = await self._writer.store(
            ask.pair, fitted, (), op=WriteOp.INSERT, written=copy.written
        )
        stored.dead.update({**dead, **textless})
        stored.waiting.update(set(plan.fresh) - stored.touched - set(stored.dead))
        return stored

    async def _load(
        self, copy: OpenCopy, pair: Pair, page: Page, plan: BatchPlan, target: BulkTarget
    ) -> Stored:
        """Stream the rows from the primary's bulk format into the secondary's."""
        counter = Counter()
        async with aclosing(counter.pass_on(page.bulk(plan.not_fresh, target))) as chunks:
            copy.written.update(plan.fresh)
            try:
                loaded = await pair.secondary.bulk_load(
                    pair.name, target, chunks, deadline_s=self._deadline_s
                )
            except (Rejected, Unavailable, Corrupt):
                copy.written.clear()  # nothing was loaded
                raise
        if loaded != len(plan.fresh):
            raise Corrupt(
                f"{loaded} rows of {pair.name} were loaded where {len(plan.fresh)} were read."
            )
        return Stored(touched=set(plan.fresh), bytes=counter.bytes)

    async def _read(self, pair: Pair, keys: Sequence[Key]) -> ReadBack:
        return await read_back(
            pair.primary,
            pair.name,
            keys,
            vectors=pair.scope.vector,
            deadline_s=self._deadline_s,
        )
