"""Open both stores at the start; one that is down is opened as soon as it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from proxy.clock import Clock
from proxy.errors import (
    ConfigInvalid,
    CrossfadeError,
    StoreProblem,
    StoreTaken,
    Unavailable,
)
from proxy.stores.base import Store

log = logging.getLogger(__name__)

_RETRY_S = 0.5

TAKEN_WAIT_S = 15.0
"""So long a proxy waits for a store that another process writes, if that one is no proxy."""


class Opening:
    """The two stores by name, and which of them did not answer yet.

    A secondary that is down keeps no proxy from starting (rule W3): until it is open its calls
    fail, so its breaker is open and the ledger takes over.
    """

    def __init__(self, stores: Mapping[str, Store], clock: Clock) -> None:
        self.stores = stores
        self._clock = clock
        self._down: dict[str, Unavailable] = {}
        self._told: dict[str, str] = {}
        self._used = frozenset(stores)
        self._taken_wait_s = 0.0

    async def open(self, *, only: str = "", taken_wait_s: float = 0.0) -> None:
        """Open both and check their tables; everything that is wrong is told at once.

        Args:
            only: the one store that the phase still uses, "" for both. The other may have lost
                its tables: what is wrong with it is logged, and it stays closed.
            taken_wait_s: how long another process may take to let go of a store.

        Raises:
            ConfigInvalid: tables, columns or types do not fit the layouts.
            Corrupt: a store answers with what cannot be read.
            StoreTaken: another process writes a store that has a single writer. To serve beside
                it would leave that store out of every write, so whoever comes second goes.
        """
        self._taken_wait_s = taken_wait_s
        if only:
            self._used = frozenset((only,))
        opening = (self._open(name) for name in self.stores)
        # Both have ended before an error goes on: whoever closes a store that is still being
        # opened leaves the tasks of its pool behind.
        found = await asyncio.gather(*opening, return_exceptions=True)
        problems: list[StoreProblem] = []
        for part in found:
            if isinstance(part, BaseException):
                raise part
            problems += part
        if problems:
            # In the words of `crossfade plan`: what is wrong, and in brackets what helps.
            listed = "".join(f"\n  {problem}" for problem in problems)
            raise ConfigInvalid(f"The stores do not fit the layouts.{listed}", ())

    async def _open(self, name: str) -> list[StoreProblem]:
        try:
            problems = await self._open_when_free(name)
        except Unavailable as error:
            if isinstance(error, StoreTaken) and name in self._used:
                raise
            self._down[name] = error
            return []
        except CrossfadeError as error:
            if name in self._used:
                raise
            await self._leave_closed(name, str(error))
            return []
        if problems and name not in self._used:
            await self._leave_closed(name, _misfit(problems))
            return []
        return problems

    async def _open_when_free(self, name: str) -> list[StoreProblem]:
        """Open and check a store; one that another process writes is waited for, a while."""
        until_s = self._clock.monotonic_s() + self._taken_wait_s
        while True:
            try:
                return await open_and_check(self.stores[name])
            except StoreTaken as error:
                if name not in self._used or self._clock.monotonic_s() >= until_s:
                    raise
                if name not in self._told:
                    self._told[name] = str(error)
                    log.warning("waiting up to %g s: %s", self._taken_wait_s, error)
            await self._clock.sleep(_RETRY_S)

    async def _leave_closed(self, name: str, trouble: str) -> None:
        await self.stores[name].close()
        self._tell(name, trouble)

    def require(self, name: str) -> None:
        """Return if this store is open.

        Raises:
            Unavailable: it does not answer.
        """
        if name in self._down:
            raise self._down[name]

    @property
    def complete(self) -> bool:
        """True once every store that the phase uses is open."""
        return not self._used.intersection(self._down)

    async def run(self) -> None:
        """Try again until every store is open."""
        for name, error in self._down.items():
            log.error("serving without the %s store: %s", name, error)
        while self._down:
            await self._clock.sleep(_RETRY_S)
            for name in list(self._down):
                await self._try_again(name)

    async def _try_again(self, name: str) -> None:
        store = self.stores[name]
        try:
            problems = await open_and_check(store)
        except CrossfadeError as error:
            self._tell(name, str(error))
            return
        if problems:
            # Its writes would be refused one by one; as it is, they are marked and repaired.
            await self._leave_closed(name, _misfit(problems))
            if name not in self._used:
                del self._down[name]
            return
        del self._down[name]
        log.warning("the %s store answers now", name)

    def _tell(self, name: str, trouble: str) -> None:
        if self._told.get(name) != trouble:
            self._told[name] = trouble
            log.error("the %s store is not opened: %s", name, trouble)


def _misfit(problems: Sequence[StoreProblem]) -> str:
    listed = "; ".join(str(problem) for problem in problems)
    return f"it does not fit its layouts: {listed}"


async def open_and_check(store: Store) -> list[StoreProblem]:
    """Open a store and return what does not fit its layouts.

    Raises:
        Unavailable: it does not answer.
    """
    await store.open()
    return await store.check()
