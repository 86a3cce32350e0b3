"""Locks by key inside one replica, so that its own writes of a key never overlap (rule W5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from proxy.model import Key

LockId = tuple[str, Key]


class _Entry:
    """One lock and how many hold or want it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class KeyLocks:
    """Mutual exclusion by (collection, key); memory is bounded by the writes in flight."""

    def __init__(self) -> None:
        self._entries: dict[LockId, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @asynccontextmanager
    async def hold(self, ids: Iterable[LockId]) -> AsyncIterator[None]:
        """Hold the locks of all ids, taken in one order for everybody, so none deadlocks."""
        ordered = sorted(set(ids), key=repr)
        held: list[LockId] = []
        try:
            for lock_id in ordered:
                entry = self._entries.setdefault(lock_id, _Entry())
                entry.users += 1
                try:
                    await entry.lock.acquire()
                except BaseException:
                    self._leave(lock_id)
                    raise
                held.append(lock_id)
            yield
        finally:
            for lock_id in reversed(held):
                self._entries[lock_id].lock.release()
                self._leave(lock_id)

    def _leave(self, lock_id: LockId) -> None:
        entry = self._entries[lock_id]
        entry.users -= 1
        if not entry.users:
            del self._entries[lock_id]
