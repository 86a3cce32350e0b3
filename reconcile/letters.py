"""Dead letters: records that cannot be converted, never dropped silently (rule B6)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from proxy.ledger.base import CopyLog
from proxy.model import Key

REMEMBERED_MAX = 100_000
"""Open letters kept in memory; with more of them every copied key is asked about."""


class DeadLetters:
    """The open dead letters, so that a later success closes them without a question a batch."""

    def __init__(self, log: CopyLog, job_id: int) -> None:
        self._log = log
        self._job_id = job_id
        self._open: dict[str, set[Key]] = {}
        self._complete = False

    async def load(self) -> None:
        """Read what is open now."""
        letters = await self._log.dead_letters(limit=REMEMBERED_MAX)
        self._open = {}
        for letter in letters:
            self._open.setdefault(letter.collection, set()).add(letter.key)
        self._complete = len(letters) < REMEMBERED_MAX

    async def add(self, collection: str, reasons: Mapping[Key, str]) -> None:
        """Record letters, durably, before the checkpoint passes them."""
        if not reasons:
            return
        await self._log.add_dead_letters(self._job_id, collection, reasons)
        self._open.setdefault(collection, set()).update(reasons)

    async def resolve(self, collection: str, keys: Collection[Key]) -> int:
        """Close the letters of keys that were copied after all. Return how many."""
        known = self._open.get(collection, set())
        closed = known.intersection(keys) if self._complete else set(keys)
        if not closed:
            return 0
        known -= closed
        return await self._log.resolve_dead_letters(collection, closed, resolution="copied")
