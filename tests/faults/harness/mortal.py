"""A lone proxy that is killed at chosen moments, and at once replaced by one that stood ready."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from crossfade.client import AsyncClient

from tests.faults.harness.marks import MARKED, Marks, Work
from tests.faults.harness.processes import Process
from tests.faults.harness.scene import Replica, Scene


@dataclass(eq=False)
class Spare:
    """A process that has everything imported and waits for the word to serve."""

    process: Process
    marks: Marks


@dataclass(eq=False)
class Mortal:
    """The one proxy of a migration whose store has a single writer.

    Attributes:
        live: the serving replica by name, empty while there is none.
    """

    scene: Scene
    stack: AsyncExitStack
    live: dict[str, Replica] = field(default_factory=dict)

    def clients(self) -> dict[str, AsyncClient]:
        """Return a client of the proxy that serves."""
        return {name: replica.client for name, replica in self.live.items()}

    @property
    def replica(self) -> Replica:
        """The proxy that serves."""
        return self.live["proxy"]

    @property
    def marks(self) -> Marks:
        """What it is at."""
        return self._now.marks

    async def begin(self) -> Replica:
        """Start the first proxy, and have another at hand."""
        self._next = await self._spare()
        return await self._serve()

    async def _spare(self) -> Spare:
        marks = self.stack.enter_context(Marks())
        command = ["serve", "--config", str(self.scene.config()), "--json"]
        process = await self.scene.household.start(
            "serve-mortal",
            [*(str(number) for number in marks.pass_fds), *command],
            module=MARKED,
            pass_fds=marks.pass_fds,
        )
        return Spare(process, marks)

    async def _serve(self) -> Replica:
        self._now = self._next
        self._now.marks.say_go()
        await self._now.process.ready()
        self._next = await self._spare()
        replica = await self.scene.clients(self._now.process)
        self.live["proxy"] = replica
        return replica

    async def killed_when(self, moment: Callable[[Marks], bool]) -> Collection[Work]:
        """Kill -9 it at the first mark at which `moment` holds; start another.

        Returns:
            What it was in the middle of when it died.
        """
        process, marks = self._now.process, self._now.marks

        def strike() -> bool:
            if moment(marks):
                process.reap()
                return True
            return False

        await marks.alarm(strike)
        self.live.clear()
        await process.ended()
        marks.drain()
        died_at = list(marks.under_way.values())
        await self._serve()
        return died_at
