"""What a job passes before each batch: no swap, a routing it may go on under, its throttles."""

from __future__ import annotations

from proxy.ledger.types import Routing
from reconcile.bench import Bench
from reconcile.checkpoint import JobRun
from reconcile.roles import Pair
from reconcile.throttle import Throttle, limits_of


class Gate:
    """The gate of one run of a job, shared by its workers."""

    def __init__(self, bench: Bench, run: JobRun) -> None:
        self._bench = bench
        self._run = run
        self._throttle = Throttle(limits_of(bench.settings), bench.clock)
        self._routing: Routing | None = None

    async def follow(self, routing: Routing) -> None:
        """Go on only if what was done so far is worth something under this routing.

        Raises:
            Rejected(FAILED_PRECONDITION): dual writing began, or a swap came, after the job did.
        """
        await self._bench.current(self._run.job, routing, self._routing)
        self._routing = routing
        self._run.note_routing(routing)

    async def passed(self, pair: Pair) -> None:
        """Return when the next batch may begin.

        Raises:
            Interrupted: the job is to stop.
            RolesChanged: the primary or the phase is another one now.
            Rejected(FAILED_PRECONDITION): see `follow`.
        """

        async def ping() -> None:
            await pair.primary.ping(deadline_s=self._bench.settings.deadline_s)

        async def throttled() -> None:
            await self._throttle.wait(ping, self._run.check)

        self._run.check()
        await self._bench.retry(throttled, self._run.check)
        await self.follow(await self._bench.released(pair.roles, self._run.check))

    def spend(self, rows: int, size_bytes: int) -> None:
        """Note what a batch has moved; the next ones wait for it."""
        self._throttle.spend(rows, size_bytes)
