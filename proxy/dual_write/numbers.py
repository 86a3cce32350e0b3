"""Numbers for new records, taken in blocks from the sequences of the store that answers."""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.errors import Unavailable
from proxy.ledger.types import Routing
from proxy.stores.sides import Side

_BLOCK = 32


class Numbers:
    """Hands out sequence numbers, each store's own: a record that one store alone can hold takes
    its number there. A block is thrown away when the epoch changes: after a swap the other store's
    sequence counts on, and gaps are allowed.

    Args:
        deadline_s: how long a store may take to allocate a block.
    """

    def __init__(self, *, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._blocks: dict[tuple[str, str, str], deque[int]] = {}
        self._epoch = 0
        self._lock = asyncio.Lock()

    async def take(self, side: Side, routing: Routing, collection: str, field: str) -> int:
        """Return the next number of a field.

        Raises:
            Unavailable: the store does not answer, or keeps failing.
        """
        async with self._lock:
            if routing.epoch != self._epoch:
                self._blocks.clear()
                self._epoch = routing.epoch
            block = self._blocks.setdefault((side.store.name, collection, field), deque())
            if not block:
                block.extend(await self._allocate(side, collection, field))
            return block.popleft()

    async def _allocate(self, side: Side, collection: str, field: str) -> list[int]:
        """Take a block; whoever waits behind a store that hangs finds its breaker open soon."""
        name = side.store.name
        if side.breaker.state == "open":
            raise Unavailable(f"The {name} store keeps failing.", where=name, hint="Retry later.")
        try:
            async with asyncio.timeout(self._deadline_s):
                return await side.store.next_ids(collection, field, _BLOCK)
        except TimeoutError as error:
            side.breaker.failed()
            raise Unavailable(
                f"The {name} store did not allocate numbers within {self._deadline_s:g} s.",
                where=name,
                hint="Nothing was written; retry.",
            ) from error
        except Unavailable:
            side.breaker.failed()
            raise
