"""The operations that every front offers, as one Protocol, and the data that crosses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from proxy.model import Key, Record, Value, Write
from proxy.query import (
    CountQuery,
    Filter,
    Group,
    ListQuery,
    Projection,
    SearchQuery,
    SearchResult,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What is known of a request besides its content.

    Attributes:
        request_id: from the client or made by the front; in every log line and span.
        targeting_key: tenant, user or session: what sticks to one side of a ramp.
        deadline_s: seconds the client still waits.
        idempotency_key: the client's own, "" for none (rule W7).
        attributes: more evaluation context for a team's own flag service.
    """

    request_id: str
    targeting_key: str
    deadline_s: float
    idempotency_key: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteAck:
    """An acknowledged write.

    Attributes:
        key: of the record written (allocated ones included).
        existed: delete: there was a record; insert and upsert: not known, False.
        secondary_pending: the secondary lacks it for now; the reconciler will repair it.
        record: the full record after an Update, None otherwise.
        replayed: answered from the record of the same idempotency key.
    """

    key: Key
    existed: bool = False
    secondary_pending: bool = False
    record: Record | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """The outcome of one write of a batch: an acknowledgement or the error of that item."""

    ack: WriteAck | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Which store answered a read and why, for response metadata."""

    store: str
    role: str
    reason: str = "routed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A page; `next_after` continues it (ListQuery.after), None at the end."""

    records: Sequence[Record]
    next_after: tuple[Value, ...] | None
    served: Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """Records by key, in the order asked, None where there is none."""

    records: Sequence[Record | None]
    served: Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Groups of a count."""

    groups: Sequence[Group]
    served: Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result of a search."""

    result: SearchResult
    served: Served


class DataPlane(Protocol):
    """The data plane. Errors are those of `proxy.errors`.

    Writes come in as the client gave them: `Write.op` INSERT, UPSERT, PATCH or DELETE, fields
    unresolved (defaults, ids and timestamps are decided inside), `keep` empty. A key part that
    the proxy allocates (SEQUENCE default) may be absent: then `Write.key` is ().
    """

    async def write(self, write: Write, context: RequestContext) -> WriteAck:
        """Apply one write (INSERT: ALREADY_EXISTS, PATCH: NOT_FOUND, or FAILED_PRECONDITION)."""

    async def batch(
        self, writes: Sequence[Write], *, atomic: bool, context: RequestContext
    ) -> list[BatchItem]:
        """Apply writes, one item each; `atomic` raises the first error and applies nothing."""

    async def delete_where(
        self, collection: str, filter: Filter, *, context: RequestContext
    ) -> int:
        """Delete every record that matches on the primary. Return how many."""

    async def get(
        self, collection: str, keys: Sequence[Key], projection: Projection, context: RequestContext
    ) -> Got:
        """Read records by key."""

    async def list_records(self, query: ListQuery, context: RequestContext) -> Listed:
        """Read a page."""

    async def count(self, query: CountQuery, context: RequestContext) -> Counted:
        """Count."""

    async def search(self, query: SearchQuery, context: RequestContext) -> Found:
        """Search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A read that was served, as an observer gets it (shadow reads).

    Attributes:
        query: SearchQuery or ListQuery.
        control_store, candidate_store: names of the stores.
        records: what the client got (hits for a search).
        latency_ms: of the store call that was served.
    """

    request_id: str
    query: SearchQuery | ListQuery
    control_store: str
    candidate_store: str
    search: SearchResult | None
    records: Sequence[Record]
    latency_ms: float


class ReadObserver(Protocol):
    """Somebody who wants to know what was read. Handed in at the wiring; must return at once."""

    def observe(self, reading: Reading) -> None:
        """Take note; never blocks, never raises, drops when it has no room."""
