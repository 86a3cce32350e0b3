"""A migration on real databases: its configuration, its replicas, its reconciler, its relays."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from crossfade.client import AsyncClient
from crossfade.client.control import ControlClient
from crossfade.client.control_types import Change, Job, JobKind, JobState, Phase
from crossfade.client.errors import CallError

from tests.faults.harness.databases import DIM, Databases, left_over
from tests.faults.harness.processes import Household, Process
from tests.faults.harness.relay import Relay, postgres_target
from tests.faults.harness.waiting import until

ACTOR = "fault test"
MIGRATION = "faults"
CONNECT_S = 60.0
QUIET_S = 60.0
"""A reconciler that was killed in a copy keeps its keys for 25 s."""


def settings(dbs: Mapping[str, str]) -> dict[str, Any]:
    """Return a configuration whose clocks run fast. `dbs`: connection strings by name."""
    pool = {"pool_size_min": 1, "pool_size_max": 4}
    return {
        "version": 1,
        "migration": MIGRATION,
        "preset": "doc-server",
        "listen": {"address": "127.0.0.1:0", "metrics": ""},
        "old": {"engine": "postgresql", "dsn": dbs["old"], **pool},
        "new": {"engine": "postgresql", "dsn": dbs["new"], **pool},
        "ledger": {"dsn": dbs["ledger"], "lease_s": 2.0, "pool_size_max": 4},
        "writes": {
            "primary_deadline_s": 1.2,
            "secondary_deadline_s": 0.8,
            "late_write_s": 1.0,
            "hold_max_s": 3.0,
            "breaker_failures": 3,
            "breaker_open_s": 0.5,
        },
        "reads": {"deadline_s": 3.0},
        "reconcile": {"batch_rows": 50, "range_rows": 200, "lease_s": 2.0, "deadline_s": 5.0},
        "switch": {"drain_timeout_s": 1.0, "ack_timeout_s": 4.0},
        "telemetry": {"log_format": "text"},
        "collections": {"documents": {"vector": {"dim": DIM}}},
    }


def laid_over(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`, section by section."""
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        if isinstance(value, Mapping) and isinstance(below, dict):
            result[name] = laid_over(below, value)
        else:
            result[name] = value
    return result


@dataclass(eq=False)
class Replica:
    """A running proxy and a client of it."""

    process: Process
    client: AsyncClient
    control: ControlClient

    @property
    def target(self) -> str:
        """Its "host:port"."""
        return self.process.address


