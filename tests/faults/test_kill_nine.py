"""Two replicas and a reconciler are killed again and again under load, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from crossfade.client import AsyncClient
from crossfade.client.control_types import JobKind, JobState, Phase
from crossfade.client.errors import CallError

from tests.faults.harness import databases
from tests.faults.harness.load import Load
from tests.faults.harness.processes import Process
from tests.faults.harness.scene import ACTOR, Replica, Scene
from tests.faults.harness.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

KILLS = int(os.environ.get("CROSSFADE_KILLS", "10"))
"""Of each of the three processes; more of them make a soak."""
NAPS = 0.15
"""Share of the kills of a replica before which it is suspended for about its lease."""
TRUCE_S = 3.0
FIRST_TRUCE_S = 8.0
"""How long the replicas are left alone now and then, so that a swap can get through."""
WAR_CALLS = 300
"""Calls of clients between two truces."""
TIMES = {
    "ledger": {"lease_s": 1.5},
    "switch": {"drain_timeout_s": 2.0},
}
"""A dead replica is out sooner than a swap gives up, so that some swaps get through."""
SOURCES = [f"crate-{number}" for number in range(8)]
PATHS = [f"page-{number}.html" for number in range(12)]
OLDER = [f"older-{number:03}.html" for number in range(60)]
"""Documents that nobody writes: the backfill alone brings them over."""


@dataclass
class Town:
    """The processes by name, and the replicas that serve."""

    scene: Scene
    rng: random.Random
    load: Load | None = None
    live: dict[str, Replica] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    naps: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    war: asyncio.Event = field(default_factory=asyncio.Event)

    def clients(self) -> dict[str, AsyncClient]:
        """Return a client of each replica that serves."""
        return {name: replica.client for name, replica in self.live.items()}

    def any_replica(self) -> Replica | None:
        """Return a replica that serves."""
        return self.rng.choice(list(self.live.values())) if self.live else None

    async def replica(self, name: str) -> Process:
        """Start a replica; it is live once it serves."""
        return await self.scene.start_serve(name)

    async def torment(self, name: str, start: Callable[[], Awaitable[Process]]) -> Process:
        """Kill a process again and again, now and then before it serves; leave one running."""
        process = await start()
        while self.kills.get(name, 0) < KILLS:
            early = self.rng.random() < 0.2
            if early:
                await self._after_calls(self.rng.randrange(10, 40))
            else:
                await self._up(name, process)
                await self._after_calls(self.rng.randrange(10, 80))
            if name != "reconcile":
                await self.war.wait()
                if not early and self.rng.random() < NAPS:
                    await self._nap(process)
            self.live.pop(name, None)
            assert process.running, f"{name} ended by itself\n{process.tail()}"
            await process.kill()
            self.kills[name] = self.kills.get(name, 0) + 1
            process = await start()
        await self._up(name, process)
        return process

    async def _nap(self, process: Process) -> None:
        """Suspend a replica past its lease, and let it go on for a while."""
        process.pause()
        try:
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * TIMES["ledger"]["lease_s"])
        finally:
            process.resume()
        self.naps += 1
        await self._after_calls(20)

    async def _up(self, name: str, process: Process) -> None:
        await process.ready()
        if process.address:
            self.live[name] = await self.scene.clients(process)

    async def truces(self, done: asyncio.Event) -> None:
        """Leave the replicas alone now and then until a swap got through, or for some seconds."""
        assert self.load is not None
        while not done.is_set():
            target = self.load.calls + WAR_CALLS
            while self.load.calls < target and not done.is_set():
                await asyncio.sleep(0.05)
            self.war.clear()
            swaps = self.swaps
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TRUCE_S if swaps else FIRST_TRUCE_S):
                    while self.swaps == swaps:
                        await asyncio.sleep(0.05)
            self.war.set()

    @property
    def swaps(self) -> int:
        """Swaps to the new store that got through."""
        return self.steps.count(Phase.NEW_PRIMARY.value)

    async def _after_calls(self, count: int) -> None:
        """Wait until clients have made more calls, or no replica is there to take them."""
        assert self.load is not None
        load, target = self.load, self.load.calls + count
        await until(lambda: load.calls >= target or not self.live, what="more calls")


async def walk(town: Town, done: asyncio.Event) -> None:
    """Go forward and back through the phases until told to stop."""
    while not done.is_set():
        replica = town.any_replica()
        if replica is None:
            await asyncio.sleep(0.02)
            continue
        try:
            now = (await replica.control.status()).routing.phase
            if now is Phase.RAMP:
                await replica.control.set_traffic(
                    town.rng.choice([20.0, 60.0, 100.0]), actor=ACTOR, reason="walk", force=True
                )
                back = town.steps[-2:] == [Phase.NEW_PRIMARY.value, Phase.RAMP.value]
                target = town.rng.choice([Phase.NEW_PRIMARY, Phase.DUAL_WRITE])
                target = target if back else Phase.NEW_PRIMARY
            else:
                target = Phase.SHADOW if now is Phase.DUAL_WRITE else Phase.RAMP
            change = await replica.control.change_phase(
                target, actor=ACTOR, reason="walk", force=True
            )
            if change.applied:
                town.steps.append(target.value)
            else:
                town.refusals[change.message] = town.refusals.get(change.message, 0) + 1
        except CallError as error:
            town.refusals[error.message] = town.refusals.get(error.message, 0) + 1
            await asyncio.sleep(0.02)  # its replica was killed, or somebody else's swap is on


async def finished_backfill(town: Town, job_id: int) -> None:
    """Wait until the backfill is done, whoever is killed meanwhile."""

    async def done() -> bool:
        rows = town.scene.ask("SELECT state, error FROM crossfade.jobs WHERE job_id = %s", job_id)
        assert rows[0][0] not in ("failed", "cancelled"), rows
        return bool(rows[0][0] == JobState.DONE.value)

    await until(done, what="the end of the backfill", timeout_s=80)


def settled_town(scene: Scene, rng: random.Random) -> Town:
    """Fill the old store, and return a town whose load knows what lies in it."""
    crates = {source: [*PATHS, *OLDER] for source in SOURCES}
    databases.load_old(scene.dbs.old, crates)
    scene.overrides.update(TIMES)
    town = Town(scene, rng)
    town.load = Load(rng, town.clients, SOURCES, PATHS)
    for (_, source, path), row in databases.documents(scene.dbs.old, "old").items():
        town.load.oracle.loaded(("rust", source, path), row[0], row[1])
    return town


async def started_backfill(scene: Scene) -> int:
    """Begin dual writes, a backfill and a verify without end; return the backfill's id."""
    first = await scene.serve("first")
    await scene.phase(first, Phase.DUAL_WRITE)
    backfill = await first.control.start_job(
        JobKind.BACKFILL, {"rows_per_s_max": 400.0}, actor=ACTOR
    )
    await first.control.start_job(
        JobKind.VERIFY, {"continuous": True, "interval_s": 0.5}, actor=ACTOR
    )
    await first.process.stop()
    return backfill.job_id


