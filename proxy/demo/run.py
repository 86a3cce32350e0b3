"""`crossfade demo`: sets everything up, lets it run, judges it, and cleans up in every case."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossfade.client import CallError
from rich.console import Console

from proxy.demo.damage import check_kinds
from proxy.demo.embedded_pg import databases
from proxy.demo.migration import Migration, replicas_of
from proxy.demo.narrator import Narrator
from proxy.demo.options import DemoOptions
from proxy.demo.processes import Guard, Household
from proxy.demo.scenarios import check_preset, prepare
from proxy.demo.verdict import Findings, build_report
from proxy.demo.verdict_table import conclude
from proxy.errors import CrossfadeError

_INTERRUPTED = 130
_TEMPORARY_MAX = 48  # a socket's whole path may have a hundred characters or so


async def run(options: DemoOptions, *, as_json: bool = False) -> int:
    """Run the demo. Return 0 if it passed, 1 if not, 130 if it was interrupted.

    Args:
        as_json: print report.json on standard output and tell the story on standard error.

    Ctrl-C and SIGTERM stop it in order: no process and no directory is left behind.

    Raises:
        Rejected: an option or the corpus cannot be used.
        Unavailable: there is no PostgreSQL to run it on.
    """
    check_kinds(options.damage)
    check_preset(options.preset)
    narrator = Narrator(console=Console(stderr=as_json))
    work = asyncio.ensure_future(_run(options, narrator, as_json=as_json))
    interrupted = asyncio.Event()

    def interrupt() -> None:
        interrupted.set()
        work.cancel()

    loop = asyncio.get_running_loop()
    for kind in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(kind, interrupt)
    try:
        return await work
    except asyncio.CancelledError:
        if interrupted.is_set():
            narrator.warn("Interrupted; everything that was started is stopped and removed.")
            return _INTERRUPTED
        raise
    finally:
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(kind)


async def _run(options: DemoOptions, narrator: Narrator, *, as_json: bool) -> int:
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    began_s = time.monotonic()
    scenario = await asyncio.to_thread(prepare, options, seed)
    profile = scenario.profile
    replicas_of(options, profile)
    narrator.title(f"Crossfade demo: {profile.title}")
    for name, text in (*scenario.facts(), ("seed", str(seed))):
        narrator.fact(name, text)
    findings = Findings(
        started_at=dt.datetime.now(dt.UTC),
        migration=profile.migration,
        preset=profile.preset,
        seed=seed,
        engine="",
        corpus=scenario.about(),
    )
    findings.timeline.started_s = began_s
    try:
        with Guard() as guard, _scratch(guard) as scratch:
            migration = Migration(
                options=options,
                scenario=scenario,
                scratch=scratch,
                narrator=narrator,
                findings=findings,
            )
            await _guarded(migration, guard)
    finally:
        narrator.hush()
    findings.duration_s = time.monotonic() - findings.timeline.started_s
    findings.steps = narrator.steps
    report = build_report(findings, scenario.pace)
    await asyncio.to_thread(conclude, report, findings, scenario.pace, options.out, narrator)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    return 0 if report["passed"] else 1


async def _guarded(migration: Migration, guard: Guard) -> None:
    """Run it over databases and processes that end with it; what goes wrong becomes a finding.

    Raises:
        Unavailable: there is no PostgreSQL to run it on.
    """
    scratch = migration.scratch
    names = migration.scenario.profile.databases
    with databases(scratch / "pg", names, scratch / "new") as stores:
        if stores.server_pid is not None:
            guard.process(stores.server_pid, signal.SIGINT)
        try:
            async with Household(logs=scratch / "logs", guard=guard) as household:
                await migration.run(stores, household)
        except (CrossfadeError, CallError) as error:
            migration.findings.error = str(error)
        finally:
            _keep_logs(scratch, migration.options.out / "logs")


@contextmanager
def _scratch(guard: Guard) -> Iterator[Path]:
    base = tempfile.gettempdir()
    short = base if len(base) <= _TEMPORARY_MAX or not Path("/tmp").is_dir() else "/tmp"  # noqa: S108 - a directory of our own in it
    path = Path(tempfile.mkdtemp(prefix="crossfade-demo-", dir=short))
    guard.directory(path)
    (path / "logs").mkdir()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path / "torch")  # torch makes one in any case
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _keep_logs(scratch: Path, out: Path) -> None:
    """Copy what every process said; it is little, and the first thing to look at."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(scratch / "logs", out)
    server = scratch / "pg" / "data" / "log"
    if server.is_file():
        shutil.copyfile(server, out / "postgresql.log")
