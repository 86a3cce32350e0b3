"""A data plane and a control plane of dictionaries, and a schema with every type, for the wire."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from proxy.controlplane import Change, Precondition, Status, StoreHealth
from proxy.dataplane import (
    BatchItem,
    Counted,
    Found,
    Got,
    Listed,
    RequestContext,
    Served,
    WriteAck,
)
from proxy.errors import Reason, Rejected
from proxy.ledger.types import (
    DeadLetter,
    DirtyKey,
    Event,
    Job,
    JobKind,
    JobState,
    Phase,
    Replica,
    Routing,
)
from proxy.model import (
    CollectionSpec,
    DefaultKind,
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
from proxy.query import (
    And,
    Compare,
    CompareOp,
    CountQuery,
    Filter,
    Group,
    Hit,
    ListQuery,
    Projection,
    Scoring,
    SearchMode,
    SearchQuery,
    SearchResult,
)
from proxy.stores.base import IndexState

DIM = 4
NOON = dt.datetime(2025, 5, 4, 12, 0, 0, 123456, tzinfo=dt.UTC)
PRIMARY = Served(store="old", role="primary")

DOCUMENTS = CollectionSpec(
    name="documents",
    key=("source_name", "doc_path"),
    fields=(
        FieldSpec(name="source_name", type=FieldType.TEXT, required=True, length_max=255),
        FieldSpec(name="doc_path", type=FieldType.TEXT, required=True),
        FieldSpec(name="content", type=FieldType.TEXT, required=True),
        FieldSpec(name="kind", type=FieldType.TEXT, choices=("guide", "api")),
        FieldSpec(name="token_count", type=FieldType.INT),
        FieldSpec(name="score", type=FieldType.FLOAT),
        FieldSpec(name="active", type=FieldType.BOOL),
        FieldSpec(name="tags", type=FieldType.TEXT_LIST),
        FieldSpec(name="metadata", type=FieldType.JSON),
        FieldSpec(name="created_at", type=FieldType.TIMESTAMP, default=DefaultKind.NOW, keep=True),
        FieldSpec(name="updated_at", type=FieldType.TIMESTAMP, generated=True),
    ),
    vector=VectorSpec(dim=DIM),
)
JOBS = CollectionSpec(
    name="jobs",
    key=("id",),
    fields=(
        FieldSpec(name="id", type=FieldType.INT, required=True, default=DefaultKind.SEQUENCE),
        FieldSpec(name="status", type=FieldType.TEXT, required=True),
    ),
)
COLLECTIONS: Mapping[str, CollectionSpec] = {"documents": DOCUMENTS, "jobs": JOBS}


def packed(*values: float) -> bytes:
    """Return a packed vector."""
    return np.array(values, dtype="<f4").tobytes()


@dataclass
class FakeDataPlane:
    """Keeps records in a dictionary and what it was told in `contexts`.

    Attributes:
        fail: raised by the next call.
        gate: when set to an event, calls wait for it; `entered` is set once one does.
        pending: acknowledgements say that the secondary is pending.
        scoring: what hits are said to be ranked by.
    """

    records: dict[tuple[str, Key], Record] = field(default_factory=dict)
    contexts: list[RequestContext] = field(default_factory=list)
    seen: list[object] = field(default_factory=list)
    fail: Exception | None = None
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    pending: bool = False
    scoring: Scoring = Scoring.SIMILARITY
    answers: dict[str, WriteAck] = field(default_factory=dict)

    async def _enter(self, context: RequestContext, asked: object) -> None:
        self.contexts.append(context)
        self.seen.append(asked)
        if self.gate is not None:
            self.entered.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error

    async def write(self, write: Write, context: RequestContext) -> WriteAck:
        await self._enter(context, write)
        if context.idempotency_key in self.answers:
            return replace(self.answers[context.idempotency_key], replayed=True)
        ack = self._apply(write)
        if context.idempotency_key:
            self.answers[context.idempotency_key] = ack
        return ack

    def _apply(self, write: Write) -> WriteAck:
        key = write.key or (len(self.records) + 1,)
        place = (write.collection, key)
        before = self.records.get(place)
        if write.op is WriteOp.DELETE:
            self.records.pop(place, None)
            return WriteAck(key=key, existed=before is not None, secondary_pending=self.pending)
        if write.op is WriteOp.INSERT and before is not None:
            raise Rejected(f"{key} exists.", reason=Reason.ALREADY_EXISTS)
        if write.op is WriteOp.PATCH:
            if before is None:
                raise Rejected(f"{key} does not exist.", reason=Reason.NOT_FOUND)
            vector = write.vector if write.set_vector else before.vector
            after = replace(before, fields={**before.fields, **write.fields}, vector=vector)
            self.records[place] = after
            return WriteAck(key=key, record=after, secondary_pending=self.pending)
        self.records[place] = Record(
            collection=write.collection, key=key, fields=dict(write.fields), vector=write.vector
        )
        return WriteAck(key=key, secondary_pending=self.pending)

    async def batch(
        self, writes: Sequence[Write], *, atomic: bool, context: RequestContext
    ) -> list[BatchItem]:
        await self._enter(context, list(writes))
        items = []
        for write in writes:
            try:
                items.append(BatchItem(ack=self._apply(write)))
            except Rejected as error:
                if atomic:
                    raise
                items.append(BatchItem(error=error))
        return items

    async def delete_where(
        self, collection: str, filter: Filter, *, context: RequestContext
    ) -> int:
        await self._enter(context, filter)
        keys = [record.key for record in self._of(collection, filter)]
        for key in keys:
            del self.records[collection, key]
        return len(keys)

    def _of(self, collection: str, tree: Filter | None) -> list[Record]:
        found = [
            record
            for (name, _), record in self.records.items()
            if name == collection and _matches(tree, record)
        ]
        return sorted(found, key=lambda record: record.key)

    async def get(
        self, collection: str, keys: Sequence[Key], projection: Projection, context: RequestContext
    ) -> Got:
        await self._enter(context, list(keys))
        records = [self.records.get((collection, key)) for key in keys]
        return Got(records=[_project(record, projection) for record in records], served=PRIMARY)

    async def list_records(self, query: ListQuery, context: RequestContext) -> Listed:
        await self._enter(context, query)
        found = self._of(query.collection, query.filter)
        if query.after is not None:
            key = query.after[len(query.order) :]
            found = [record for record in found if record.key > key]
        page = found[query.offset : query.offset + query.limit]
        after = None
        if len(found) > query.offset + query.limit:
            values: list[Value] = [page[-1].fields.get(term.field) for term in query.order]
            after = (*values, *page[-1].key)
        records = [one for one in (_project(r, query.projection) for r in page) if one]
        return Listed(records=records, next_after=after, served=PRIMARY)

    async def count(self, query: CountQuery, context: RequestContext) -> Counted:
        await self._enter(context, query)
        found = self._of(query.collection, query.filter)
        groups: dict[Value, list[Record]] = {} if query.group_by else {None: found}
        for record in found if query.group_by else ():
            groups.setdefault(record.fields.get(query.group_by or ""), []).append(record)
        counted = [
            Group(value=value, count=len(records), sum=_sum(records, query.sum_field))
            for value, records in groups.items()
        ]
        return Counted(groups=counted, served=PRIMARY)

    async def search(self, query: SearchQuery, context: RequestContext) -> Found:
        await self._enter(context, query)
        if query.mode is not SearchMode.VECTOR or query.vector is None:
            raise Rejected(
                f"The old store has no {query.mode.value} search.", reason=Reason.UNIMPLEMENTED
            )
        wanted = np.frombuffer(query.vector, dtype="<f4")
        hits = []
        for record in self._of(query.collection, query.filter):
            if record.vector is not None:
                distance = 1.0 - float(np.frombuffer(record.vector, dtype="<f4") @ wanted)
                shown = _project(record, query.projection)
                assert shown is not None
                hits.append(Hit(record=shown, distance=distance, similarity=1.0 - distance))
        hits.sort(key=lambda hit: hit.distance)
        result = SearchResult(
            hits=tuple(hits[: query.limit]),
            metric=Metric.COSINE,
            indexed=True,
            scoring=self.scoring,
        )
        return Found(result=result, served=Served(store="new", role="secondary", reason="routed"))


def _matches(tree: Filter | None, record: Record) -> bool:
    if tree is None:
        return True
    if isinstance(tree, And):
        return all(_matches(part, record) for part in tree.parts)
    if isinstance(tree, Compare) and tree.op is CompareOp.EQ:
        named = {**record.fields, **dict(zip(DOCUMENTS.key, record.key, strict=False))}
        return named.get(tree.field) == tree.value
    raise NotImplementedError(type(tree).__name__)


def _project(record: Record | None, projection: Projection) -> Record | None:
    if record is None:
        return None
    wanted = projection.fields
    fields = {n: v for n, v in record.fields.items() if wanted is None or n in wanted}
    return replace(record, fields=fields, vector=record.vector if projection.vector else None)


def _sum(records: Sequence[Record], name: str | None) -> float:
    values = [record.fields.get(name) for record in records] if name else []
    return float(sum(value for value in values if isinstance(value, int | float)))


ROUTING = Routing(epoch=3, phase=Phase.RAMP, primary="old", percent=25.0)
JOB = Job(
    job_id=7,
    kind=JobKind.VERIFY,
    state=JobState.RUNNING,
    wanted=JobState.REQUESTED,
    epoch=3,
    params={"collections": ["documents"]},
    summary={"rows": 10, "rate": 1.5},
    owner="runner-1",
    owner_alive=True,
    created_at=NOON,
    started_at=NOON,
)


@dataclass
class FakeControlPlane:
    """Answers with constants and keeps what it was asked; `states` are what a watched job does.

    Past `hang_after` questions a look at a job is not answered; `given_up` counts those looks that
    nobody waits for any more.
    """

    asked: list[tuple[object, ...]] = field(default_factory=list)
    states: list[JobState] = field(default_factory=list)
    fail: Exception | None = None
    hang_after: int | None = None
    given_up: int = 0

    def _ask(self, *what: object) -> None:
        self.asked.append(what)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error

    async def status(self) -> Status:
        self._ask("status")
        return Status(
            migration="docs",
            routing=ROUTING,
            stores=[
                StoreHealth(
                    name="old", role="primary", engine="memory", healthy=True, breaker="closed"
                )
            ],
            replicas=[
                Replica(
                    replica_id="r1", acked_epoch=3, alive=True, lease_left_s=7.5, started_at=NOON
                )
            ],
            unsettled=2,
            dirty={"documents": 4},
            jobs=[JOB],
            indexes=[IndexState(collection="documents", name="i", exists=True, ready=False)],
            dead_letters=1,
            flags={"full_verify_needed": True},
            next_steps=["crossfade verify"],
        )

    async def change_phase(
        self, target: Phase, *, dry_run: bool, force: bool, actor: str, reason: str
    ) -> Change:
        self._ask("change_phase", target, dry_run, force, actor, reason)
        failed = Precondition(name="dirty", passed=False, detail="4 keys", remedy="repair")
        return Change(
            applied=force,
            routing=ROUTING,
            preconditions=[failed],
            message="Refused.",
            stall_ms=12.5 if force else 0.0,
        )

    async def set_traffic(
        self, percent: float, *, dry_run: bool, force: bool, actor: str, reason: str
    ) -> Change:
        self._ask("set_traffic", percent, dry_run, force, actor, reason)
        routing = replace(ROUTING, percent=percent)
        return Change(applied=True, routing=routing, preconditions=[], message="Set.")

    async def start_job(self, kind: JobKind, params: Mapping[str, JsonValue], *, actor: str) -> Job:
        self._ask("start_job", kind, params, actor)
        return replace(JOB, kind=kind, params=params, state=JobState.REQUESTED, started_at=None)

    async def want_job(self, job_id: int, wanted: JobState, *, actor: str) -> Job:
        self._ask("want_job", job_id, wanted, actor)
        return replace(JOB, job_id=job_id, wanted=wanted)

    async def job(self, job_id: int) -> Job:
        self._ask("job", job_id)
        if self.hang_after is not None and len(self.asked) > self.hang_after:
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up += 1
        if job_id != JOB.job_id:
            raise Rejected(f"There is no job {job_id}.", reason=Reason.NOT_FOUND)
        state = self.states.pop(0) if self.states else JOB.state
        return replace(JOB, state=state)

    async def jobs(self) -> list[Job]:
        self._ask("jobs")
        return [JOB]

    async def dirty_keys(self, collection: str, *, limit: int) -> list[DirtyKey]:
        self._ask("dirty_keys", collection, limit)
        return [DirtyKey(collection=collection, key=("a", 1), reason="timeout", since=NOON)]

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        self._ask("dead_letters", limit)
        return [
            DeadLetter(
                letter_id=1,
                collection="documents",
                key=("a", "b"),
                reason="too long",
                job_id=7,
                created_at=NOON,
            )
        ]

    async def shadow_report(self) -> Mapping[str, JsonValue]:
        self._ask("shadow_report")
        return {"queries": 3, "overlap": 0.99}

    async def events(self, *, limit: int, after: int) -> list[Event]:
        self._ask("events", limit, after)
        return [
            Event(
                event_id=after + 1,
                at=NOON,
                kind="phase",
                actor="ann",
                reason="go",
                epoch=3,
                detail={"to": "ramp"},
            )
        ]
