"""A soak is rounds: mischief under load, then quiet, then every check; and what grew meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from crossfade.client.control_types import JobKind, Phase
from crossfade.client.errors import CallError

from tests.faults.harness.scene import ACTOR
from tests.faults.harness.servers import OwnServer
from tests.faults.harness.trial import Trial, open_trial, weight
from tests.faults.harness.waiting import until
from tests.faults.soak.mischief import Mischief

ROUND_S = 20.0
"""Of mischief; the checks come on top."""
QUIET_S = 90.0
"""A reconciler that was killed in a copy keeps its keys for 25 s."""
KILLING = 0.4
"""Share of the time in which proxies are killed; after that their memory is measured."""
MB_MAX = 80.0
FDS_MAX = 40
"""How much a process may grow from its first measured round to its last."""
CANCELS = 0.05
WORKERS = 8
WALK = (Phase.SHADOW, Phase.RAMP, Phase.NEW_PRIMARY, Phase.RAMP, Phase.DUAL_WRITE)
"""A step after each round: there, and back again."""


@dataclass
class Soak:
    """One pair of engines for some time."""

    engines: tuple[str, str]
    server: OwnServer
    folder: Path
    for_s: float
    rounds: int = 0
    calls: int = 0
    acknowledged: int = 0
    cancelled: int = 0
    reads: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    steps: list[str] = field(default_factory=list)
    weights: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    async def run(self) -> None:
        """Soak; an AssertionError says what did not hold."""
        off = self.folder / "off"
        off.write_text("0")
        async with open_trial(self.engines, self.folder, self.server.make) as trial:
            trial.module, trial.before = "tests.faults.harness.stepped", [str(off)]
            names = ["old", "ledger", *(["new"] if trial.scene.dbs.new else [])]
            relays = {name: await trial.relay(name) for name in names}
            await trial.begin(proxies=2)
            mischief = Mischief(trial, self.server, relays, trial.rng, off)
            began_s = time.monotonic()
            while (passed_s := time.monotonic() - began_s) < self.for_s:
                mischief.kills = passed_s < KILLING * self.for_s
                await self._round(trial, mischief)
                await self._step(trial)
            self.faults = mischief.done
            verified = await trial.scene.job(trial.replica, JobKind.VERIFY, {"report_only": True})
            assert verified.summary["clean"], f"verify: {verified.summary}"
            self._no_growth()

    async def _round(self, trial: Trial, mischief: Mischief) -> None:
        """Make mischief under load, let it heal, check everything."""
        load = await trial.go_on(CANCELS)
        over = asyncio.Event()
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            working = group.create_task(load.run(WORKERS))
            making = group.create_task(mischief.run(over))
            await asyncio.sleep(ROUND_S)
            over.set()
            await making
            load.stopping = True
            await working
        await self.server.start()  # it may still recover from its last kill
        quiet_s = time.monotonic()
        try:
            await trial.ends_well(quiet_s=QUIET_S)
        except AssertionError:
            print(trial.tails(), flush=True)
            raise
        self._count(trial)
        now_s = time.monotonic()
        print(
            f"round {self.rounds}: {quiet_s - began_s:.0f} s of mischief, quiet and equal after"
            f" {now_s - quiet_s:.1f} s; {load.oracle.acknowledged} acknowledged of {load.calls}"
            f" calls; {self._weigh(trial, measured=not mischief.kills)}",
            flush=True,
        )

    def _count(self, trial: Trial) -> None:
        load = trial.load
        self.rounds += 1
        self.calls += load.calls
        self.acknowledged += load.oracle.acknowledged
        self.cancelled += load.cancelled
        self.reads += len(load.oracle.seen)
        self.errors.update(load.errors)

    def _weigh(self, trial: Trial, *, measured: bool) -> str:
        """Return what each proxy weighs, and remember it if nobody is killed any more."""
        said = []
        for name, replica in sorted(trial.live.items()):
            mb, fds = weight(replica.process)
            said.append(f"{name}: {mb:.0f} MB, {fds} files")
            if measured:
                self.weights.setdefault(name, []).append((mb, fds))
        return "; ".join(said)

    async def _step(self, trial: Trial) -> None:
        """Take the next step of the walk; a swap may need another try."""
        target = WALK[len(self.steps) % len(WALK)]

        async def stepped() -> bool:
            with contextlib.suppress(CallError):
                control = trial.replica.control
                if target is Phase.NEW_PRIMARY:
                    await control.set_traffic(100.0, actor=ACTOR, reason="soak", force=True)
                change = await control.change_phase(target, actor=ACTOR, reason="soak", force=True)
                return change.applied
            return False

        await until(stepped, what=f"the step to {target.value}", timeout_s=QUIET_S)
        self.steps.append(target.value)

    def _no_growth(self) -> None:
        for name, series in self.weights.items():
            (mb, fds), (mb_end, fds_end) = series[0], series[-1]
            assert mb_end - mb < MB_MAX, f"proxy {name} grew from {mb:.0f} to {mb_end:.0f} MB"
            assert fds_end - fds < FDS_MAX, f"proxy {name} grew from {fds} to {fds_end} files"

    def summary(self) -> str:
        """Return, for people, what was done and what came of it."""
        grown = "; ".join(
            f"proxy {name} over {len(series)} rounds: {series[0][0]:.0f} -> {series[-1][0]:.0f} MB,"
            f" {series[0][1]} -> {series[-1][1]} files"
            for name, series in sorted(self.weights.items())
        )
        return "\n".join(
            [
                f"{self.rounds} rounds, {self.calls} calls, {self.acknowledged} writes"
                f" acknowledged, {self.reads} reads checked, {self.cancelled} calls cancelled",
                f"{self.faults.total()} faults: "
                + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
                f"phases: {' '.join(self.steps)}",
                f"errors: {dict(sorted(self.errors.items()))}",
                f"growth: {grown or 'not measured'}",
            ]
        )
