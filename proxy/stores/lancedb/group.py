"""What a group of writes does to the tables: decided from one read of the keys, with no I/O.

Writes are resolved in order over what was read, so that the last one of a key wins and each has
an outcome of its own; what is left is one final state a key: a row to merge, or a key to delete.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.model import Applied, Key, Record, Write, WriteOp, WriteResult
from proxy.stores.fitting import hindered, parent_key
from proxy.stores.lancedb.fitness import write_misfit
from proxy.stores.lancedb.rows import Stored
from proxy.stores.lancedb.table import Table

Place = tuple[str, Key]
"""A collection and a key in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What has to be read before a group can be resolved.

    Attributes:
        rows: collection -> keys whose rows matter.
        vectors: the collections whose rows are needed with their vectors.
        childless: (collection, key) of parents that may be deleted: do they have children?
    """

    rows: Mapping[str, Sequence[Key]]
    vectors: frozenset[str]
    childless: Sequence[Place]


@dataclass(slots=True, kw_only=True)
class Known:
    """What was read.

    Attributes:
        rows: what is stored under each key that was asked for; None: nothing.
        parents: which of the asked parents exist.
        children: parent -> the stored children found (all those that the group touches, and at
            least one that it does not, if there is one).
    """

    rows: dict[Place, Stored | None] = field(default_factory=dict)
    parents: set[Place] = field(default_factory=set)
    children: dict[Place, list[Place]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The final states of one table.

    Attributes:
        upserts: rows to merge, one a key.
        known: of those, the keys whose existence was read: key -> True if it was there.
        deletes: keys to delete; each was there.
    """

    upserts: Mapping[Key, Stored]
    known: Mapping[Key, bool]
    deletes: Sequence[Key]


def needs_row(table: Table, write: Write) -> bool:
    """True if the outcome of a write depends on what is stored under its key."""
    if write.op is not WriteOp.UPSERT or write.keep or write.expected is not None:
        return True
    if table.vector and not write.set_vector:
        return True
    partly = not table.shape.held <= write.fields.keys()
    return partly or any(not column.rest for column in table.packed)


def needs_of(tables: Mapping[str, Table], writes: Sequence[Write]) -> Needs:
    """Return what has to be read to resolve these writes."""
    rows: dict[str, dict[Key, None]] = {}
    vectors: set[str] = set()
    childless: dict[Place, None] = {}
    has_children = {t.spec.parent.collection for t in tables.values() if t.spec.parent is not None}
    for write in writes:
        table = tables[write.collection]
        if not table.layout.holds(table.spec, write.key) or len(write.key) != len(table.spec.key):
            continue
        if needs_row(table, write):
            rows.setdefault(write.collection, {})[write.key] = None
        if write.op is WriteOp.PATCH or not write.set_vector:
            vectors.add(write.collection)
        if write.op is WriteOp.DELETE and write.collection in has_children:
            childless[write.collection, write.key] = None
    return Needs(
        rows={name: tuple(keys) for name, keys in rows.items()},
        vectors=frozenset(vectors),
        childless=tuple(childless),
    )


def parents_of(
    tables: Mapping[str, Table], writes: Sequence[Write], rows: Mapping[Place, Stored | None]
) -> dict[str, set[Key]]:
    """Return the parents that must be there: collection -> keys."""
    found: dict[str, set[Key]] = {}
    for write in writes:
        spec = tables[write.collection].spec
        if spec.parent is None or write.op is WriteOp.DELETE or len(write.key) != len(spec.key):
            continue
        stored = rows.get((write.collection, write.key))
        before = {} if stored is None else stored.record.fields
        for fields in (before, {**before, **write.fields}):
            parent = parent_key(spec, write.key, fields)
            if parent is not None:
                found.setdefault(spec.parent.collection, set()).add(parent)
    return found


class Resolver:
    """Resolves the writes of one group, in order."""

    def __init__(
        self, store: str, tables: Mapping[str, Table], known: Known, now: dt.datetime
    ) -> None:
        self._store = store
        self._tables = tables
        self._known = known
        self._now = now
        self._states: dict[Place, Stored | None] = {}

    def apply(self, write: Write) -> WriteResult:
        """Return the outcome of the next write."""
        table = self._tables[write.collection]
        place = (write.collection, write.key)
        before = self._before(place)
        if write.op is WriteOp.DELETE:
            return self._delete(place, before)
        hindrance = hindered(table.spec, write, None if before is None else before.record)
        if hindrance is not None:
            return WriteResult(applied=hindrance)
        why = write_misfit(table, write, self._store, whole=before is None)
        if why:
            return WriteResult(applied=Applied.REFUSED, detail=why)
        record = table.shape.written(write, None if before is None else before.record, self._now)
        if self._parent_missing(table, record):
            return WriteResult(applied=Applied.PARENT_MISSING)
        others = {} if before is None else before.others
        self._states[place] = Stored(record=record, others=others)
        return WriteResult(
            applied=Applied.DONE, record=record if write.op is WriteOp.PATCH else None
        )

    def _before(self, place: Place) -> Stored | None:
        if place in self._states:
            return self._states[place]
        return self._known.rows.get(place)

    def _delete(self, place: Place, before: Stored | None) -> WriteResult:
        if before is None:
            return WriteResult(applied=Applied.NOT_FOUND)
        if self._has_children(place):
            return WriteResult(applied=Applied.HAS_CHILDREN)
        self._states[place] = None
        return WriteResult(applied=Applied.DONE)

    def _parent_missing(self, table: Table, record: Record) -> bool:
        if table.spec.parent is None:
            return False
        key = parent_key(table.spec, record.key, record.fields)
        if key is None:
            return False
        place = (table.spec.parent.collection, key)
        if place in self._states:
            return self._states[place] is None
        if place in self._known.rows:
            return self._known.rows[place] is None
        return place not in self._known.parents

    def _has_children(self, place: Place) -> bool:
        stored = self._known.children.get(place, ())
        if any(child not in self._states for child in stored):
            return True  # the group leaves this one where it is
        return any(
            state is not None and self._is_child(child, state, place)
            for child, state in self._states.items()
        )

    def _is_child(self, child: Place, state: Stored, place: Place) -> bool:
        spec = self._tables[child[0]].spec
        if spec.parent is None or spec.parent.collection != place[0]:
            return False
        return parent_key(spec, child[1], state.record.fields) == place[1]

    def changes(self) -> dict[str, Changes]:
        """Return the final states by collection, without keys that end as they began."""
        found: dict[str, Changes] = {}
        for collection in self._tables:
            states = {place[1]: s for place, s in self._states.items() if place[0] == collection}
            there = {key: self._was_there(collection, key) for key in states}
            upserts = {key: state for key, state in states.items() if state is not None}
            deletes = [key for key, state in states.items() if state is None and there[key]]
            known = {key: bool(there[key]) for key in upserts if there[key] is not None}
            if upserts or deletes:
                found[collection] = Changes(upserts=upserts, known=known, deletes=deletes)
        return found

    def _was_there(self, collection: str, key: Key) -> bool | None:
        place = (collection, key)
        if place in self._known.rows:
            return self._known.rows[place] is not None
        return None
