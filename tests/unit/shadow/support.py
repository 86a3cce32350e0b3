"""Two small stores with faults that a test can turn on, a ledger, and questions to ask them."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from proxy.clock import SystemClock
from proxy.dataplane import Reading
from proxy.embedding.queries import QueryEmbedder
from proxy.errors import CrossfadeError
from proxy.layouts import Column, ColumnKind, Layout, StoreSchema
from proxy.ledger.types import CopySnapshot, Phase, Routing
from proxy.model import (
    CollectionSpec,
    FieldSpec,
    FieldType,
    JsonValue,
    Key,
    Metric,
    Record,
    Value,
    VectorSpec,
    Write,
    WriteOp,
)
from proxy.query import Filter, ListQuery, SearchMode, SearchQuery, SearchResult
from proxy.stores.memory import MemoryStore
from shadow.answers import Answer, Policy, Question
from shadow.compare import Comparison
from shadow.evidence import Investigator, Outcome
from shadow.rankers import Rankers
from shadow.semantics import SemanticRule, any_of, fields_held_once, nothing_is_known

SPEC = CollectionSpec(
    name="documents",
    key=("kind", "path"),
    fields=(
        FieldSpec(name="kind", type=FieldType.TEXT, required=True),
        FieldSpec(name="path", type=FieldType.TEXT, required=True),
        FieldSpec(name="content", type=FieldType.TEXT),
        FieldSpec(name="size", type=FieldType.INT),
        FieldSpec(name="extra", type=FieldType.JSON),
    ),
    vector=VectorSpec(dim=2, metric=Metric.COSINE),
)
QUERY_VECTOR = np.array([1.0, 0.0], dtype="<f4").tobytes()
ROUTING = Routing(epoch=3, phase=Phase.SHADOW, primary="old")


def schema(side: str, metric: Metric = Metric.COSINE) -> StoreSchema:
    """Return one side's schema: "old" holds one kind of document and no `extra`."""
    columns = [Column(name=name, field=name) for name in ("path", "content", "size")]
    columns.append(Column(name="embedding", kind=ColumnKind.VECTOR))
    constants: dict[str, Value] = {"kind": "rust"}
    if side == "new":
        columns += [Column(name=name, field=name) for name in ("kind", "extra")]
        constants = {}
    spec = CollectionSpec(
        name=SPEC.name, key=SPEC.key, fields=SPEC.fields, vector=VectorSpec(dim=2, metric=metric)
    )
    layout = Layout(
        collection="documents", table="docs", columns=tuple(columns), constants=constants
    )
    return StoreSchema(collections={"documents": spec}, layouts={"documents": layout})


def vector(cosine: float) -> bytes:
    """Return a packed vector whose cosine similarity to QUERY_VECTOR is `cosine`."""
    return np.array([cosine, (1 - cosine**2) ** 0.5], dtype="<f4").tobytes()


def key(name: str, kind: str = "rust") -> Key:
    """Return the key of a document."""
    return (kind, name)


class FaultyStore(MemoryStore):
    """A store in memory whose searches can miss records, fail, hang or lie about scores."""

    def __init__(self, name: str, metric: Metric = Metric.COSINE) -> None:
        super().__init__(name, schema(name, metric), SystemClock())
        self.unseen: set[Key] = set()
        self.error: Exception | None = None
        self.score_shift = 0.0
        self.hang: asyncio.Event | None = None
        self.asked = asyncio.Event()
        self.searches = 0
        self.after_search: Callable[[], None] | None = None

    async def put(self, name: str, cosine: float, content: str = "", kind: str = "rust") -> None:
        """Store a document."""
        await self.apply(
            [
                Write(
                    op=WriteOp.UPSERT,
                    collection="documents",
                    key=key(name, kind),
                    fields={"content": content or f"about {name}", "size": 1, "extra": None},
                    vector=vector(cosine),
                )
            ],
            atomic=False,
            deadline_s=1,
        )

    async def drop(self, name: str) -> None:
        """Delete a document."""
        write = Write(op=WriteOp.DELETE, collection="documents", key=key(name))
        await self.apply([write], atomic=False, deadline_s=1)

    async def search(self, query: SearchQuery, *, deadline_s: float) -> SearchResult:
        await self._trouble()
        wide = SearchQuery(
            collection=query.collection,
            vector=query.vector,
            limit=1000,
            filter=query.filter,
            projection=query.projection,
        )
        found = await super().search(wide, deadline_s=deadline_s)
        hits = tuple(hit for hit in found.hits if hit.record.key not in self.unseen)
        shifted = tuple(
            type(hit)(
                record=hit.record,
                distance=hit.distance,
                similarity=hit.similarity + self.score_shift,
            )
            for hit in hits[: query.limit]
        )
        self._searched()
        return SearchResult(hits=shifted, metric=found.metric)

    async def list_records(self, query: ListQuery, *, deadline_s: float) -> list[Record]:
        await self._trouble()
        records = await super().list_records(query, deadline_s=deadline_s)
        self._searched()
        return [record for record in records if record.key not in self.unseen]

    async def _trouble(self) -> None:
        self.searches += 1
        self.asked.set()
        if self.hang is not None:
            await self.hang.wait()
        if self.error is not None:
            raise self.error

    def _searched(self) -> None:
        after, self.after_search = self.after_search, None
        if after is not None:
            after()


