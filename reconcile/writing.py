"""Writing copied records to the secondary: what was stored, refused, or must wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.errors import Corrupt
from proxy.model import Applied, CollectionSpec, Key, Record, Write, WriteOp, WriteResult
from proxy.query import And, Compare, CompareOp, ListQuery
from reconcile.ranges import Scope, children_of
from reconcile.roles import CopyLedger, Pair

CHILDREN_MAX = 1000
"""Children of one parent that are marked in one round; the next round finds the rest."""

SHOWN_MAX = 400
"""Characters of a reason that are kept."""

FIELD_BYTES = 24
"""About what a field takes beside its text."""


@dataclass(slots=True)
class Stored:
    """The outcome of writing a batch, sorted.

    Attributes:
        touched: the secondary holds what the primary held.
        waiting: not stored; the key stays dirty.
        dead: keys that cannot be stored, with reasons; they wait too.
        orphans: key -> key of the parent that the secondary lacks.
        blocked: parents that still have children on the secondary.
    """

    touched: set[Key] = field(default_factory=set)
    waiting: set[Key] = field(default_factory=set)
    dead: dict[Key, str] = field(default_factory=dict)
    orphans: dict[Key, Key] = field(default_factory=dict)
    blocked: set[Key] = field(default_factory=set)
    deleted: int = 0
    bytes: int = 0

    @property
    def left(self) -> frozenset[Key]:
        """Every key that was not stored."""
        return frozenset(self.waiting) | frozenset(self.dead)


def full_write(scope: Scope, record: Record, op: WriteOp) -> Write:
    """Return the write that stores what both stores hold of a record."""
    return Write(
        op=op,
        collection=scope.spec.name,
        key=record.key,
        fields={name: record.fields.get(name) for name in scope.fields},
        vector=record.vector if scope.sets_vector else None,
        set_vector=scope.sets_vector,
    )


def record_bytes(record: Record) -> int:
    """Return about how many bytes a record takes in memory."""
    size = len(record.vector or b"")
    for value in (*record.key, *record.fields.values()):
        size += FIELD_BYTES + (len(value) if isinstance(value, str) else len(repr(value)))
    return size


def parent_key(spec: CollectionSpec, record: Record) -> Key | None:
    """Return the key of a record's parent, None if it has none."""
    if spec.parent is None:
        return None
    values = {**record.fields, **dict(zip(spec.key, record.key, strict=True))}
    parts = [values.get(name) for name in spec.parent.fields]
    if any(not isinstance(part, str | int) for part in parts):
        return None
    return tuple(part for part in parts if isinstance(part, str | int))


def sort_results(
    spec: CollectionSpec,
    writes: Sequence[Write],
    results: Sequence[WriteResult],
    records: Mapping[Key, Record],
) -> Stored:
    """Sort the outcomes of a batch of inserts, upserts and deletes."""
    if len(results) != len(writes):
        raise Corrupt(f"{len(results)} results came back for {len(writes)} writes of {spec.name}.")
    stored = Stored()
    for write, result in zip(writes, results, strict=True):
        deletes = write.op is WriteOp.DELETE
        if result.applied is Applied.DONE or (deletes and result.applied is Applied.NOT_FOUND):
            stored.touched.add(write.key)
            stored.deleted += deletes and result.applied is Applied.DONE
        elif result.applied is Applied.REFUSED:
            stored.dead[write.key] = result.detail[:SHOWN_MAX] or "refused by the store"
        else:
            stored.waiting.add(write.key)
            parent = None if deletes else parent_key(spec, records[write.key])
            if result.applied is Applied.PARENT_MISSING and parent is not None:
                stored.orphans[write.key] = parent
            if result.applied is Applied.HAS_CHILDREN:
                stored.blocked.add(write.key)
    return stored


class SecondaryWriter:
    """Writes to the secondary of a pair, inside an open copy."""

    def __init__(self, ledger: CopyLedger, *, deadline_s: float) -> None:
        self._ledger = ledger
        self._deadline_s = deadline_s

    async def store(
        self,
        pair: Pair,
        records: Sequence[Record],
        deletes: Sequence[Key],
        *,
        op: WriteOp,
        written: set[Key],
    ) -> Stored:
        """Store records and delete keys on the secondary; keys go to `written` before that.

        The records have the vectors of the secondary already (`reconcile.vectors`).
        """
        dead = await self._unconvertible(pair, records)
        kept = {record.key: record for record in records if record.key not in dead}
        writes = [full_write(pair.scope, record, op) for record in kept.values()]
        writes += [Write(op=WriteOp.DELETE, collection=pair.name, key=key) for key in deletes]
        stored = Stored()
        if writes:
            written.update(write.key for write in writes)
            results = await pair.secondary.apply(writes, atomic=False, deadline_s=self._deadline_s)
            stored = sort_results(pair.scope.spec, writes, results, kept)
        stored.bytes = sum(record_bytes(record) for record in records)
        stored.dead.update(dead)
        await self._unblock(pair, stored)
        return stored

    async def _unconvertible(self, pair: Pair, records: Sequence[Record]) -> dict[Key, str]:
        reasons = {record.key: await pair.secondary.unconvertible(record) for record in records}
        return {key: reason[:SHOWN_MAX] for key, reason in reasons.items() if reason}

    async def _unblock(self, pair: Pair, stored: Stored) -> None:
        """Mark what must be repaired first: parents of orphans, children of blocked parents."""
        if stored.orphans:
            await self._mark_parents(pair, stored)
        for key in sorted(stored.blocked, key=repr):
            await self._mark_children(pair, key)

    async def _mark_parents(self, pair: Pair, stored: Stored) -> None:
        parent = pair.scope.spec.parent
        if parent is None:
            return
        keys = sorted(set(stored.orphans.values()), key=repr)
        there = await pair.primary.get(
            parent.collection, keys, vectors=False, deadline_s=self._deadline_s
        )
        if there:
            await self._ledger.mark_dirty(
                parent.collection, list(there), reason="missing parent of a copied record"
            )
        for key, wanted in stored.orphans.items():
            if wanted not in there:
                stored.waiting.discard(key)
                stored.dead[key] = (
                    f"its parent {list(wanted)} in {parent.collection} does not exist"
                )

    async def _mark_children(self, pair: Pair, key: Key) -> None:
        for child in children_of(pair.secondary.schema.collections, pair.name):
            names = child.parent.fields if child.parent is not None else ()
            match = And(
                parts=tuple(
                    Compare(field=name, op=CompareOp.EQ, value=part)
                    for name, part in zip(names, key, strict=True)
                )
            )
            query = ListQuery(collection=child.name, filter=match, limit=CHILDREN_MAX)
            found = await pair.secondary.list_keys(query, deadline_s=self._deadline_s)
            if found:
                await self._ledger.mark_dirty(child.name, found, reason="its parent is gone")
