"""The read path: choose the store, fence dirty keys, fall back, tell observers what was read."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from proxy.clock import Clock
from proxy.config.settings import ReadSettings
from proxy.dataplane import (
    Counted,
    Found,
    Got,
    Listed,
    Reading,
    ReadObserver,
    RequestContext,
    Served,
)
from proxy.embedding.base import Embedder
from proxy.embedding.queries import QueryEmbedder, needs_vector
from proxy.errors import CrossfadeError, Reason, Rejected, Unavailable, Violation
from proxy.ledger.base import IntentLog
from proxy.ledger.types import Routing
from proxy.model import CollectionSpec, Key, Record, Value
from proxy.query import (
    CountQuery,
    Filter,
    ListQuery,
    Projection,
    SearchQuery,
    SearchResult,
    fields_of,
)
from proxy.routing.coverage import Asked, stands_in
from proxy.routing.member import Membership
from proxy.routing.phases import other_of, reads_both, secondary_of, shadows, writes_both
from proxy.stores.base import Store
from proxy.stores.sides import Sides

T = TypeVar("T")
_PATIENCE = 0.9
"""A read that lasted this share of a deadline was ended by it."""
_NO_TIME_S = 0.001
_SIDES = ("old", "new")
_VECTOR = "the vector"
"""Stands among the names of fields for what searches compare; no field has a space in its name."""


class ReadChooser(Protocol):
    """The traffic flag: does this targeting key read from the new store?"""

    def read_new(self, targeting_key: str, attributes: Mapping[str, str]) -> bool:
        """Answer at once; sticky and monotone in the percentage."""


class DirtyWatch(Protocol):
    """How many keys of a collection are dirty, as last seen."""

    def dirty(self, collection: str) -> int:
        """Return the count; may be a moment old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderParts:
    """What the reader is made of."""

    sides: Sides
    ledger: IntentLog
    member: Membership
    chooser: ReadChooser
    dirty: DirtyWatch
    clock: Clock
    specs: Mapping[str, CollectionSpec]
    observers: Sequence[ReadObserver] = ()
    embedder: Embedder | None = None


@dataclass(frozen=True, slots=True)
class _Ask:
    """What is read of one store, and for whom."""

    collection: str
    context: RequestContext
    asked: Asked
    vector: bool = False


