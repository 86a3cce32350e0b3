"""Numbers for new records: LanceDB has no sequences, so the writing process counts.

A sequence begins past the largest value stored. It never goes back while the store is open; after
a restart numbers that were given out and never stored may be given out again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from proxy.errors import Reason, Rejected
from proxy.filters import field_value
from proxy.query import Projection
from proxy.stores.lancedb.database import Database
from proxy.stores.lancedb.errors import reading
from proxy.stores.lancedb.rows import select
from proxy.stores.lancedb.scan import prepare, records

_SCAN_DEADLINE_S: Final = 600.0


class Sequences:
    """The sequences of one store."""

    def __init__(self, store: str, database: Database) -> None:
        self._store = store
        self._database = database
        self._last: dict[str, int] = {}
        self._lock = asyncio.Lock()

    async def allocate(self, collection: str, field: str, count: int) -> list[int]:
        """Return the next numbers of a field's sequence.

        Raises:
            Rejected: the layout names no sequence for the field.
        """
        name = self._database.table(collection).table.layout.sequences.get(field)
        if name is None:
            raise Rejected(
                f"The {self._store} store has no sequence for {collection}.{field}.",
                reason=Reason.FAILED_PRECONDITION,
            )
        async with self._lock:
            if name not in self._last:
                await self._align(name)
            last = self._last[name]
            self._last[name] = last + count
        return list(range(last + 1, last + count + 1))

    async def align(self, floors: Mapping[tuple[str, str], int] | None) -> None:
        """See `Store.align_sequences`."""
        async with self._lock:
            if floors is None:
                for name in self._users():
                    await self._align(name)
                return
            for (collection, field), floor in floors.items():
                layout = self._database.table(collection).table.layout
                if field in layout.sequences:
                    await self._raise_to(layout.sequences[field], floor)

    async def _raise_to(self, name: str, floor: int) -> None:
        if name not in self._last:
            await self._align(name)
        self._last[name] = max(self._last[name], floor)

    def _users(self) -> dict[str, list[tuple[str, str]]]:
        """Return which fields each sequence numbers."""
        found: dict[str, list[tuple[str, str]]] = {}
        for collection, opened in self._database.tables.items():
            for field, name in opened.table.layout.sequences.items():
                found.setdefault(name, []).append((collection, field))
        return found

    async def _align(self, name: str) -> None:
        """Move a sequence past the largest value stored."""
        largest = self._last.get(name, 0)
        for collection, field in self._users().get(name, ()):
            largest = max(largest, await self._largest(collection, field))
        self._last[name] = largest

    async def _largest(self, collection: str, field: str) -> int:
        opened = self._database.table(collection)
        selection = select(opened.table, Projection(fields=(field,)))
        largest = 0
        async with reading(self._store, collection, _SCAN_DEADLINE_S):
            async for _, found in records(opened.handle, prepare(opened.table, None), selection):
                for record in found:
                    value = field_value(opened.table.spec, record, field)
                    if isinstance(value, int):
                        largest = max(largest, value)
        return largest
