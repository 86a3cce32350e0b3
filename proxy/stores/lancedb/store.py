"""The LanceDB store: the Store Protocol on top of the open database and its writers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from proxy.clock import Clock
from proxy.config.settings import LanceSettings, StoreSettings
from proxy.errors import Ambiguous, Corrupt, Reason, Rejected, StoreProblem, Unavailable
from proxy.layouts import StoreSchema
from proxy.model import Key, Record, Write, WriteResult
from proxy.query import (
    CountQuery,
    Group,
    KeyRange,
    ListQuery,
    Scoring,
    SearchMode,
    SearchQuery,
    SearchResult,
)
from proxy.stores.arrow import DIALECT, ArrowPlan
from proxy.stores.base import BulkTarget, Capabilities, IndexState, KeyDigest, RangeDigest
from proxy.stores.fusion import hybrid
from proxy.stores.lancedb import bulk, indexes, ranges, reads
from proxy.stores.lancedb.database import Database, Place
from proxy.stores.lancedb.digests import Digester
from proxy.stores.lancedb.disk import Disk
from proxy.stores.lancedb.errors import reading
from proxy.stores.lancedb.fitness import record_misfit
from proxy.stores.lancedb.keyword import search_words
from proxy.stores.lancedb.lookup import rows_by_key, selection_for
from proxy.stores.lancedb.search import search as search_near
from proxy.stores.lancedb.sequences import Sequences
from proxy.stores.lancedb.table import OpenTable
from proxy.stores.lancedb.writer import Writer, families
from proxy.stores.modes import modes_of_schema, require_keyword_search

_ADMIN_DEADLINE_S: Final = 30.0
_BULK_ROWS: Final = 10_000
_BUILD_DEADLINE_S: Final = 3600.0
_LANDED_S_MAX: Final = 10.0
"""So long a read of the reconciler waits for a write that was given up; then it is tried again."""


def of_several(
    store: str, answers: Sequence[list[WriteResult] | BaseException]
) -> BaseException | None:
    """Return what to raise if a writer of several failed: what is certain of all their writes.

    That nothing was applied is said only if no writer applied or began anything.
    """
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in failed:
        if not isinstance(error, Unavailable | Rejected | Corrupt):
            return error  # it may still land
    for error in failed:
        if isinstance(error, Corrupt):
            return error
    if failed and len(failed) < len(answers):
        return Ambiguous(f"A part of the batch was applied: {failed[0]}", where=store)
    return failed[0] if failed else None


class LanceStore:
    """One side of a migration, in LanceDB.

    Args:
        settings: where it lies and how it is written (`proxy.config.settings`).
        read_only: for processes beside the one that writes: no lock, no writes, no new tables.
        look_ahead: read only, and tables that are not made yet count as empty.
    """

    def __init__(
        self,
        name: str,
        settings: StoreSettings,
        schema: StoreSchema,
        clock: Clock,
        *,
        read_only: bool = False,
        look_ahead: bool = False,
    ) -> None:
        self.name = name
        self.schema = schema
        self._settings: LanceSettings = settings.lance
        self._clock = clock
        place = Place(
            uri=settings.uri,
            namespace=settings.namespace,
            settings=settings.lance,
            read_only=read_only or look_ahead,
            look_ahead=look_ahead,
        )
        self.database = Database(name, place, schema)
        self.capabilities = Capabilities(
            transactions=False,
            search_modes=modes_of_schema(schema),
            single_writer=True,  # on an object store too, where no lock keeps others out
            keyword_scoring=Scoring.BM25,
            bulk_rows=_BULK_ROWS,
        )
        self.writers: dict[str, Writer] = {}
        self._sequences = Sequences(name, self.database)

    async def open(self) -> None:
        """Take the folder's lock, connect, make missing tables, start the writers."""
        await self.database.open()
        if self.database.place.read_only or self.writers:
            return
        path = self.database.folder.path
        disk = Disk(path) if path is not None and self._settings.sync else None
        for family in families(self.database.tables):
            writer = Writer(self.name, family, self._settings, self._clock, disk)
            writer.start()
            self.writers.update(dict.fromkeys(family, writer))

    async def close(self) -> None:
        """Write what waits, then release everything; safe to call twice."""
        writers, self.writers = set(self.writers.values()), {}
        await asyncio.gather(*(writer.close() for writer in writers))
        self.database.close()

    async def ping(self, *, deadline_s: float) -> None:
        """Return if the folder answers."""
        connection = self.database.connected()
        async with reading(self.name, "ping", deadline_s):
            await connection.list_tables(limit=1)

    async def check(self) -> list[StoreProblem]:
        """Compare the layouts with what LanceDB can do, and with the tables there."""
        return await self.database.check()

    def stats(self) -> Mapping[str, float]:
        """Return how much waits to be written, and what upkeep has not caught up with."""
        writers = set(self.writers.values())
        upkeep = [item for writer in writers for item in writer.upkeep.values()]
        return {
            "queued_rows": float(sum(writer.waiting_rows for writer in writers)),
            "unoptimized_commits": float(sum(item.commits for item in upkeep)),
            "optimize_failures": float(sum(item.failures for item in upkeep)),
        }

    def _writer(self, collection: str) -> Writer:
        """Return the writer of a collection."""
        self.database.table(collection)
        writer = self.writers.get(collection)
        if writer is None and self.database.place.read_only:
            raise Rejected(
                f"The {self.name} store was opened to be read only.",
                reason=Reason.FAILED_PRECONDITION,
            )
        if writer is None:
            raise Corrupt(
                f"The table of {collection} was not there when the {self.name} store was opened.",
                hint="Start the proxy anew.",
            )
        return writer

    async def apply(
        self, writes: Sequence[Write], *, atomic: bool, deadline_s: float
    ) -> list[WriteResult]:
        """Apply writes in order; see `Store.apply`."""
        if atomic and len(writes) > 1:
            raise Rejected(
                f"The {self.name} store (LanceDB) has no transactions.",
                reason=Reason.UNIMPLEMENTED,
                hint="Send the batch as one that is not atomic.",
            )
        parts: dict[Writer, list[int]] = {}
        for at, write in enumerate(writes):
            parts.setdefault(self._writer(write.collection), []).append(at)
        asked = [
            writer.apply([writes[at] for at in places], deadline_s=deadline_s)
            for writer, places in parts.items()
        ]
        if len(asked) == 1:
            return await asked[0]
        found: dict[int, WriteResult] = {}
        answers = await asyncio.gather(*asked, return_exceptions=True)
        error = of_several(self.name, answers)
        if error is not None:
            raise error
        for places, answer in zip(parts.values(), answers, strict=True):
            assert not isinstance(answer, BaseException)  # noqa: S101  # it was raised just above
            found.update(zip(places, answer, strict=True))
        return [found[at] for at in range(len(writes))]

    # Reads.

    async def get(
        self, collection: str, keys: Sequence[Key], *, vectors: bool, deadline_s: float
    ) -> dict[Key, Record]:
        """Return those of the records that exist."""
        opened = self.database.table(collection)
        selection = selection_for(opened.table, vectors=vectors)
        async with reading(self.name, collection, deadline_s):
            found = await rows_by_key(opened, keys, selection, single=True)
        return {key: item.record for key, item in found.items()}

    async def list_records(self, query: ListQuery, *, deadline_s: float) -> list[Record]:
        """Return at most `query.limit` records in the query's order."""
        opened = self.database.table(query.collection)
        async with reading(self.name, query.collection, deadline_s):
            return await reads.list_records(opened.handle, opened.table, query)

    async def list_keys(self, query: ListQuery, *, deadline_s: float) -> list[Key]:
        """Return the keys that `list_records` would."""
        opened = self.database.table(query.collection)
        async with reading(self.name, query.collection, deadline_s):
            return await reads.list_keys(opened.handle, opened.table, query)

    async def count(self, query: CountQuery, *, deadline_s: float) -> list[Group]:
        """Count, by group if asked."""
        opened = self.database.table(query.collection)
        async with reading(self.name, query.collection, deadline_s):
            return await reads.count(opened.handle, opened.table, query)

    async def search(self, query: SearchQuery, *, deadline_s: float) -> SearchResult:
        """Return the nearest records, those that match the words, or both fused."""
        opened = self.database.table(query.collection)
        async with reading(self.name, query.collection, deadline_s):
            if query.mode is SearchMode.HYBRID:
                require_keyword_search(query, opened.table.spec, self.name)
                return await hybrid(query, partial(self._leg, opened))
            return await self._leg(opened, query)

    async def _leg(self, opened: OpenTable, query: SearchQuery) -> SearchResult:
        if query.mode is SearchMode.KEYWORD:
            return await search_words(opened, query, self.name)
        index = opened.table.layout.index
        has_index = index is not None and await indexes.find(opened, index.name) is not None
        return await search_near(opened.handle, opened.table, query, self.name, has_index=has_index)

    # Sequences.

    async def next_ids(self, collection: str, field: str, count: int) -> list[int]:
        """Allocate numbers."""
        return await self._sequences.allocate(collection, field, count)

    async def align_sequences(self, floors: Mapping[tuple[str, str], int] | None = None) -> None:
        """See `Store.align_sequences`."""
        await self._sequences.align(floors)

    async def rest(self, *, for_s: float, deadline_s: float) -> None:
        """Put off every optimisation; wait for those under way."""
        writers = {id(writer): writer for writer in self.writers.values()}.values()
        await asyncio.gather(
            *(writer.rest(for_s=for_s, deadline_s=deadline_s) for writer in writers)
        )

    # What the reconciler needs.

    async def landed(self, collection: str, *, deadline_s: float) -> None:
        """Wait for the group under way if a write in it was given up: it may still be committed."""
        await self._landed(collection, deadline_s)

    async def _landed(self, collection: str, deadline_s: float) -> float:
        """As `landed`, and look for what bypassed the proxy; return what is left of the time."""
        writer, began_s = self.writers.get(collection), self._clock.monotonic_s()
        if writer is not None:
            await writer.landed(deadline_s=min(deadline_s, _LANDED_S_MAX))
            async with reading(self.name, collection, deadline_s):
                await self.database.table(collection).handle.checkout_latest()
        return max(0.0, deadline_s - (self._clock.monotonic_s() - began_s))

    async def key_order(self, collection: str) -> str:
        """LanceDB orders texts by their bytes."""
        self.database.table(collection)
        return ranges.ORDER

    def _ranged(self, collection: str, order: str) -> OpenTable:
        opened = self.database.table(collection)
        ranges.check_order(opened.table, order, self.name)
        return opened

    async def split(self, collection: str, *, rows_per_range: int, order: str) -> list[KeyRange]:
        """Cut the whole collection into adjoining ranges."""
        opened = self._ranged(collection, order)
        async with reading(self.name, collection, _BUILD_DEADLINE_S):
            return await ranges.split(opened.handle, opened.table, rows_per_range)

    @asynccontextmanager
    async def page(
        self, collection: str, keys: KeyRange, *, limit: int, order: str, deadline_s: float
    ) -> AsyncIterator[ranges.LancePage]:
        """Read the first `limit` rows of a range, consistently."""
        opened = self._ranged(collection, order)
        deadline_s = await self._landed(collection, deadline_s)
        async with self.database.moment(collection, deadline_s) as handle:
            moment = ranges.Moment(
                store=self.name,
                handle=handle,
                table=opened.table,
                span=keys,
                deadline_s=deadline_s,
            )
            yield await ranges.open_page(self.name, moment, limit)

    async def range_keys(
        self, collection: str, keys: KeyRange, *, order: str, deadline_s: float
    ) -> list[Key]:
        """Return every key of the range, ascending."""
        opened = self._ranged(collection, order)
        deadline_s = await self._landed(collection, deadline_s)
        async with reading(self.name, collection, deadline_s):
            return await ranges.range_keys(opened.handle, opened.table, keys)

    async def digest(
        self,
        collection: str,
        keys: KeyRange,
        *,
        fields: Sequence[str],
        order: str,
        deadline_s: float,
        vectors: bool = True,
    ) -> RangeDigest:
        """Digest the range over key, `fields` and vector."""
        opened = self._ranged(collection, order)
        digester = Digester(opened.table, fields, vectors=vectors)
        deadline_s = await self._landed(collection, deadline_s)
        async with reading(self.name, collection, deadline_s):
            return await ranges.digest(opened.handle, opened.table, keys, digester)

    async def key_digests(
        self,
        collection: str,
        keys: KeyRange,
        *,
        fields: Sequence[str],
        order: str,
        deadline_s: float,
        vectors: bool = True,
    ) -> list[KeyDigest]:
        """Digest each record of the range, ascending by key."""
        opened = self._ranged(collection, order)
        digester = Digester(opened.table, fields, vectors=vectors)
        deadline_s = await self._landed(collection, deadline_s)
        async with reading(self.name, collection, deadline_s):
            return await ranges.key_digests(opened.handle, opened.table, keys, digester)

    async def bulk_target(self, collection: str, fields: Sequence[str]) -> BulkTarget | None:
        """Ask for Arrow with the fields that have a place here."""
        table = self.database.table(collection).table
        held = table.layout.stored_fields()
        plan = ArrowPlan(
            fields=tuple(name for name in fields if name in held and name not in table.spec.key),
            vector=bool(table.vector),
        )
        return BulkTarget(dialect=DIALECT, plan=plan)

    async def bulk_load(
        self,
        collection: str,
        target: BulkTarget,
        chunks: AsyncIterator[bytes],
        *,
        deadline_s: float,
    ) -> int:
        """Load new rows in one commit; return how many."""
        plan = target.plan
        if target.dialect != DIALECT or not isinstance(plan, ArrowPlan):
            raise Rejected(
                f"The {self.name} store cannot load the bulk format {target.dialect}.",
                reason=Reason.UNIMPLEMENTED,
            )
        writer, opened = self._writer(collection), self.database.table(collection)
        taken = [chunk async for chunk in chunks]
        if not taken:
            return 0
        now = self._clock.now()
        async with reading(self.name, collection, deadline_s):
            load = await asyncio.to_thread(bulk.prepare_load, opened.table, plan, taken, now)
        loaded: int = await writer.alone(
            partial(bulk.add, opened, load, writer.upkeep[collection]), deadline_s=deadline_s
        )
        return loaded

    async def unconvertible(self, record: Record) -> str:
        """Say why this store could not hold the record."""
        table = self.database.table(record.collection).table
        return record_misfit(table, record, self.name)

    async def index_states(self) -> list[IndexState]:
        """Return the state of each nearest-neighbour index the layouts ask for."""
        states = []
        for collection, opened in self.database.tables.items():
            index = opened.table.layout.index
            if index is not None:
                async with reading(self.name, collection, _ADMIN_DEADLINE_S):
                    states.append(await indexes.vector_state(opened, index))
        return states

    async def build_index(self, collection: str) -> None:
        """Build the collection's indexes where they are missing; writes wait meanwhile."""
        writer, opened = self._writer(collection), self.database.table(collection)
        work = partial(indexes.build, opened, opened.table.layout.index)
        await writer.alone(work, deadline_s=_BUILD_DEADLINE_S, lands=False)

    async def row_estimate(self, collection: str) -> int:
        """Return how many rows the collection has."""
        opened = self.database.table(collection)
        async with reading(self.name, collection, _ADMIN_DEADLINE_S):
            count: int = await opened.handle.count_rows()
        return count
