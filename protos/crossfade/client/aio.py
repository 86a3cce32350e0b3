"""The asynchronous client: each method one call, plain data in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Self, TypedDict, Unpack

import grpc

from crossfade.client.filters import Filter
from crossfade.client.messages import fill_item, order_term, read_ack, read_found, read_outcome
from crossfade.client.transport import (
    MESSAGE_BYTES_MAX,
    CallOptions,
    call,
    open_channel,
    write,
)
from crossfade.client.types import (
    BatchItem,
    Counts,
    FieldValue,
    Group,
    ItemOutcome,
    KeyLike,
    Page,
    Read,
    Record,
    SearchMode,
    SearchResult,
    VectorLike,
    WriteAck,
)
from crossfade.client.values import (
    field_mask,
    fill_key,
    fill_record,
    pack_vector,
    read_record,
    read_served,
    read_value,
)
from crossfade.storage.v1 import storage_pb2 as pb
from crossfade.storage.v1 import storage_pb2_grpc

_ALL_FIELDS: Final = Read()
_MODES: Final = {
    SearchMode.VECTOR: pb.SEARCH_MODE_VECTOR,
    SearchMode.TEXT: pb.SEARCH_MODE_TEXT,
    SearchMode.KEYWORD: pb.SEARCH_MODE_KEYWORD,
    SearchMode.HYBRID: pb.SEARCH_MODE_HYBRID,
}


class Scope(TypedDict, total=False):
    """What `scoped` can change; see CallOptions."""

    targeting_key: str
    request_id: str
    attributes: Mapping[str, str]
    timeout_s: float
    retries: int


class SearchOptions(TypedDict, total=False):
    """How `search` searches.

    mode: None: what `vector` and `text` say. alpha: HYBRID: the vector side's share, 0 to 1
    (0.7). limit: 1 to 1000 (10). exact: True: look at every record; False: use the index; None:
    the store decides. read: which parts of the records (every field).
    """

    mode: SearchMode | None
    alpha: float | None
    limit: int
    filter: Filter | None
    exact: bool | None
    read: Read


class AsyncClient:
    """Records in, records out, through a Crossfade proxy.

    Every method raises a subclass of `CallError`. A call that meets UNAVAILABLE is tried again a
    few times within its timeout; a write is safe to try again, since it carries an idempotency
    key (its own, or the one given).
    """

    def __init__(
        self,
        target: str,
        *,
        targeting_key: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = 10.0,
        retries: int = 3,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        """Connect lazily.

        Args:
            target: "host:port", or "ipv4:host:port,host:port" for several replicas.
            targeting_key: tenant, user or session that sticks to one store during a ramp.
            credentials: `grpc.ssl_channel_credentials(...)`, None for clear text.
            timeout_s: of a call with its retries, at most 60 are granted.
        """
        self._options = CallOptions(
            targeting_key=targeting_key, timeout_s=timeout_s, retries=retries
        )
        self._channel = open_channel(target, credentials, message_bytes_max)
        self._stub = storage_pb2_grpc.StorageServiceStub(self._channel)

    def scoped(self, **changes: Unpack[Scope]) -> Self:
        """Return a client over the same connection with another targeting key, timeout, ..."""
        scoped = object.__new__(type(self))
        scoped._channel, scoped._stub = self._channel, self._stub
        scoped._options = replace(self._options, **changes)
        return scoped

    async def close(self) -> None:
        """Close the connection, of every scoped client too."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ------------------------------------------------------------ writes

    async def insert(
        self,
        collection: str,
        key: KeyLike | None,
        fields: Mapping[str, FieldValue],
        *,
        vector: VectorLike | None = None,
        idempotency_key: str = "",
    ) -> WriteAck:
        """Store a new record; `key` None where the schema allocates it.

        Raises:
            AlreadyExists: the key is taken.
        """
        request = pb.InsertRequest(collection=collection)
        fill_record(request.record, key, fields, vector)
        return read_ack(await write(self._stub.Insert, request, self._options, idempotency_key))

    async def upsert(
        self,
        collection: str,
        key: KeyLike | None,
        fields: Mapping[str, FieldValue],
        *,
        vector: VectorLike | None = None,
        idempotency_key: str = "",
    ) -> WriteAck:
        """Store a record, new or not.

        A field left out keeps its stored value when the record exists, and takes its default (or
        null) when it does not; an explicit None sets null. No vector means that it has none, or
        the one of its text where the server makes them.
        """
        request = pb.UpsertRequest(collection=collection)
        fill_record(request.record, key, fields, vector)
        return read_ack(await write(self._stub.Upsert, request, self._options, idempotency_key))

    async def update(
        self,
        collection: str,
        key: KeyLike,
        fields: Mapping[str, FieldValue] | None = None,
        *,
        vector: VectorLike | None = None,
        clear_vector: bool = False,
        idempotency_key: str = "",
    ) -> WriteAck:
        """Change some fields; `record` of the answer is the whole record. JSON is merged.

        Raises:
            NotFound: there is no such record.
        """
        request = pb.UpdateRequest(collection=collection)
        fill_record(request.patch, key, fields, vector)
        request.patch.clear_vector = clear_vector
        return read_ack(await write(self._stub.Update, request, self._options, idempotency_key))

    async def delete(self, collection: str, key: KeyLike, *, idempotency_key: str = "") -> WriteAck:
        """Remove a record and its children; `existed` says whether there was one."""
        request = pb.DeleteRequest(collection=collection)
        fill_key(request.key, key)
        return read_ack(await write(self._stub.Delete, request, self._options, idempotency_key))

    async def delete_where(
        self, collection: str, filter: Filter, *, idempotency_key: str = ""
    ) -> int:
        """Remove every record that matches (`ALL`: every record); return how many."""
        request = pb.DeleteWhereRequest(collection=collection, filter=filter.message)
        answer = await write(self._stub.DeleteWhere, request, self._options, idempotency_key)
        return answer.deleted_count

    async def batch_write(
        self, items: Sequence[BatchItem], *, atomic: bool = False, idempotency_key: str = ""
    ) -> list[ItemOutcome]:
        """Apply writes in order; return one outcome each.

        Args:
            atomic: all or none; the first error is raised and nothing was applied.
        """
        request = pb.BatchWriteRequest(atomic=atomic)
        for item in items:
            fill_item(request.items.add(), item)
        answer = await write(self._stub.BatchWrite, request, self._options, idempotency_key)
        return [read_outcome(one) for one in answer.outcomes]

    # ------------------------------------------------------------ reads

    async def get(self, collection: str, key: KeyLike, read: Read = _ALL_FIELDS) -> Record | None:
        """Return a record, None if there is none."""
        request = pb.GetRequest(
            collection=collection, field_mask=field_mask(read), include_vector=read.vector
        )
        fill_key(request.key, key)
        answer = await call(self._stub.Get, request, self._options)
        if not answer.HasField("record"):
            return None
        return read_record(answer.record, read_served(answer.served_by))

    async def batch_get(
        self, collection: str, keys: Iterable[KeyLike], read: Read = _ALL_FIELDS
    ) -> list[Record | None]:
        """Return records in the order of the keys, None where there is none."""
        request = pb.BatchGetRequest(
            collection=collection, field_mask=field_mask(read), include_vector=read.vector
        )
        for key in keys:
            fill_key(request.keys.add(), key)
        answer = await call(self._stub.BatchGet, request, self._options)
        served = read_served(answer.served_by)
        return [
            read_record(one.record, served) if one.HasField("record") else None
            for one in answer.results
        ]

    async def list(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        order_by: Sequence[str] = (),
        limit: int = 100,
        page_token: str = "",
        offset: int = 0,
        read: Read = _ALL_FIELDS,
    ) -> Page:
        """Return a page.

        Args:
            order_by: field names, "-name" for descending; the key always ends the order.
            page_token: of the page before, with the same collection, filter and order.
            offset: rows to skip, instead of a token.
        """
        request = pb.ListRequest(
            collection=collection,
            filter=None if filter is None else filter.message,
            order_by=[order_term(term) for term in order_by],
            limit=limit,
            page_token=page_token,
            offset=offset,
            field_mask=field_mask(read),
            include_vector=read.vector,
        )
        answer = await call(self._stub.List, request, self._options)
        served = read_served(answer.served_by)
        return Page(
            records=[read_record(one, served) for one in answer.records],
            next_page_token=answer.next_page_token,
            served_by=served,
        )

    async def iterate(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        order_by: Sequence[str] = (),
        page_size: int = 100,
        read: Read = _ALL_FIELDS,
    ) -> AsyncIterator[Record]:
        """Yield every record, page by page."""
        token = ""
        while True:
            page = await self.list(
                collection,
                filter=filter,
                order_by=order_by,
                limit=page_size,
                page_token=token,
                read=read,
            )
            for record in page.records:
                yield record
            token = page.next_page_token
            if not token:
                return

    async def count(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        group_by: str | None = None,
        sum_field: str | None = None,
    ) -> Counts:
        """Count records, whole or by the distinct values of a field."""
        request = pb.CountRequest(
            collection=collection,
            filter=None if filter is None else filter.message,
            group_by=group_by,
            sum_field=sum_field,
        )
        answer = await call(self._stub.Count, request, self._options)
        groups = [
            Group(value=read_value(one.value), count=one.count, sum=one.sum)
            for one in answer.groups
        ]
        served = read_served(answer.served_by)
        return Counts(groups=groups, total=answer.total_count, served_by=served)

    async def search(
        self,
        collection: str,
        vector: VectorLike | None = None,
        *,
        text: str = "",
        **options: Unpack[SearchOptions],
    ) -> SearchResult:
        """Return the records that fit best: near a vector, in meaning or by words.

        Without a mode it is VECTOR for a vector, TEXT for a text and HYBRID for both.

        Raises:
            Unimplemented: the collection or its store has no such search.
        """
        mode = options.get("mode") or _mode_of(vector, text)
        filter, read = options.get("filter"), options.get("read", _ALL_FIELDS)
        request = pb.SearchRequest(
            collection=collection,
            mode=_MODES[mode],
            vector=None if vector is None else pack_vector(vector),
            text=text,
            alpha=options.get("alpha"),
            limit=options.get("limit", 10),
            filter=None if filter is None else filter.message,
            exact=options.get("exact"),
            field_mask=field_mask(read),
            include_vector=read.vector,
        )
        return read_found(await call(self._stub.Search, request, self._options))

    async def search_text(
        self,
        collection: str,
        text: str,
        *,
        mode: SearchMode = SearchMode.KEYWORD,
        limit: int = 10,
        filter: Filter | None = None,
        read: Read = _ALL_FIELDS,
    ) -> SearchResult:
        """Return the records that fit a text, by its words or by its meaning; see `search`."""
        return await self.search(
            collection, text=text, mode=mode, limit=limit, filter=filter, read=read
        )

    async def search_hybrid(
        self,
        collection: str,
        text: str,
        *,
        vector: VectorLike | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchResult:
        """Return the records that fit a text in meaning (or a vector) and by words."""
        options["mode"] = SearchMode.HYBRID
        return await self.search(collection, vector, text=text, **options)


def _mode_of(vector: VectorLike | None, text: str) -> SearchMode:
    if vector is None:
        return SearchMode.TEXT if text else SearchMode.VECTOR
    return SearchMode.HYBRID if text else SearchMode.VECTOR
