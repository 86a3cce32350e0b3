"""Tell health checks to go elsewhere while this replica's lease is over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from proxy.clock import Clock

log = logging.getLogger(__name__)

_POLL_S = 0.5


class LeaseHealth:
    """NOT_SERVING from the end of the lease on, SERVING again once it is renewed.

    Reads are refused only `reads.lease_grace_s` later: callers that ask health first have moved
    on by then.

    Args:
        lease_left_s: seconds of the lease that are left; 0 or less: it is over.
        set_serving: told of each change; the replica counts as serving at the start.
    """

    def __init__(
        self,
        lease_left_s: Callable[[], float],
        set_serving: Callable[[bool], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._lease_left_s = lease_left_s
        self._set_serving = set_serving
        self._clock = clock
        self._serving = True

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(_POLL_S)

    async def look(self) -> None:
        """Tell health what has changed since the last look."""
        serving = self._lease_left_s() > 0
        if serving == self._serving:
            return
        self._serving = serving
        await self._set_serving(serving)
        if serving:
            log.warning("the lease is renewed: serving again")
        else:
            log.error("the lease is over: health answers NOT_SERVING until it is renewed")
