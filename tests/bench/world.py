"""What a benchmark runs in: databases, a configuration, proxies as their own processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import psycopg
import yaml
from crossfade.client import AsyncClient
from crossfade.client.control import ControlClient
from crossfade.client.control_types import Phase

from proxy.config.loader import Config, load
from proxy.demo.doc_server.corpus import Corpus
from proxy.demo.doc_server.load import create_schemas
from proxy.demo.embedded_pg import databases
from proxy.demo.processes import Child, ChildFailed, Household
from proxy.demo.scenario import Stores
from proxy.errors import CrossfadeError
from tests.bench.machine import Usage, tree_seconds
from tests.bench.rows import load_corpus_rows, repeat_rows, settle_down

CLI: Final = ("-m", "proxy.cli.main")
ACTOR = "bench"
_NAMES: Final = {"old": "rust_docs_vectors", "new": "docs", "ledger": "crossfade_ledger"}
_READY_S = 120.0
_JOB_S = 900.0
_WATCH_S = 0.02
_MIB = 2**20
_SCANNED_ROWS = 2_000
"""Up to so many rows the default configuration searches by a scan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One migration to measure.

    Attributes:
        scratch: a directory for the configuration and what processes leave.
    """

    dsns: Stores
    household: Household
    scratch: Path
    config_file: Path

    def config(self) -> Config:
        """Return the configuration as the processes read it."""
        return load(self.config_file)

    def usage(self) -> Usage:
        """Return the CPU seconds of the machine and of everything the benchmark runs, so far."""
        server = [] if self.dsns.server_pid is None else [self.dsns.server_pid]
        return Usage.now([os.getpid(), *server])

    def backend_seconds(self) -> float:
        """Return the CPU seconds that the server has used so far, 0 if it is not ours."""
        pid = self.dsns.server_pid
        return 0.0 if pid is None else tree_seconds(psutil.Process(pid))


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A running proxy; `start_s` from the start of the process to the line that says it serves."""

    child: Child
    address: str
    start_s: float

    def peak_mib(self) -> float:
        """Return the most memory it has held so far."""
        return peak_mib(self.child.process.pid)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds it has used so far."""
        times = psutil.Process(self.child.process.pid).cpu_times()
        return float(times.user + times.system)

    def begin_profile(self) -> None:
        """Tell a proxy that was started under cProfile to begin."""
        self.child.process.send_signal(signal.SIGUSR1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDone:
    """A command that ran a job to its end.

    Attributes:
        job: what it printed with --json.
        wall_s: of the whole process.
        peak_mib: the most memory it held.
        own_cpu_s, server_cpu_s: CPU seconds of the command, and of PostgreSQL meanwhile.
    """

    job: dict[str, object]
    wall_s: float
    peak_mib: float
    own_cpu_s: float
    server_cpu_s: float

    def number(self, name: str) -> float:
        """Return a number of the job's summary.

        Raises:
            CrossfadeError: there is none of that name.
        """
        summary = self.job.get("summary")
        value = summary.get(name) if isinstance(summary, dict) else None
        if not isinstance(value, int | float):
            raise CrossfadeError(f"The job's summary has no number {name!r}.")
        return float(value)


@contextmanager
def loaded_world(
    household: Household, scratch: Path, corpus: Corpus, *, rows: int = 0
) -> Iterator[World]:
    """Make databases under `scratch`, load the old one, and write the configuration.

    Args:
        rows: repeat the corpus until there are so many, 0 for the corpus alone.
    """
    scratch.mkdir()
    with databases(scratch / "postgresql", _NAMES, scratch) as dsns:
        create_schemas(dsns.old, dsns.new)
        load_corpus_rows(dsns.old, corpus.documents)
        repeat_rows(dsns.old, rows)
        settle_down(dsns.old)
        config_file = scratch / "crossfade.yaml"
        _write_settings(config_file, dsns, len(corpus.documents))
        yield World(dsns=dsns, household=household, scratch=scratch, config_file=config_file)


def _write_settings(file: Path, dsns: Stores, documents: int) -> None:
    """Write what a user would; shadow reads are off, since they share the stores' time."""
    settings: dict[str, object] = {
        "version": 1,
        "migration": "bench",
        "preset": "doc-server",
        "listen": {"address": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
        "old": {"engine": "postgresql", "dsn": dsns.old},
        "new": {"engine": "postgresql", "dsn": dsns.new},
        "ledger": {"dsn": dsns.ledger},
        "shadow": {"sample": 0.0},
        "telemetry": {"log_level": "warning"},
    }
    if documents <= _SCANNED_ROWS:  # a small run must search by the index all the same
        index = {"exact_rows_max": documents // 2}
        settings["collections"] = {"documents": {"new": {"index": index}}}
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


@asynccontextmanager
async def serving(world: World, *, profile: Path | None = None) -> AsyncIterator[Serving]:
    """Run `crossfade serve` for the length of the context; with `profile` under cProfile."""
    arguments = [*_command(profile), "serve", "--config", str(world.config_file), "--json"]
    began_s = time.perf_counter()
    child = await world.household.start("proxy", arguments, talk=True)
    try:
        address = await _address(child)
        yield Serving(child=child, address=address, start_s=time.perf_counter() - began_s)
        child.check()
    finally:
        await world.household.stop(child)


def _command(profile: Path | None) -> tuple[str, ...]:
    return ("-m", "tests.bench.profiled", str(profile)) if profile else CLI


async def _address(child: Child) -> str:
    if child.process.stdout is None:
        raise ChildFailed("The proxy has no output to read.")
    async with asyncio.timeout(_READY_S):
        line = await child.process.stdout.readline()
    if not line:
        await child.process.wait()
        child.check()
    return str(json.loads(line)["address"])


def client_of(proxy: Serving) -> AsyncClient:
    """Return a client that does not retry, so that a failed call is an error of the benchmark."""
    return AsyncClient(proxy.address, timeout_s=60.0, retries=0)


async def to_phase(proxy: Serving, *phases: Phase) -> None:
    """Move through the phases without waiting for what a careful operator waits for."""
    async with ControlClient(proxy.address) as control:
        for phase in phases:
            change = await control.change_phase(phase, actor=ACTOR, reason="benchmark", force=True)
            if not change.applied:
                raise CrossfadeError(f"Phase {phase.value} was refused: {change.message}")


async def all_reads_to_new(proxy: Serving) -> None:
    """Set the traffic to 100 %."""
    async with ControlClient(proxy.address) as control:
        change = await control.set_traffic(100.0, actor=ACTOR, reason="benchmark", force=True)
        if not change.applied:
            raise CrossfadeError(f"The traffic was not changed: {change.message}")


async def run_job(
    world: World, *command: str, profile: Path | None = None, may_fail: bool = False
) -> JobDone:
    """Run `crossfade COMMAND --json` to its end and watch its memory.

    Raises:
        ChildFailed: it ended with an error, or did not end in time.
    """
    arguments = [*_command(profile), *command, "--config", str(world.config_file), "--json"]
    before_s = world.backend_seconds()
    began_s = time.perf_counter()
    child = await world.household.start(command[0], arguments, talk=True)
    try:
        async with asyncio.timeout(_JOB_S):
            peak, cpu_s, output = await _watched(child)
            code = await child.process.wait()
        wall_s = time.perf_counter() - began_s
    finally:
        await world.household.stop(child)
    if code and not may_fail:
        raise ChildFailed(f"crossfade {' '.join(command)} ended with {code}.", hint=child.tail())
    return JobDone(
        job=json.loads(output),
        wall_s=wall_s,
        peak_mib=peak,
        own_cpu_s=cpu_s,
        server_cpu_s=world.backend_seconds() - before_s,
    )


async def _watched(child: Child) -> tuple[float, float, bytes]:
    """Read a process's output to its end, meanwhile its peak memory and CPU seconds."""
    if child.process.stdout is None:
        raise ChildFailed(f"{child.name} has no output to read.")
    reading = asyncio.ensure_future(child.process.stdout.read())
    peak, cpu_s = 0.0, 0.0
    process = psutil.Process(child.process.pid)
    while not reading.done():
        await asyncio.wait({reading}, timeout=_WATCH_S)
        try:
            peak = max(peak, peak_mib(child.process.pid))
            times = process.cpu_times()
            cpu_s = max(cpu_s, times.user + times.system)
        except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            break
    return peak, cpu_s, await reading


def peak_mib(pid: int) -> float:
    """Return VmHWM of a process in MiB, 0 for one that has ended."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / _MIB
    return 0.0


def execute(dsn: str, *statements: str) -> None:
    """Run statements, each in its own transaction."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def count(dsn: str, statement: str, parameters: Sequence[object] = ()) -> int:
    """Return the one number that a statement selects."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement.encode(), parameters).fetchone()
    return int(row[0]) if row else 0
