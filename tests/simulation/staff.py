"""The operator, who moves the migration on and back, and fate, who breaks things meanwhile."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from proxy.controlplane import Change
from proxy.errors import CrossfadeError
from proxy.ledger.types import JobKind, JobState, Phase
from proxy.routing.phases import ORDER, allowed_targets, reads_both

if TYPE_CHECKING:
    from tests.simulation.replica import Replica
    from tests.simulation.world import World

_JOB_PATIENCE_S = 8.0
_POLL_S = 0.25
_REST_S = {"walk": 0.8, "begin": 0.5, "hot": 0.4, "duel": 0.3}
_JOBS = (*[JobKind.REPAIR] * 4, JobKind.VERIFY, JobKind.VERIFY, JobKind.BACKFILL)


class Operator:
    """Takes phase steps through any replica, does what a refusal asks for, and changes its mind."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"{world.seed}/operator")
        self.going = True

    async def run(self) -> None:
        """Go on until told to stop."""
        while self.going:
            await self._world.clock.sleep(self._rng.random() * _REST_S[self._world.plan.kind])
            await self._act()

    async def _act(self) -> None:
        if not self.going:
            return
        if not self._world.plan.walks:
            await self.job(self._rng.choice(_JOBS), 2.0)
        elif reads_both(self._world.ledger.state.routing.phase) and self._rng.random() < 0.3:
            await self._traffic(self._rng.choice((20.0, 50.0, 80.0, 100.0)))
        elif self._rng.random() < self._world.plan.forward:
            await self._forward()
        else:
            await self._back()

    async def _forward(self) -> None:
        routing = self._world.ledger.state.routing
        if routing.phase is Phase.RAMP and routing.percent < 100.0:
            await self._traffic(self._rng.choice((50.0, 100.0)))
            return
        ahead = [
            target
            for target in allowed_targets(routing.phase)
            if ORDER.index(target) > ORDER.index(routing.phase) and target is not Phase.NEW_ONLY
        ]
        if not ahead:
            await self._traffic(self._rng.choice((20.0, 60.0, 100.0)))
            return
        if ahead[0] is Phase.DUAL_WRITE:
            self._world.loop.spawn("", self._hasty_backfill(), "hasty backfill")
        change = await self.step(ahead[0])
        if change is None or change.applied or not self.going:
            return
        failed = {item.name for item in change.preconditions if not item.passed}
        if "backfill complete" in failed:
            await self.job(JobKind.BACKFILL)
        elif "verified" in failed or "no dead letters" in failed:
            await self.job(JobKind.REPAIR)
            await self.job(JobKind.VERIFY)

    async def _hasty_backfill(self) -> None:
        """Ask for a backfill as soon as dual writing is in force, whoever follows yet."""
        state = self._world.ledger.state
        for _ in range(60):
            if state.routing.phase is Phase.DUAL_WRITE:
                await self.job(JobKind.BACKFILL)
                return
            await self._world.clock.sleep(0.02)

    async def _back(self) -> None:
        phase = self._world.ledger.state.routing.phase
        behind = [
            target for target in allowed_targets(phase) if ORDER.index(target) < ORDER.index(phase)
        ]
        if behind:
            await self.step(self._rng.choice(behind))

    async def _traffic(self, percent: float) -> None:
        async def work(replica: Replica) -> Change:
            return await replica.control.set_traffic(
                percent, dry_run=False, force=False, actor="operator", reason=""
            )

        await self._ask(work)

    async def step(self, target: Phase) -> Change | None:
        """Ask for a phase; None if no answer came."""

        async def work(replica: Replica) -> Change:
            return await replica.control.change_phase(
                target, dry_run=False, force=False, actor="operator", reason=""
            )

        return await self._ask(work)

    async def _ask(self, work: Callable[[Replica], Awaitable[Change]]) -> Change | None:
        names = self._world.names
        if not names:
            return None
        try:
            return await self._world.rpc(self._rng.choice(names), work, patience_s=15.0)
        except (CrossfadeError, TimeoutError):
            return None

    async def job(
        self,
        kind: JobKind,
        patience_s: float = _JOB_PATIENCE_S,
        *,
        insist: bool = False,
        **params: bool,
    ) -> int | None:
        """Ask for a job and wait for its end; return its number if it ended well."""
        world = self._world
        job = await world.ledger.create_job(kind, dict(params))
        ends_s = world.clock.monotonic_s() + patience_s
        while world.clock.monotonic_s() < ends_s and (self.going or insist):
            await world.clock.sleep(_POLL_S)
            state = world.ledger.state.jobs[job.job_id].state
            if state is JobState.DONE:
                return job.job_id
            if state in (JobState.FAILED, JobState.CANCELLED):
                return None
        return None


class Fate:
    """Kills, stops and cuts off, at moments that the seed decides."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"{world.seed}/fate")

    async def run(self, length_s: float) -> None:
        """Do what the plan says within a time."""
        world, plan, rng = self._world, self._world.plan, self._rng
        blows = [self._outage] * plan.outages + [self._stop] * plan.stops
        blows += [self._kill] * plan.kills + [self._cut] * plan.cuts
        rng.shuffle(blows)
        moments = sorted(rng.random() * length_s for _ in blows)
        begun_s = world.clock.monotonic_s()
        for moment, blow in zip(moments, blows, strict=True):
            await world.clock.sleep(max(0.0, begun_s + moment - world.clock.monotonic_s()))
            if world.calm:
                return
            await blow()

    async def _outage(self) -> None:
        world = self._world
        server = self._rng.choice(("old", "new", "ledger"))
        world.network.note(f"{server} is down")
        world.network.down.add(server)
        await world.clock.sleep(self._rng.choice((0.3, 1.5, 7.0)) * self._rng.random())
        world.network.down.discard(server)
        world.network.note(f"{server} is up")

    async def _cut(self) -> None:
        """Part one replica from the ledger, perhaps for longer than its lease."""
        world = self._world
        name = self._rng.choice([*world.names, *sorted(world.reconcilers)])
        world.network.note(f"{name} is cut off")
        world.network.cut.add((name, "ledger"))
        length_s = self._rng.choice((1.0, 9.0)) * (0.5 + self._rng.random())

        async def mend() -> None:
            await world.clock.sleep(length_s)
            world.network.cut.discard((name, "ledger"))
            world.network.note(f"{name} is back")

        world.loop.spawn("", mend(), "mend")

    async def _stop(self) -> None:
        names = [*self._world.names, *sorted(self._world.reconcilers)]
        self._world.stop(self._rng.choice(names))

    async def _kill(self) -> None:
        names = [*self._world.names, *sorted(self._world.reconcilers)]
        self._world.die(self._rng.choice(names))
