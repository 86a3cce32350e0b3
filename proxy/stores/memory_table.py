"""One collection held in memory: its records by key, in key order, and its bulk format."""

from __future__ import annotations

import base64
import datetime as dt
import json
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Sequence

from proxy.canonical import key_sort_text
from proxy.errors import Reason, Rejected
from proxy.layouts import Layout
from proxy.model import CollectionSpec, FieldType, Key, Record
from proxy.query import KeyRange
from proxy.stores.base import BulkTarget
from proxy.stores.shapes import Shape

DIALECT = "memory"
_CHUNK_BYTES = 64 * 1024


class MemoryTable:
    """The records of one collection, as one layout stores them."""

    def __init__(self, spec: CollectionSpec, layout: Layout) -> None:
        self.spec = spec
        self.layout = layout
        self.records: dict[Key, Record] = {}
        self.shape = Shape(spec, layout)
        self._order: list[tuple[tuple[tuple[int, int, bytes], ...], Key]] = []

    def put(self, key: Key, record: Record | None) -> Record | None:
        """Store or, with None, remove a record; return what was there."""
        entry = (key_sort_text(key), key)
        previous = self.records.get(key)
        if record is None:
            if previous is not None:
                del self.records[key]
                self._order.pop(bisect_left(self._order, entry))
            return previous
        if previous is None:
            insort(self._order, entry)
        self.records[key] = record
        return previous

    def keys(self, keys: KeyRange | None = None, limit: int | None = None) -> list[Key]:
        """Return the keys of a range, ascending."""
        start, stop = 0, len(self._order)
        if keys is not None and keys.after is not None:
            start = bisect_right(self._order, (key_sort_text(keys.after), keys.after))
        if keys is not None and keys.upto is not None:
            stop = bisect_right(self._order, (key_sort_text(keys.upto), keys.upto))
        if limit is not None:
            stop = min(stop, start + limit)
        return [key for _, key in self._order[start:stop]]

    def in_order(self) -> list[Record]:
        """Return every record, ascending by key."""
        return [self.records[key] for _, key in self._order]


class MemoryPage:
    """A page: the records as they were when it was opened."""

    def __init__(self, spec: CollectionSpec, records: Sequence[Record]) -> None:
        self._spec = spec
        self._records = records
        self.keys: Sequence[Key] = [record.key for record in records]

    async def records(self, exclude: frozenset[Key]) -> list[Record]:
        """Return the page's records without those excluded."""
        return [record for record in self._records if record.key not in exclude]

    async def bulk(self, exclude: frozenset[Key], target: BulkTarget) -> AsyncIterator[bytes]:
        """Stream the page's records as JSON lines."""
        if target.dialect != DIALECT or not isinstance(target.plan, tuple):
            raise Rejected(
                f"The memory store cannot write the bulk format {target.dialect}.",
                reason=Reason.UNIMPLEMENTED,
            )
        pending: list[bytes] = []
        size = 0
        for record in await self.records(exclude):
            pending.append(_encode(record, target.plan))
            size += len(pending[-1])
            if size >= _CHUNK_BYTES:
                yield b"".join(pending)
                pending, size = [], 0
        if pending:
            yield b"".join(pending)


def _encode(record: Record, names: tuple[str, ...]) -> bytes:
    fields = {
        name: value.isoformat() if isinstance(value, dt.datetime) else value
        for name, value in record.fields.items()
        if name in names
    }
    vector = None if record.vector is None else base64.b64encode(record.vector).decode()
    return json.dumps([record.key, fields, vector]).encode() + b"\n"


def decode_bulk(spec: CollectionSpec, data: bytes) -> list[Record]:
    """Return the records of a bulk stream that `MemoryPage.bulk` wrote."""
    records: list[Record] = []
    for line in data.splitlines():
        key, fields, vector = json.loads(line)
        for name, value in fields.items():
            if value is not None and spec.by_name[name].type is FieldType.TIMESTAMP:
                fields[name] = dt.datetime.fromisoformat(value)
        records.append(
            Record(
                collection=spec.name,
                key=tuple(key),
                fields=fields,
                vector=None if vector is None else base64.b64decode(vector),
            )
        )
    return records
