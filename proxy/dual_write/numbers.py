"""Numbers for new records, taken in blocks from the sequences of the primary."""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.ledger.types import Routing
from proxy.stores.base import Store

_BLOCK = 32


class Numbers:
    """Hands out sequence numbers. A block is thrown away when the epoch changes: after a swap the
    other store's sequence counts on, and gaps are allowed."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, str], deque[int]] = {}
        self._epoch = 0
        self._lock = asyncio.Lock()

    async def take(self, store: Store, routing: Routing, collection: str, field: str) -> int:
        """Return the next number of a field. Raises what the store raises."""
        async with self._lock:
            if routing.epoch != self._epoch:
                self._blocks.clear()
                self._epoch = routing.epoch
            block = self._blocks.setdefault((collection, field), deque())
            if not block:
                block.extend(await store.next_ids(collection, field, _BLOCK))
            return block.popleft()
