"""One short trial: two engines, clients that do everything, a fault, and the end that must hold.

A later engine joins by one line in `PAIRS` (and one in `grounds.GROUNDS`).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from crossfade.client import AsyncClient
from crossfade.client.control_types import Phase
from psycopg.conninfo import conninfo_to_dict

from tests.faults.harness.databases import Databases
from tests.faults.harness.grounds import Pair, collections
from tests.faults.harness.load import Load
from tests.faults.harness.processes import COMMAND, Process
from tests.faults.harness.relay import Relay
from tests.faults.harness.scene import QUIET_S, Replica, Scene, open_scene
from tests.faults.harness.waiting import until

PAIRS = (("postgresql", "postgresql"), ("postgresql", "lancedb"))
"""Old and new: every test that takes a `Trial` runs once for each."""
SINGLE_WRITERS = {"lancedb"}
"""One process writes them: one proxy, with the reconciler inside it."""
CLEAR = {
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
}
"""How a call may end while something is broken; anything else is a defect."""
SOURCES = ["serde", "tokio", "rand"]
PATHS = [f"page-{number}" for number in range(10)]


def settings(pair: Pair, ledger: str, dsns: Mapping[str, str]) -> dict[str, Any]:
    """Return a configuration whose clocks run fast. `dsns`: by section, where a relay leads."""
    sections = {"old": dict(pair.old.section), "new": dict(pair.new.section)}
    for name, section in sections.items():
        section.update({"dsn": dsns[name]} if name in dsns else {})
    return {
        "version": 1,
        "migration": "faults",
        "listen": {"address": "127.0.0.1:0", "metrics": ""},
        **sections,
        "ledger": {"dsn": dsns.get("ledger", ledger), "lease_s": 2.0, "pool_size_max": 4},
        "writes": {
            "primary_deadline_s": 1.0,
            "secondary_deadline_s": 0.8,
            "late_write_s": 0.5,
            "hold_max_s": 3.0,
            "breaker_failures": 3,
            "breaker_open_s": 0.3,
        },
        "reads": {"deadline_s": 2.0},
        "reconcile": {"batch_rows": 50, "range_rows": 200, "lease_s": 1.5, "deadline_s": 5.0},
        "switch": {"drain_timeout_s": 2.0, "ack_timeout_s": 4.0},
        "telemetry": {"log_format": "text"},
        "collections": collections(),
    }


@dataclass
class Trial:
    """A migration under load.

    Attributes:
        engines: of the old store and of the new one.
        reconciler: the process, None if it is inside the proxy.
        module: what runs the proxies' command, with the arguments `before` it.
    """

    engines: tuple[str, str]
    scene: Scene
    pair: Pair
    rng: random.Random
    seed: int
    load: Load = field(init=False)
    live: dict[str, Replica] = field(default_factory=dict)
    reconciler: Process | None = None
    module: str = COMMAND
    before: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.new_load()
        for key in self.load.keys:
            self.load.oracle.loaded(key, None)

    def new_load(self, cancels: float = 0.0) -> Load:
        """Begin to remember anew; the oracle has to be told what is there."""
        self.load = Load(
            self.rng, self.clients, SOURCES, PATHS, drop_sources=False, cancels=cancels
        )
        return self.load

    async def go_on(self, cancels: float = 0.0) -> Load:
        """Begin to remember anew, with what the old store holds now."""
        load = self.new_load(cancels)
        stored = await self.pair.old.rows(load.collection)
        for key in load.keys:
            row = stored.get(key)
            load.oracle.loaded(key, None if row is None else str(row[0]), row[1] if row else None)
        return load

    @property
    def single(self) -> bool:
        """True if a store has a single writing process."""
        return bool(SINGLE_WRITERS & set(self.engines))

    @property
    def replica(self) -> Replica:
        """A proxy that serves."""
        return self.live["a"]

    def clients(self) -> dict[str, AsyncClient]:
        """Return a client of each proxy that serves."""
        return {name: replica.client for name, replica in self.live.items()}

    async def relay(self, name: str) -> Relay:
        """Put a relay in front of the server of "old", "new" or "ledger"; before `begin`."""
        assert self.scene.base is not None
        relay = await self.scene.relay(name)
        section = self.scene.base[name]
        section["dsn"] = relay.dsn(self.scene.dbs.dsn(name))
        return relay

    async def begin(self, *, proxies: int = 1) -> None:
        """Start the processes and go to dual_write."""
        for name in "abc"[: 1 if self.single else proxies]:
            await self.serve(name)
        if not self.single:
            self.reconciler = await self.scene.reconcile()
        await self.scene.phase(self.replica, Phase.DUAL_WRITE)

    async def serve(self, name: str) -> None:
        """Start a proxy of a name."""
        arguments = [*self.before, "serve", "--config", str(self.scene.config()), "--json"]
        process = await self.scene.household.start(f"serve-{name}", arguments, module=self.module)
        await process.ready()
        self.live[name] = await self.scene.clients(process)

    async def comes_back(self, name: str, *, timeout_s: float = 90.0) -> None:
        """Start a proxy again and again until it serves, as whoever runs it would do."""

        async def serves() -> bool:
            try:
                await self.serve(name)
            except AssertionError:  # it does not start without its ledger or its primary
                return False
            return True

        await until(serves, what=f"proxy {name} back again", timeout_s=timeout_s)

    async def reconciler_comes_back(self, *, timeout_s: float = 90.0) -> None:
        """Start the reconciler again and again until it works."""

        async def works() -> bool:
            try:
                self.reconciler = await self.scene.reconcile()
            except AssertionError:  # it does not start without its ledger
                return False
            return True

        await until(works, what="the reconciler back again", timeout_s=timeout_s)

    async def kill(self, name: str) -> None:
        """Kill -9 a proxy; clients know at once."""
        await self.live.pop(name).process.kill()

    @asynccontextmanager
    async def under_load(self, workers: int = 6) -> AsyncIterator[Load]:
        """Have clients at work for the length of the block; they have begun when it is entered."""

        load = self.load
        running = asyncio.create_task(load.run(workers))
        try:
            await self.more(20)
            yield load
        finally:
            load.stopping = True
            await running

    async def more(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until that many more writes are acknowledged."""
        target = self.load.oracle.acknowledged + count
        await until(
            lambda: self.load.oracle.acknowledged >= target,
            what=f"{count} more acknowledged writes; {self.load.errors}\n{self.tails()}",
            timeout_s=timeout_s,
        )

    async def failed(self, count: int) -> None:
        """Wait until that many more calls were answered that something is out of order."""
        broken = ("UNAVAILABLE", "DEADLINE_EXCEEDED")

        def failures() -> int:
            errors = self.load.errors
            return sum(errors[name] for name in errors if name.split()[0] in broken)

        target = failures() + count
        await until(lambda: failures() >= target, what="calls that fail")

    async def tried(self, count: int) -> None:
        """Wait until clients have made that many more calls, whatever became of them."""
        target = self.load.calls + count
        await until(lambda: self.load.calls >= target, what="more calls")

    def tails(self) -> str:
        """Return the ends of the logs of the proxies."""
        return "\n".join(replica.process.tail(8) for replica in self.live.values())

    async def ends_well(self, *, quiet_s: float = QUIET_S) -> int:
        """Nothing acknowledged is lost, both stores hold the same, errors were clear.

        Returns:
            How many rows both stores hold, each as the clients were told.
        """
        await self.scene.quiet(quiet_s)
        await self.pair.assert_equal()
        stored = await self.pair.old.rows(self.load.collection)
        self.load.assert_nothing_lost(stored, seed=self.seed)
        unclear = {name for name in self.load.errors if name.split()[0] not in CLEAR}
        assert not unclear, f"seed {self.seed}: {self.load.errors}"
        return len(stored)


