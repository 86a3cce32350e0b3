"""Which requests may begin: as many as `Pace` allows; what a swap has held up stands in line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from proxy.dual_write.pace import Pace
from proxy.errors import Reason, Rejected, Unavailable

_LINE_SHARE: Final = 10
"""So many times the writes in flight at most may wait for a swap: they cost memory alone."""


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """A request's place: taken once `given` is done. `held`: it came while writes were held."""

    held: bool
    given: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Room:
    """Places for requests.

    While a swap holds the writes no place becomes free, and nobody is refused for that (section
    7): who comes then stands in line, and so do those who come until that line has gone in. Past
    that a write without a place is refused at once: a queue of any other kind serves nobody.

    Args:
        most: writes in flight at most, however fast the primary is.
        held: true while a swap holds the writes.
        wait_s: how long one may stand in line.
    """

    def __init__(self, pace: Pace, *, most: int, held: Callable[[], bool], wait_s: float) -> None:
        self._pace = pace
        self._line_max = _LINE_SHARE * most
        self._held = held
        self._wait_s = wait_s
        self._taken = 0
        self._line: deque[Place] = deque()
        self._held_in_line = 0

    def ask(self) -> Place:
        """Return a place, or one in line.

        Raises:
            Rejected(RESOURCE_EXHAUSTED): too many writes are in flight, or stand in line.
        """
        held = self._held()
        if not (held or self._held_in_line):
            self._pace.require_room(self._taken)
        place = Place(held=held)
        if self._taken < self._pace.limit and not self._line:
            self._give(place)
        elif len(self._line) < self._line_max:
            self._line.append(place)
            self._held_in_line += held
        else:
            raise Rejected(
                f"{len(self._line)} writes wait for a swap of the primary already.",
                reason=Reason.RESOURCE_EXHAUSTED,
                hint="Retry; the swap ends or gives up by itself.",
            )
        return place

    @asynccontextmanager
    async def taken(self, place: Place) -> AsyncIterator[None]:
        """Wait until the place is given, and leave it at the end.

        Raises:
            Unavailable: it was not given in time; nothing was written.
        """
        try:
            await self._wait(place)
            yield
        finally:
            self._leave(place)

    async def _wait(self, place: Place) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await place.given
        except TimeoutError as error:
            raise Unavailable(
                f"The write stood in line for {self._wait_s:g} s for a swap of the primary.",
                where="proxy",
                hint="Nothing was written; retry.",
            ) from error

    def _give(self, place: Place) -> None:
        self._taken += 1
        place.given.set_result(None)

    def _leave(self, place: Place) -> None:
        if place.given.done() and not place.given.cancelled():
            self._taken -= 1
        else:
            place.given.cancel()  # its turn passes it by
        while self._line and self._taken < self._pace.limit:
            following = self._line.popleft()
            self._held_in_line -= following.held
            if not following.given.done():
                self._give(following)
