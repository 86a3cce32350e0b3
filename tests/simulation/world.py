"""One run: two stores, a ledger, replicas, a reconciler, clients, an operator, and trouble."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from proxy.errors import CrossfadeError, Unavailable
from proxy.ledger.base import Ledger
from proxy.ledger.memory import MemoryLedger
from proxy.stores.base import Store
from proxy.stores.memory import MemoryStore
from reconcile.service import serve
from tests.simulation.history import History
from tests.simulation.loop import SimClock, SimLoop
from tests.simulation.network import Link, Network, SimLedger, SimStore
from tests.simulation.plan import Plan
from tests.simulation.points import SAFE, Dangers, Points, Reached
from tests.simulation.replica import Replica, Surroundings, reconciler
from tests.simulation.schema import schemas
from tests.simulation.watch import Watch

T = TypeVar("T")

_COPIER_LATE_S = 3.0
"""With a deadline of 2 s this is what `reconcile.late` reckons with."""


class World:
    """Everything that a run consists of, alive or dead."""

    def __init__(self, seed: int, plan: Plan, loop: SimLoop, reached: Reached) -> None:
        self.seed = seed
        self.plan = plan
        self.loop = loop
        self.clock = SimClock(loop)
        self.reached = reached
        self.stores = {
            name: MemoryStore(name, schemas()[name], self.clock) for name in ("old", "new")
        }
        self.ledger = MemoryLedger(self.clock)
        self.network = Network(loop, random.Random(f"{seed}/network"), dict(plan.weather))
        self.history = History()
        self.watch = Watch(self.stores, self.ledger)
        self.network.on_landing = self.watch.look
        self.rng = random.Random(f"{seed}/world")
        self.calm = False
        self._replicas: dict[str, Replica] = {}
        self._starts = 0
        self.reconcilers: set[str] = set()

    @property
    def names(self) -> list[str]:
        """The replicas that a client would try: those not known to be dead."""
        return list(self._replicas)

    def replica(self, name: str) -> Replica | None:
        """Return a replica, None if that process is dead."""
        return self._replicas.get(name)

    # Processes.

    def _surroundings(self, kind: str, dangers: Dangers, late_s: float) -> Surroundings:
        self._starts += 1
        name = f"{kind}-{self._starts}"
        link = Link(self.network, name, late_s=late_s)

        def now() -> Dangers:
            return SAFE if self.calm else dangers

        return Surroundings(
            name=name,
            stores={side: cast(Store, SimStore(link, self.stores[side])) for side in self.stores},
            ledger=cast(Ledger, SimLedger(link, self.ledger)),
            clock=self.clock,
            rng=random.Random(f"{self.seed}/{name}"),
            points=Points(
                rng=random.Random(f"{self.seed}/{name}/points"),
                dangers=now,
                reached=self.reached,
                die=lambda: self.die(name),
                stop=lambda: self.stop(name),
            ),
            history=self.history,
        )

    def start_replica(self) -> str:
        """Start a proxy; it takes requests once it has joined the migration."""
        at = self._surroundings("replica", self.plan.replica_dangers, _LATE)
        replica = Replica(at, ack=self.plan.ack)

        async def life() -> None:
            while True:
                try:
                    await replica.run(self.loop.spawn)
                    break
                except CrossfadeError:
                    await asyncio.sleep(0.2)
            self._replicas[at.name] = replica

        self.loop.spawn(at.name, life())
        return at.name

    def start_reconciler(self) -> None:
        """Start a reconciler in a process of its own."""
        at = self._surroundings("reconciler", self.plan.reconciler_dangers, _COPIER_LATE_S)
        self.reconcilers.add(at.name)
        runner = reconciler(at, at.name)

        async def life() -> None:
            await serve(runner)

        self.loop.spawn(at.name, life())

    def die(self, name: str) -> None:
        """Kill a process (kill -9); its place is taken by a new one after a while."""
        if not self.loop.alive(name):
            return
        self.network.note(f"{name} dies")
        self.loop.kill(name)
        self._replicas.pop(name, None)
        again = self.start_reconciler if name in self.reconcilers else self.start_replica
        self.reconcilers.discard(name)

        async def restart() -> None:
            await asyncio.sleep(self.rng.random() * 3.0)
            again()

        self.loop.spawn("", restart(), "restart")

    def stop(self, name: str) -> None:
        """Stop a process for a while, perhaps past its lease (SIGSTOP, SIGCONT)."""
        if not self.loop.alive(name) or self.loop.paused(name):
            return
        self.network.note(f"{name} stops")
        self.loop.pause(name)

        async def go_on() -> None:
            await asyncio.sleep(self.rng.choice((0.5, 3.0, 9.0)) * (0.5 + self.rng.random()))
            self.network.note(f"{name} goes on")
            self.loop.resume(name)

        self.loop.spawn("", go_on(), "go on")

    # Calls from outside.

    async def rpc(
        self,
        name: str,
        work: Callable[[Replica], Awaitable[T]],
        *,
        patience_s: float,
    ) -> T:
        """Ask a replica; the caller hangs up after its patience.

        Raises:
            Unavailable: nobody listens there.
            TimeoutError: no answer in time; the replica's handler is cancelled.
        """
        delay_s = self.network.weather["ledger"].delay_s
        await asyncio.sleep(delay_s * self.rng.random())
        replica = self._replicas.get(name)
        if replica is None:
            raise Unavailable("connection refused", where="proxy")
        answer: asyncio.Future[T] = self.loop.create_future()

        async def handle() -> None:
            try:
                result = await work(replica)
            except Exception as error:  # noqa: BLE001  # it is the caller's to see
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()
            else:
                if not answer.done():
                    answer.set_result(result)

        handler = self.loop.spawn(name, handle(), f"{name} rpc")
        try:
            async with asyncio.timeout(patience_s):
                return await answer
        except TimeoutError:
            # The replica learns of it a moment later.
            self.loop.call_later(delay_s * self.rng.random(), handler.cancel)
            raise


_LATE = 2.0