class ReadPath:
    """Answers reads as design section 6 says (rules R1 to R4)."""

    def __init__(self, parts: ReaderParts, settings: ReadSettings) -> None:
        self._parts = parts
        self._settings = settings
        self._queries = QueryEmbedder(parts.embedder)

    async def get(
        self, collection: str, keys: Sequence[Key], projection: Projection, context: RequestContext
    ) -> Got:
        """Read records by key; a key that is dirty or in flight is read from the primary (R1)."""
        routing = await self._routing_of(collection, keys)
        asked = _asked(projection.fields or ())
        chosen = self._choose(routing, collection, asked.names, context)
        fenced: frozenset[Key] = frozenset()
        reason = "routed"
        if chosen != routing.primary:
            chosen, fenced, reason = await self._fence(routing, collection, keys)
        by_store = self._split_keys(routing, collection, keys, chosen, fenced)
        deadline_s = self._deadline_s(context)
        found: dict[Key, Record] = {}
        answers: list[Served] = []
        for name, part in by_store.items():

            async def read(store: Store, part: Sequence[Key] = part) -> dict[Key, Record]:
                return await store.get(
                    collection, part, vectors=projection.vector, deadline_s=deadline_s
                )

            records, answered = await self._read(
                routing, name, read, _Ask(collection, context, replace(asked, keys=part))
            )
            found.update(records)
            answers.append(answered)
        served = Served(store=chosen, role=_role(routing, chosen), reason=reason)
        return Got(
            records=[_project(found.get(key), projection) for key in keys],
            served=_who_answered(served, answers),
        )

    def _current(self) -> Routing:
        """Return the routing as last seen, if it may still be the one in force.

        Raises:
            Unavailable: the lease has been over for too long; others may have gone on without us.
        """
        member, settings = self._parts.member, self._settings
        over_s = -member.lease_left_s()
        if settings.lease_lost == "refuse" and over_s > settings.lease_grace_s:
            raise Unavailable(
                f"This replica has not reached the ledger; its lease ended {over_s:.1f} s ago and"
                " what it would read may be out of date.",
                where="ledger",
                hint="Ask another replica, or bring the ledger back; reads.lease_lost: serve reads"
                " on under the last routing known.",
            )
        return member.current

    async def _in_force(self) -> Routing:
        """Return the routing in force; a replica that was paused past its lease asks for it.

        Raises:
            Unavailable: see `_current`.
        """
        member = self._parts.member
        if member.lease_left_s() <= 0 and member.reachable:
            with contextlib.suppress(Unavailable):
                return await member.refresh()
        return self._current()

    async def _routing_of(self, collection: str, keys: Sequence[Key]) -> Routing:
        """Return the routing to read keys under.

        While a swap holds the writes, other replicas may be past it: which store a fenced key is
        to be read from is then asked, not remembered.
        """
        routing = await self._in_force()
        if not routing.hold:
            return routing
        try:
            fenced = await self._parts.ledger.fenced(collection, keys)
            return await self._parts.member.refresh() if fenced else routing
        except Unavailable:
            return routing

    async def _fence(
        self, routing: Routing, collection: str, keys: Sequence[Key]
    ) -> tuple[str, frozenset[Key], str]:
        """Ask the ledger first and read afterwards: a key that is clean now stays current."""
        secondary = secondary_of(routing)
        try:
            fenced = await self._parts.ledger.fenced(collection, keys)
        except Unavailable:
            return routing.primary, frozenset(keys), "ledger_down"
        if fenced and len(fenced) == len(set(keys)):
            return routing.primary, fenced, "fenced"
        return secondary, fenced, "fenced" if fenced else "routed"

    def _split_keys(
        self,
        routing: Routing,
        collection: str,
        keys: Sequence[Key],
        chosen: str,
        fenced: frozenset[Key],
    ) -> dict[str, list[Key]]:
        """Give each key to the store that answers for it.

        One that cannot hold it is not asked: in every phase that writes both, the only holder of
        a record answers for it (`writes.one_sided_records`).
        """
        spec = self._parts.specs[collection]
        parts: dict[str, list[Key]] = {}
        for key in dict.fromkeys(keys):
            name = routing.primary if key in fenced else chosen
            if not self._parts.sides.store(name).schema.layouts[collection].holds(spec, key):
                name = other_of(name)
                if not writes_both(routing.phase) and name != routing.primary:
                    continue
            parts.setdefault(name, []).append(key)
        return parts

    async def list_records(self, query: ListQuery, context: RequestContext) -> Listed:
        """Read a page, in the query's order, the key last."""
        routing = await self._in_force()
        names = [order.field for order in query.order]
        asked = _asked((*names, *(query.projection.fields or ())), query.filter)
        chosen = self._choose(routing, query.collection, asked.names, context)
        deadline_s = self._deadline_s(context)
        wider = replace(query, projection=_with_order(query))
        began_s = self._parts.clock.monotonic_s()
        rows, served = await self._read(
            routing,
            chosen,
            lambda store: store.list_records(wider, deadline_s=deadline_s),
            _Ask(query.collection, context, asked),
        )
        records = [_project(record, query.projection) or record for record in rows]
        self._tell(routing, served, context, query, records, began_s=began_s)
        after: tuple[Value, ...] | None = None
        if len(rows) == query.limit:
            after = self._continuation(query, rows[-1])
        return Listed(records=records, next_after=after, served=served)

    def _continuation(self, query: ListQuery, last: Record) -> tuple[Value, ...]:
        spec = self._parts.specs[query.collection]
        parts = dict(zip(spec.key, last.key, strict=True))
        values = [
            parts[order.field] if order.field in parts else last.fields.get(order.field)
            for order in query.order
        ]
        return (*values, *last.key)

    async def count(self, query: CountQuery, context: RequestContext) -> Counted:
        """Count records, or the groups of a field."""
        routing = await self._in_force()
        names = tuple(name for name in (query.group_by, query.sum_field) if name)
        asked = _asked(names, query.filter)
        chosen = self._choose(routing, query.collection, asked.names, context)
        deadline_s = self._deadline_s(context)
        groups, served = await self._read(
            routing,
            chosen,
            lambda store: store.count(query, deadline_s=deadline_s),
            _Ask(query.collection, context, asked),
        )
        return Counted(groups=groups, served=served)

    async def search(self, query: SearchQuery, context: RequestContext) -> Found:
        """Search; distance and similarity mean the same whichever store answers (R4).

        A text is embedded for the store that is asked, by that store's own model.
        """
        routing = await self._in_force()
        asked = _asked(query.projection.fields or (), query.filter)
        vector = needs_vector(query)
        used = set(asked.names)
        if vector and any(_VECTOR in self._fields(name, query.collection) for name in _SIDES):
            used.add(_VECTOR)
        chosen = self._choose(routing, query.collection, frozenset(used), context)
        deadline_s = self._deadline_s(context)
        began_s = self._parts.clock.monotonic_s()

        async def ask(store: Store) -> SearchResult:
            nonlocal began_s
            started_s = self._parts.clock.monotonic_s()
            ready = await self._queries.for_store(query, store.schema, deadline_s)
            # Shadow reads compare stores: what embedding takes is not theirs.
            began_s = self._parts.clock.monotonic_s()
            left_s = max(deadline_s - (began_s - started_s), _NO_TIME_S)
            return await store.search(ready, deadline_s=left_s)

        result, served = await self._read(
            routing, chosen, ask, _Ask(query.collection, context, asked, vector)
        )
        records = [hit.record for hit in result.hits]
        self._tell(routing, served, context, query, records, began_s=began_s, result=result)
        return Found(result=result, served=served)

    def _choose(
        self,
        routing: Routing,
        collection: str,
        used: frozenset[str],
        context: RequestContext,
    ) -> str:
        """Return the store that is to answer (R1, R2)."""
        primary = routing.primary
        lacking = used - self._fields(primary, collection)
        if lacking and not reads_both(routing.phase):
            raise _not_stored(primary, collection, lacking)
        if not reads_both(routing.phase):
            return primary
        wants_new = self._parts.chooser.read_new(context.targeting_key, context.attributes)
        chosen = "new" if wants_new else "old"
        if lacking:
            return secondary_of(routing)
        if chosen == primary:
            return primary
        too_dirty = self._parts.dirty.dirty(collection) > self._settings.dirty_keys_max
        if too_dirty or used - self._fields(chosen, collection):
            return primary
        return chosen

    def _fields(self, name: str, collection: str) -> frozenset[str]:
        """The fields a store can read back, stored or generated; and the vector, if it has it."""
        schema = self._parts.sides.store(name).schema
        fields = schema.layouts[collection].stored_fields()
        return fields if schema.collections[collection].vector is None else fields | {_VECTOR}

    async def _read(
        self,
        routing: Routing,
        name: str,
        read: Callable[[Store], Awaitable[T]],
        ask: _Ask,
    ) -> tuple[T, Served]:
        """Read from a store, and from the other one if it fails and the phase allows it (R3)."""
        side = self._parts.sides[name]
        other = other_of(name)
        may_fall_back = (
            self._settings.fallback
            and reads_both(routing.phase)
            and self._stands_in(other, name, ask)
        )
        failure: CrossfadeError = Unavailable(f"The {name} store keeps failing.", where=name)
        if side.breaker.state != "open" or not may_fall_back:
            began_s = self._parts.clock.monotonic_s()
            try:
                result = await read(side.store)
            except Rejected:
                raise
            except CrossfadeError as error:
                if isinstance(error, Unavailable) and error.where == "embedder":
                    raise  # no store failed, and the other one needs the same embedder
                impatient = self._impatient(ask.context, self._parts.clock.monotonic_s() - began_s)
                if isinstance(error, Unavailable) and not impatient:
                    side.breaker.failed()
                if not may_fall_back:
                    raise
                failure = error
            else:
                side.breaker.succeeded()
                return result, Served(store=name, role=_role(routing, name))
        if other != routing.primary and not await self._is_current(ask):
            raise failure
        result = await read(self._parts.sides.store(other))
        return result, Served(store=other, role=_role(routing, other), reason="fallback")

    def _stands_in(self, other: str, name: str, ask: _Ask) -> bool:
        """True if the other store can hold all that is asked for: half an answer is none."""
        sides, collection = self._parts.sides, ask.collection
        if ask.vector and _VECTOR not in self._fields(other, collection):
            return False
        return stands_in(
            self._parts.specs[collection],
            sides.store(other).schema.layouts[collection],
            sides.store(name).schema.layouts[collection],
            ask.asked,
        )

    def _impatient(self, context: RequestContext, took_s: float) -> bool:
        """True if the client's own short deadline ended the read: no fault of the store."""
        short = context.deadline_s < _PATIENCE * self._settings.deadline_s
        return short and took_s >= _PATIENCE * context.deadline_s

    async def _is_current(self, ask: _Ask) -> bool:
        """True if the secondary may stand in for the primary: for keys that are clean, or for a
        collection that has few dirty ones."""
        keys = ask.asked.keys
        if keys is None:
            return self._parts.dirty.dirty(ask.collection) <= self._settings.dirty_keys_max
        try:
            return not await self._parts.ledger.fenced(ask.collection, keys)
        except Unavailable:
            return False

    def _deadline_s(self, context: RequestContext) -> float:
        return min(context.deadline_s, self._settings.deadline_s)

    def _tell(
        self,
        routing: Routing,
        served: Served,
        context: RequestContext,
        query: SearchQuery | ListQuery,
        records: Sequence[Record],
        *,
        began_s: float,
        result: SearchResult | None = None,
    ) -> None:
        """Tell observers what was served, once it is known which store was the control."""
        if not self._parts.observers or not shadows(routing.phase) or served.reason == "fallback":
            return
        reading = Reading(
            request_id=context.request_id,
            query=query,
            control_store=served.store,
            candidate_store=other_of(served.store),
            search=result,
            records=records,
            latency_ms=(self._parts.clock.monotonic_s() - began_s) * 1000.0,
        )
        for observer in self._parts.observers:
            observer.observe(reading)


