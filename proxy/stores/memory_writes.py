"""Writing to tables held in memory: what each write does, and what stands in its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proxy.clock import Clock
from proxy.errors import Reason, Rejected
from proxy.model import Applied, Key, Record, Write, WriteOp, WriteResult
from proxy.stores.batches import failed, undone
from proxy.stores.fitting import hindered, parent_key
from proxy.stores.memory_table import MemoryTable


def table_of(tables: Mapping[str, MemoryTable], collection: str, store: str) -> MemoryTable:
    """Return the collection's table, or raise Rejected(NOT_FOUND)."""
    table = tables.get(collection)
    if table is None:
        raise Rejected(
            f"The {store} store has no collection {collection!r}.", reason=Reason.NOT_FOUND
        )
    return table


class MemoryWriter:
    """Applies writes to the tables of one store."""

    def __init__(self, store: str, tables: Mapping[str, MemoryTable], clock: Clock) -> None:
        self._store = store
        self._tables = tables
        self._clock = clock

    def apply(
        self, writes: Sequence[Write], *, atomic: bool, orphans: bool = False
    ) -> list[WriteResult]:
        """Apply writes in order; `orphans` lets a bulk load bring children before parents."""
        results: list[WriteResult] = []
        undo: list[tuple[MemoryTable, Key, Record | None]] = []
        for write in writes:
            table = table_of(self._tables, write.collection, self._store)
            before = table.records.get(write.key)
            result = self._apply_one(table, write, before, orphans)
            results.append(result)
            undo.append((table, write.key, before))
            if atomic and failed(write, result):
                for changed, key, previous in reversed(undo):
                    changed.put(key, previous)
                return undone(len(writes), len(results) - 1, result)
        return results

    def _apply_one(
        self, table: MemoryTable, write: Write, before: Record | None, orphans: bool
    ) -> WriteResult:
        if write.op is WriteOp.DELETE:
            return self._delete(table, write, before)
        hindrance = hindered(table.spec, write, before)
        if hindrance is not None:
            return WriteResult(applied=hindrance)
        why = self.misfit(write, whole=before is None)
        if why:
            return WriteResult(applied=Applied.REFUSED, detail=why)
        record = table.shape.written(write, before, self._clock.now())
        if not orphans and self._parent_missing(table, record):
            return WriteResult(applied=Applied.PARENT_MISSING)
        table.put(write.key, record)
        return WriteResult(
            applied=Applied.DONE, record=record if write.op is WriteOp.PATCH else None
        )

    def _delete(self, table: MemoryTable, write: Write, before: Record | None) -> WriteResult:
        if before is None:
            return WriteResult(applied=Applied.NOT_FOUND)
        if self._has_children(write.collection, write.key):
            return WriteResult(applied=Applied.HAS_CHILDREN)
        table.put(write.key, None)
        return WriteResult(applied=Applied.DONE)

    def misfit(self, write: Write, *, whole: bool) -> str:
        """Say why the store refuses these values, "" if it does not.

        `whole`: they are to make a record of their own, so what is left out is null.
        """
        table = table_of(self._tables, write.collection, self._store)
        return table.shape.misfit(write, self._store, whole=whole)

    def _parent_missing(self, table: MemoryTable, record: Record) -> bool:
        if table.spec.parent is None:
            return False
        parents = table_of(self._tables, table.spec.parent.collection, self._store)
        parent = parent_key(table.spec, record.key, record.fields)
        return parent is not None and parent not in parents.records

    def _has_children(self, collection: str, key: Key) -> bool:
        for child in self._tables.values():
            if child.spec.parent is not None and child.spec.parent.collection == collection:
                records = child.records.values()
                if any(parent_key(child.spec, r.key, r.fields) == key for r in records):
                    return True
        return False