class FakeLedger:
    """Knows which keys are in flight or were written, and keeps the statistics it is given."""

    def __init__(self) -> None:
        self.in_flight: set[Key] = set()
        self.written: list[Key] = []
        self.watermarks = 0
        self.error: CrossfadeError | None = None
        self.fences = 0
        self.after_fence: Callable[[int], Awaitable[None]] | None = None
        self.put = asyncio.Event()
        self.stored: dict[tuple[str, str], Mapping[str, JsonValue]] = {}

    @contextmanager
    def writing(self, key: Key) -> Iterator[None]:
        """Append an intent, and settle it at the end."""
        self.in_flight.add(key)
        self.written.append(key)
        try:
            yield
        finally:
            self.in_flight.discard(key)

    async def fenced(self, collection: str, keys: Collection[Key]) -> frozenset[Key]:
        self.fences += 1
        if self.error is not None:
            raise self.error
        fenced = frozenset(keys) & self.in_flight
        if self.after_fence is not None:
            await self.after_fence(self.fences)
        return fenced

    async def begin_copy(self, collection: str, *, copying: bool = True) -> CopySnapshot:
        assert not copying
        self.watermarks += 1
        return CopySnapshot(
            snapshot_id=len(self.written),
            collection=collection,
            in_flight=frozenset(self.in_flight),
        )

    async def settled_since(self, snapshot: CopySnapshot, keys: Collection[Key]) -> frozenset[Key]:
        newer = set(self.written[snapshot.snapshot_id :]) | self.in_flight
        return frozenset(keys) & newer

    async def abandon_copy(self, snapshot: CopySnapshot) -> None:
        self.watermarks -= 1

    async def put_shadow(
        self, replica_id: str, window: str, stats: Mapping[str, JsonValue]
    ) -> None:
        if self.error is not None:
            raise self.error
        self.stored[replica_id, window] = stats
        self.put.set()


class StillClock:
    """A clock that stands still and wakes a sleeper only when the test says so."""

    def __init__(self) -> None:
        self.at = dt.datetime(2026, 1, 31, 14, 5, tzinfo=dt.UTC)
        self.tick = asyncio.Event()

    def monotonic_s(self) -> float:
        return self.at.timestamp()

    def now(self) -> dt.datetime:
        return self.at

    async def sleep(self, delay_s: float) -> None:
        await self.tick.wait()
        self.tick.clear()


class Bench:
    """Two stores with the same documents, a ledger, and an investigator."""

    def __init__(self, metric: Metric = Metric.COSINE) -> None:
        self.old, self.new = FaultyStore("old"), FaultyStore("new", metric)
        self.ledger = FakeLedger()
        self.stores: dict[str, FaultyStore] = {"old": self.old, "new": self.new}
        self.engines: dict[str, str] = {}
        self.queries = QueryEmbedder()

    async def fill(self, **cosines: float) -> Bench:
        """Store documents by name and cosine similarity on both sides."""
        for name, cosine in cosines.items():
            await self.old.put(name, cosine)
            await self.new.put(name, cosine)
        return self

    async def served(self, query: SearchQuery | ListQuery, store: str = "old") -> Reading:
        """Return the reading of a query that a client was served."""
        chosen = self.stores[store]
        found: SearchResult | None = None
        records: Sequence[Record]
        if isinstance(query, SearchQuery):
            found = await chosen.search(query, deadline_s=1)
            records = [hit.record for hit in found.hits]
        else:
            records = await chosen.list_records(query, deadline_s=1)
        return Reading(
            request_id="request-1",
            query=query,
            control_store=store,
            candidate_store="new" if store == "old" else "old",
            search=found,
            records=records,
            latency_ms=2.0,
        )

    async def judge(
        self, reading: Reading, semantic: SemanticRule = nothing_is_known, deadline_s: float = 5.0
    ) -> Outcome:
        """Compare a reading with the candidate."""
        rankers = Rankers.of(self.stores, self.engines)
        held_once = fields_held_once(self.old.schema, self.new.schema)
        investigator = Investigator(
            stores=self.stores,
            fence=self.ledger,
            clock=SystemClock(),
            policy=Policy(),
            semantic=any_of(semantic, rankers.differ, held_once),
            deadline_s=deadline_s,
            queries=self.queries,
        )
        question = Question.of(
            reading.query,
            self.old.schema,
            self.new.schema,
            by_rank=rankers.by_rank(reading.query),
        )
        control = answer_of(reading, question)
        return await investigator.investigate(question, control, reading.candidate_store)

    async def compared(
        self, query: SearchQuery | ListQuery, semantic: SemanticRule = nothing_is_known
    ) -> Comparison:
        """Serve a query from the old store and compare it with the new one."""
        outcome = await self.judge(await self.served(query), semantic)
        assert isinstance(outcome, Comparison)
        return outcome


def answer_of(reading: Reading, question: Question) -> Answer:
    """Return the control's answer of a reading."""
    if reading.search is not None:
        return Answer.of_search(reading.control_store, reading.search, question, latency_ms=2.0)
    return Answer.of_list(
        reading.control_store, reading.records, limit=reading.query.limit, latency_ms=2.0
    )


def nearest(limit: int = 3, filter: Filter | None = None) -> SearchQuery:
    """Return a search near QUERY_VECTOR."""
    return SearchQuery(
        collection="documents",
        mode=SearchMode.VECTOR,
        vector=QUERY_VECTOR,
        limit=limit,
        filter=filter,
    )


def causes(comparison: Comparison) -> dict[str, str]:
    """Return the cause found for each differing document, by its name."""
    return {str(finding.key[1]): finding.cause.value for finding in comparison.findings}