def _role(routing: Routing, name: str) -> str:
    return "primary" if name == routing.primary else "secondary"


def _asked(names: Sequence[str], filter: Filter | None = None) -> Asked:
    """Return what is asked for: the named fields, and those that the filter looks at."""
    used = frozenset(names)
    if filter is not None:
        used |= fields_of(filter)
    return Asked(names=used, filter=filter)


def _who_answered(meant: Served, answers: Sequence[Served]) -> Served:
    """Return who is named for several keys: a fallback first, then the store that was chosen.

    It is not named if it answered for no key at all.
    """
    for answer in answers:
        if answer.reason != "routed":
            return answer
    if not answers or any(answer.store == meant.store for answer in answers):
        return meant
    return replace(answers[0], reason=meant.reason)


def _with_order(query: ListQuery) -> Projection:
    """What a store is asked for: the next page starts at the values of the last row's order."""
    projection = query.projection
    if projection.fields is None:
        return projection
    names = (*projection.fields, *(order.field for order in query.order))
    return replace(projection, fields=tuple(dict.fromkeys(names)))


def _project(record: Record | None, projection: Projection) -> Record | None:
    if record is None or projection.fields is None:
        return record
    wanted = set(projection.fields)
    return Record(
        collection=record.collection,
        key=record.key,
        fields={name: value for name, value in record.fields.items() if name in wanted},
        vector=record.vector,
    )


def _not_stored(store: str, collection: str, names: frozenset[str]) -> Rejected:
    listed = ", ".join(sorted(names))
    return Rejected(
        f"The {store} store does not hold {listed} of {collection!r}, and it is the only one that"
        " may answer in this phase.",
        reason=Reason.FAILED_PRECONDITION,
        violations=tuple(
            Violation(where=name, expected=f"a field that the {store} store holds")
            for name in sorted(names)
        ),
        hint="Leave it out until the ramp.",
    )