@asynccontextmanager
async def open_trial(
    engines: tuple[str, str],
    folder: Path,
    make_database: Callable[[], str],
    *,
    ledger: str = "",
    logs: Path | None = None,
) -> AsyncIterator[Trial]:
    """Open a trial on fresh stores; nothing of it runs yet.

    Args:
        ledger: its database, if not one more of `make_database`.
        logs: where the processes write their logs, if not in `folder` with the stores.
    """
    seed = int(os.environ.get("CROSSFADE_SEED") or random.randrange(2**32))
    print(f"CROSSFADE_SEED={seed}")
    pair = Pair.make(*engines, folder, make_database)
    dsns = {name: str(getattr(pair, name).section.get("dsn", "")) for name in ("old", "new")}
    dbs = Databases(**dsns, ledger=ledger or make_database())
    async with open_scene(logs or folder, dbs) as scene:
        scene.base = settings(pair, dbs.ledger, {})
        yield Trial(engines, scene, pair, random.Random(seed), seed)


def name_of(dsn: str) -> str:
    """Return the database of a connection string."""
    return str(conninfo_to_dict(dsn)["dbname"])


def weight(process: Process) -> tuple[float, int]:
    """Return the resident memory (MB) and the open file descriptors of a process."""
    found = psutil.Process(process.child.pid)
    return found.memory_info().rss / 2**20, found.num_fds()