async def kill_under_load(town: Town, load: Load, backfill: int) -> None:
    """Kill all three processes again and again while clients work and the phase changes."""
    over = asyncio.Event()

    async def walk_when_filled() -> None:
        town.war.set()
        await finished_backfill(town, backfill)
        async with asyncio.TaskGroup() as walking:
            walking.create_task(walk(town, over))
            walking.create_task(town.truces(over))

    async with asyncio.timeout(20.0 * KILLS), asyncio.TaskGroup() as group:
        group.create_task(load.run(workers=10))
        group.create_task(walk_when_filled())
        torments = [
            group.create_task(town.torment("a", lambda: town.replica("a"))),
            group.create_task(town.torment("b", lambda: town.replica("b"))),
            group.create_task(town.torment("reconcile", town.scene.start_reconcile)),
        ]
        await asyncio.wait(torments)
        await finished_backfill(town, backfill)
        # A reconciler that was killed in the middle of a copy holds swaps up for a minute at most.
        await until(lambda: bool(town.swaps), what=f"a swap: {town.refusals}", timeout_s=90)
        over.set()
        load.stopping = True
    print(f"kills {town.kills}, naps {town.naps}, calls {load.calls}, {load.errors}")
    print(f"steps {town.steps}, refused {town.refusals}")


async def test_no_acknowledged_write_is_lost_and_both_stores_end_equal(scene: Scene) -> None:
    seed = int(os.environ.get("CROSSFADE_SEED") or random.randrange(2**32))
    print(f"CROSSFADE_SEED={seed}")
    town = settled_town(scene, random.Random(seed))
    load = town.load
    assert load is not None
    await kill_under_load(town, load, await started_backfill(scene))

    await scene.quiet()
    assert all(count >= KILLS for count in town.kills.values())
    stored = databases.documents(scene.dbs.old, "old")
    load.assert_nothing_lost(stored, seed=seed)
    databases.assert_equal(scene.dbs)
    assert load.oracle.acknowledged > 200
    verified = await scene.assert_verified(town.live["a"])
    assert verified.summary["matched"] == len(stored) + len(databases.sources(scene.dbs.old, "old"))