@dataclass(eq=False)
class Scene:
    """One migration.

    Attributes:
        base: the configuration that `overrides` are laid over, None for the doc server's.
        relays: by the name of what is behind them ("old", "new", "ledger"); processes that are
            started here reach these through the relay, the test itself goes straight.
    """

    folder: Path
    dbs: Databases
    household: Household
    stack: AsyncExitStack
    relays: dict[str, Relay] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] | None = None
    _files: int = 0

    def config(self, over: Mapping[str, Any] | None = None) -> Path:
        """Write a configuration file and return its path."""
        direct = {name: self.dbs.dsn(name) for name in ("old", "new", "ledger")}
        through = {
            name: self.relays[name].dsn(dsn) if name in self.relays else dsn
            for name, dsn in direct.items()
        }
        base = settings(through) if self.base is None else self.base
        whole = laid_over(laid_over(base, self.overrides), over or {})
        self._files += 1
        path = self.folder / f"crossfade-{self._files}.yaml"
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return path

    async def relay(self, name: str) -> Relay:
        """Put a relay in front of "old", "new" or "ledger" for processes started from now on."""
        relay = Relay(postgres_target(self.dbs.dsn(name)))
        self.relays[name] = await self.stack.enter_async_context(relay)
        return relay

    async def serve(self, name: str = "a", over: Mapping[str, Any] | None = None) -> Replica:
        """Start a replica and return it once it serves."""
        process = await self.start_serve(name, over)
        await process.ready()
        return await self.clients(process)

    async def start_serve(self, name: str = "a", over: Mapping[str, Any] | None = None) -> Process:
        """Start a replica without waiting for it."""
        arguments = ["serve", "--config", str(self.config(over)), "--json"]
        return await self.household.start(f"serve-{name}", arguments)

    async def clients(self, process: Process) -> Replica:
        """Return a serving process with clients of it, their channels connected.

        The first call on a channel that is still connecting fails if a busy machine takes too
        long for a handshake.
        """
        client = AsyncClient(process.address, retries=0)
        control = ControlClient(process.address, retries=0, change_timeout_s=20.0)
        self.stack.push_async_callback(client.close)
        self.stack.push_async_callback(control.close)
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.gather(
                    client._channel.channel_ready(), control._channel.channel_ready()
                )
        except TimeoutError as error:
            raise AssertionError(f"{process.name} takes no connection\n{process.tail()}") from error
        return Replica(process=process, client=client, control=control)

    async def reconcile(self, over: Mapping[str, Any] | None = None) -> Process:
        """Start a reconciler and return it once it works."""
        process = await self.start_reconcile(over)
        await process.ready()
        return process

    async def start_reconcile(self, over: Mapping[str, Any] | None = None) -> Process:
        """Start a reconciler without waiting for it."""
        arguments = ["reconcile", "--config", str(self.config(over)), "--json"]
        return await self.household.start("reconcile", arguments)

    async def command(self, *arguments: str, timeout_s: float = 60.0) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code, standard output and standard error."""
        name = f"command-{len(arguments)}"
        seen = len(self.household.tail(name))
        process = await self.household.start(name, list(arguments))
        try:
            async with asyncio.timeout(timeout_s):
                output = await process.output()
        except TimeoutError as error:
            raise AssertionError(f"{arguments} does not end\n{process.tail()}") from error
        code = await process.ended()
        return code, output, process.tail(10_000)[seen:]

    async def phase(self, replica: Replica, *targets: Phase, force: bool = True) -> Change:
        """Move through phases; each step must be applied."""
        change: Change | None = None
        for target in targets:
            change = await replica.control.change_phase(
                target, actor=ACTOR, reason="a test", force=force
            )
            assert change.applied, f"{target.value}: {change.message} {change.preconditions}"
        assert change is not None
        return change

    async def swap(self, replica: Replica) -> None:
        """Make the new store the primary. A swap that drains too slowly changes nothing: again."""
        refusals: list[str] = []

        async def swapped() -> bool:
            try:
                change = await replica.control.change_phase(
                    Phase.NEW_PRIMARY, actor=ACTOR, reason="a test", force=True
                )
            except CallError as error:
                refusals.append(error.message)
                return False
            refusals.append(change.message)
            return change.applied

        try:
            await until(swapped, what="the swap", timeout_s=90)
        finally:
            print("the swap:", refusals[-3:])

    async def answers(self, replica: Replica) -> None:
        """Wait until a proxy answers: a call that finds its channel still connecting may fail."""

        async def answered() -> bool:
            with contextlib.suppress(CallError):
                return bool(await replica.control.status())
            return False

        await until(answered, what=f"an answer of {replica.process.name}")

    async def job(
        self, replica: Replica, kind: JobKind, params: Mapping[str, Any] | None = None
    ) -> Job:
        """Ask the reconciler for a job and return it as it ended."""
        await self.answers(replica)
        job = await replica.control.start_job(kind, params or {}, actor=ACTOR)
        return await self.ended(replica, job.job_id)

    async def assert_verified(self, replica: Replica) -> Job:
        """Verify through Crossfade, too, and return the job; nothing may differ."""
        job = await self.job(replica, JobKind.VERIFY, {"report_only": True})
        counts = {name: job.summary[name] for name in ("mismatched", "missing", "extra")}
        assert job.state is JobState.DONE, job.error
        assert counts == {"mismatched": 0, "missing": 0, "extra": 0}
        return job

    async def ended(self, replica: Replica, job_id: int, timeout_s: float = 60.0) -> Job:
        """Wait until a job has ended."""
        found: list[Job] = []

        async def ended() -> bool:
            found[:] = [await replica.control.job(job_id)]
            return found[0].state.ended

        await until(ended, what=f"the end of job {job_id}", timeout_s=timeout_s)
        return found[0]

    def left_over(self) -> tuple[int, int]:
        """Return how many intents are unsettled and how many keys are dirty."""
        return left_over(self.dbs.ledger)

    async def quiet(self, timeout_s: float = QUIET_S) -> None:
        """Wait until nothing is unsettled and nothing is dirty."""
        try:
            await until(lambda: self.left_over() == (0, 0), what="quiet", timeout_s=timeout_s)
        except AssertionError as error:
            now = f"{self.left_over()} are unsettled and dirty, as {self.dirty()[:3]}"
            raise AssertionError(f"not quiet within {timeout_s:g} s: {now}") from error

    async def settled(self, timeout_s: float = 15.0) -> None:
        """Wait until nothing is unsettled."""
        await until(
            lambda: self.left_over()[0] == 0, what="every intent settled", timeout_s=timeout_s
        )

    def ask(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """Ask the ledger's database."""
        with psycopg.connect(self.dbs.ledger, autocommit=True) as connection:
            return list(connection.execute(query.encode(), params).fetchall())

    def dirty(self) -> list[tuple[str, str]]:
        """Return (key, reason) of each dirty key."""
        return [(row[0], row[1]) for row in self.ask("SELECT key, reason FROM crossfade.dirty")]

    def flags(self) -> dict[str, Any]:
        """Return the migration's durable facts."""
        rows = self.ask("SELECT flags FROM crossfade.migrations WHERE name = %s", MIGRATION)
        return dict(rows[0][0]) if rows else {}


def only_error(output: str) -> dict[str, Any]:
    """Return the one JSON document that a command printed about its error."""
    found = json.loads(output)
    assert isinstance(found, dict)
    return found


@asynccontextmanager
async def open_scene(
    folder: Path, dbs: Databases, *, through: Sequence[str] = ()
) -> AsyncIterator[Scene]:
    """Open a scene; everything that was started in it is gone when it is left."""
    async with AsyncExitStack() as stack:
        # Relays close before processes: a process that hangs on a relay can then be ended.
        household = await stack.enter_async_context(Household(folder))
        scene = Scene(folder=folder, dbs=dbs, household=household, stack=stack)
        for name in through:
            await scene.relay(name)
        yield scene
