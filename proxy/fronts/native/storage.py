"""The storage service: each call read, handed to the data plane, and its answer written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from crossfade.storage.v1 import storage_pb2 as pb

from proxy.config.settings import LimitSettings
from proxy.dataplane import BatchItem, DataPlane, RequestContext, Served, WriteAck
from proxy.errors import Rejected
from proxy.fronts.native.errors import failure_of, status_of
from proxy.fronts.native.page_token import write_token
from proxy.fronts.native.requests import RequestReader
from proxy.fronts.native.rpc import Reply, Stream, Unary, log_unexpected
from proxy.fronts.native.values import RecordWriter, fill_key, fill_value
from proxy.model import CollectionSpec, Metric, Write
from proxy.query import Scoring

SERVICE: Final = pb.DESCRIPTOR.services_by_name["StorageService"].full_name

_METRICS: Final[Mapping[Metric, pb.Metric.ValueType]] = {
    Metric.COSINE: pb.METRIC_COSINE,
    Metric.DOT: pb.METRIC_DOT,
    Metric.L2: pb.METRIC_L2,
}
_SCORINGS: Final[Mapping[Scoring, pb.Scoring.ValueType]] = {
    Scoring.SIMILARITY: pb.SCORING_SIMILARITY,
    Scoring.TS_RANK: pb.SCORING_TS_RANK,
    Scoring.BM25: pb.SCORING_BM25,
    Scoring.RECIPROCAL_RANK: pb.SCORING_RECIPROCAL_RANK,
}


class StorageService:
    """The data plane on the wire. Requests are validated here; the data plane gets good ones."""

    def __init__(
        self,
        data_plane: DataPlane,
        collections: Mapping[str, CollectionSpec],
        limits: LimitSettings,
    ) -> None:
        self._plane = data_plane
        self._reader = RequestReader(collections, limits)
        self._writers = {name: RecordWriter(spec) for name, spec in collections.items()}

    def methods(self) -> list[Unary | Stream]:
        """Return every method of the service."""
        return [
            Unary(name="Insert", request=pb.InsertRequest, handle=self.insert, writes=True),
            Unary(name="Upsert", request=pb.UpsertRequest, handle=self.upsert, writes=True),
            Unary(name="Update", request=pb.UpdateRequest, handle=self.update, writes=True),
            Unary(name="Delete", request=pb.DeleteRequest, handle=self.delete, writes=True),
            Unary(
                name="DeleteWhere",
                request=pb.DeleteWhereRequest,
                handle=self.delete_where,
                writes=True,
            ),
            Unary(
                name="BatchWrite",
                request=pb.BatchWriteRequest,
                handle=self.batch_write,
                writes=True,
            ),
            Unary(name="Get", request=pb.GetRequest, handle=self.get),
            Unary(name="BatchGet", request=pb.BatchGetRequest, handle=self.batch_get),
            Unary(name="List", request=pb.ListRequest, handle=self.list_records),
            Unary(name="Count", request=pb.CountRequest, handle=self.count),
            Unary(name="Search", request=pb.SearchRequest, handle=self.search),
        ]

    # ------------------------------------------------------------ writes

    async def insert(self, request: pb.InsertRequest, context: RequestContext) -> Reply:
        """Store a new record."""
        return await self._write(self._reader.insert(request), context)

    async def upsert(self, request: pb.UpsertRequest, context: RequestContext) -> Reply:
        """Store a record, whole."""
        return await self._write(self._reader.upsert(request), context)

    async def update(self, request: pb.UpdateRequest, context: RequestContext) -> Reply:
        """Change some fields of a record."""
        return await self._write(self._reader.update(request), context)

    async def delete(self, request: pb.DeleteRequest, context: RequestContext) -> Reply:
        """Remove a record."""
        return await self._write(self._reader.delete(request), context)

    async def _write(self, write: Write, context: RequestContext) -> Reply:
        ack = await self._plane.write(write, context)
        answer = pb.WriteResponse()
        self._fill_ack(answer, ack, write.collection)
        return Reply(answer, ack.secondary_pending)

    async def delete_where(self, request: pb.DeleteWhereRequest, context: RequestContext) -> Reply:
        """Remove what matches."""
        collection, tree = self._reader.delete_where(request)
        deleted = await self._plane.delete_where(collection, tree, context=context)
        return Reply(pb.DeleteWhereResponse(deleted_count=deleted))

    async def batch_write(self, request: pb.BatchWriteRequest, context: RequestContext) -> Reply:
        """Apply several writes. Not atomic: an item that is wrong does not stop the others."""
        outcomes: list[BatchItem | None] = [None] * self._reader.batch_size(request)
        writes: list[Write] = []
        positions: list[int] = []
        for number, item in enumerate(request.items):
            try:
                writes.append(self._reader.item(item, f"items[{number}]"))
                positions.append(number)
            except Rejected as error:
                if request.atomic:
                    raise
                outcomes[number] = BatchItem(error=error)
        if writes:
            items = await self._plane.batch(writes, atomic=request.atomic, context=context)
            for position, item_outcome in zip(positions, items, strict=True):
                outcomes[position] = item_outcome
        return self._batch_reply(request, outcomes, context.request_id)

    def _batch_reply(
        self,
        request: pb.BatchWriteRequest,
        outcomes: Sequence[BatchItem | None],
        request_id: str,
    ) -> Reply:
        answer = pb.BatchWriteResponse()
        pending = False
        for item, outcome in zip(request.items, outcomes, strict=True):
            target = answer.outcomes.add()
            if outcome is not None and outcome.ack is not None:
                self._fill_ack(target.written, outcome.ack, item.collection)
                pending = pending or outcome.ack.secondary_pending
            else:
                error = None if outcome is None else outcome.error
                _fill_error(target.error, error or RuntimeError("no outcome"), request_id)
        return Reply(answer, pending)

    def _fill_ack(self, answer: pb.WriteResponse, ack: WriteAck, collection: str) -> None:
        fill_key(answer.key, ack.key)
        answer.existed = ack.existed
        answer.secondary_pending = ack.secondary_pending
        answer.replayed = ack.replayed
        if ack.record is not None:
            self._writers[collection].fill(answer.record, ack.record)

    # ------------------------------------------------------------ reads

    async def get(self, request: pb.GetRequest, context: RequestContext) -> Reply:
        """Read one record."""
        spec, key, projection = self._reader.get(request)
        got = await self._plane.get(spec.name, [key], projection, context)
        answer = pb.GetResponse()
        record = got.records[0]
        if record is not None:
            self._writers[spec.name].fill(answer.record, record)
        _fill_served(answer.served_by, got.served)
        return Reply(answer)

    async def batch_get(self, request: pb.BatchGetRequest, context: RequestContext) -> Reply:
        """Read several records by key."""
        spec, keys, projection = self._reader.batch_get(request)
        got = await self._plane.get(spec.name, keys, projection, context)
        answer = pb.BatchGetResponse()
        writer = self._writers[spec.name]
        for record in got.records:
            target = answer.results.add()
            if record is not None:
                writer.fill(target.record, record)
        _fill_served(answer.served_by, got.served)
        return Reply(answer)

    async def list_records(self, request: pb.ListRequest, context: RequestContext) -> Reply:
        """Read a page."""
        spec, query = self._reader.list_records(request)
        listed = await self._plane.list_records(query, context)
        answer = pb.ListResponse()
        writer = self._writers[spec.name]
        for record in listed.records:
            writer.fill(answer.records.add(), record)
        if listed.next_after is not None:
            answer.next_page_token = write_token(request, spec, query.order, listed.next_after)
        _fill_served(answer.served_by, listed.served)
        return Reply(answer)

    async def count(self, request: pb.CountRequest, context: RequestContext) -> Reply:
        """Count."""
        spec, query = self._reader.count(request)
        counted = await self._plane.count(query, context)
        answer = pb.CountResponse(total_count=sum(group.count for group in counted.groups))
        for group in counted.groups:
            target = answer.groups.add(count=group.count, sum=group.sum)
            name = query.group_by or spec.key[0]  # any type will do for a null
            fill_value(target.value, spec.by_name[name].type, group.value)
        _fill_served(answer.served_by, counted.served)
        return Reply(answer)

    async def search(self, request: pb.SearchRequest, context: RequestContext) -> Reply:
        """Find the records that fit best."""
        spec, query = self._reader.search(request)
        found = await self._plane.search(query, context)
        answer = pb.SearchResponse(
            metric=_METRICS[found.result.metric],
            indexed=found.result.indexed,
            scoring=_SCORINGS[found.result.scoring],
        )
        writer = self._writers[spec.name]
        for hit in found.result.hits:
            target = answer.hits.add(distance=hit.distance, similarity=hit.similarity)
            writer.fill(target.record, hit.record)
        _fill_served(answer.served_by, found.served)
        return Reply(answer)


def _fill_served(target: pb.ServedBy, served: Served) -> None:
    target.store = served.store
    target.role = served.role
    target.reason = served.reason


def _fill_error(target: pb.ItemError, error: Exception, request_id: str) -> None:
    failure = failure_of(error, request_id)
    log_unexpected(failure, error, f"/{SERVICE}/BatchWrite", request_id)
    status = status_of(failure, request_id)
    target.code = status.code
    target.message = status.message
    target.details.extend(status.details)
