"""What may go wrong in a soak: each fault begins, lasts a while, and is over."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.harness.relay import Relay
from tests.faults.harness.servers import OwnServer
from tests.faults.harness.trial import Trial, name_of

Fault = Callable[[], Awaitable[None]]
LASTS_S = (0.1, 2.5)
"""A fault that lasts does so for a time between these: some outlive a lease, most do not."""
PAUSE_S = (0.1, 1.5)
"""Between two faults of one kind of thing."""


@dataclass
class Mischief:
    """Every fault that this trial's machines and wires can have.

    Attributes:
        relays: by what is behind them.
        off: holds how far the proxies' wall clocks are off, in seconds.
        kills: proxies may be killed; not while their memory is measured.
        done: how often each fault was done.
    """

    trial: Trial
    server: OwnServer
    relays: Mapping[str, Relay]
    rng: random.Random
    off: Path
    kills: bool = True
    done: Counter[str] = field(default_factory=Counter)

    async def run(self, over: asyncio.Event) -> None:
        """Make mischief with wires, processes and the server at once until told to stop."""
        async with asyncio.TaskGroup() as group:
            for faults in (self._wires(), self._processes(), self._machines()):
                group.create_task(self._again_and_again(faults, over))

    async def _again_and_again(self, faults: Mapping[str, Fault], over: asyncio.Event) -> None:
        while not over.is_set():
            await self._wait(PAUSE_S)
            name = self.rng.choice(sorted(faults))
            if not self.kills and name in ("kill -9 a proxy",):
                continue
            await faults[name]()
            self.done[name] += 1

    async def _wait(self, between_s: tuple[float, float]) -> None:
        await asyncio.sleep(self.rng.uniform(*between_s))

    def _wires(self) -> dict[str, Fault]:
        return {
            "cut": self._cut,
            "half-close": self._half_close,
            "hold both ways": lambda: self._held(up=True, down=True),
            "hold answers": lambda: self._held(up=False, down=True),
            "delay": self._delay,
            "throttle": self._throttle,
            "refuse": self._refuse,
        }

    def _processes(self) -> dict[str, Fault]:
        found: dict[str, Fault] = {
            "kill -9 a proxy": self._kill_proxy,
            "suspend a proxy": self._suspend_proxy,
            "step the clocks": self._step_clocks,
        }
        if not self.trial.single:
            found["kill -9 the reconciler"] = self._kill_reconciler
            found["suspend the reconciler"] = self._suspend_reconciler
        return found

    def _machines(self) -> dict[str, Fault]:
        return {
            "kill -9 the database server": self._kill_server,
            "suspend the database server": self._suspend_server,
            "kill -9 a backend": self._kill_backend,
            "full disk": self._full_disk,
        }

    def _any(self) -> Relay:
        return self.rng.choice([self.relays[name] for name in sorted(self.relays)])

    async def _cut(self) -> None:
        self._any().cut()

    async def _half_close(self) -> None:
        self._any().half_close()

    async def _held(self, *, up: bool, down: bool) -> None:
        relay = self._any()
        relay.hold(up=up, down=down)
        try:
            await self._wait(LASTS_S)
        finally:
            relay.release()

    async def _delay(self) -> None:
        relay = self._any()
        relay.delay_s = self.rng.uniform(0.005, 0.1)
        try:
            await self._wait(LASTS_S)
        finally:
            relay.heal()

    async def _throttle(self) -> None:
        relay = self._any()
        relay.bytes_per_s_max = self.rng.choice([5_000.0, 50_000.0])
        try:
            await self._wait(LASTS_S)
        finally:
            relay.heal()

    async def _refuse(self) -> None:
        relay = self._any()
        await relay.refuse()
        try:
            await self._wait(LASTS_S)
        finally:
            await relay.accept()

    async def _kill_proxy(self) -> None:
        name = self.rng.choice(sorted(self.trial.live))
        await self.trial.kill(name)
        await self.trial.comes_back(name)

    async def _suspend_proxy(self) -> None:
        process = self.rng.choice(sorted(self.trial.live.items()))[1].process
        process.pause()
        try:
            await self._wait(LASTS_S)
        finally:
            process.resume()

    async def _step_clocks(self) -> None:
        self.off.write_text(str(self.rng.uniform(-1e6, 1e6)))

    async def _kill_reconciler(self) -> None:
        assert self.trial.reconciler is not None
        await self.trial.reconciler.kill()
        await self.trial.reconciler_comes_back()

    async def _suspend_reconciler(self) -> None:
        process = self.trial.reconciler
        assert process is not None
        process.pause()
        try:
            await self._wait(LASTS_S)
        finally:
            process.resume()

    async def _kill_server(self) -> None:
        await self.server.kill()
        await self._wait(LASTS_S)
        await self.server.start()

    async def _suspend_server(self) -> None:
        self.server.freeze()
        try:
            await self._wait(LASTS_S)
        finally:
            self.server.thaw()

    async def _kill_backend(self) -> None:
        dsns = self.trial.scene.dbs
        with contextlib.suppress(Exception):  # it may be busy recovering from the last one
            await self.server.kill_backend(name_of(self.rng.choice([dsns.old, dsns.ledger])))

    async def _full_disk(self) -> None:
        await asyncio.to_thread(self.server.disk.fill, self.server.pids())
        try:
            await self._wait(LASTS_S)
        finally:
            self.server.disk.free()
            await self.server.start()  # it may have gone down over its log
