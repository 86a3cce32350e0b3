"""One run over given databases: load, start the processes, walk, stop the clients, check."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from crossfade.client import CallError
from crossfade.client.control import ControlClient

from proxy.demo.account import read_account
from proxy.demo.checks import compare, lost_writes
from proxy.demo.clients import Orders
from proxy.demo.narrator import Narrator
from proxy.demo.options import DemoOptions
from proxy.demo.processes import Child, ChildFailed, Household, usage
from proxy.demo.scenario import Profile, Scenario, Stores
from proxy.demo.settings import write_settings
from proxy.demo.verdict import Findings
from proxy.demo.walk import Commands, Stage, walk
from proxy.errors import CrossfadeError, Rejected

_READY_S = 60.0  # a proxy that loads a model takes its time
_QUIET_S = 30.0
_POLL_S = 0.1
_REPLICAS = 2
_CLI = ("-m", "proxy.cli.main")


def replicas_of(options: DemoOptions, profile: Profile) -> int:
    """Return how many proxies a run has.

    Raises:
        Rejected: more were asked for than the new store allows.
    """
    if options.replicas is None:
        return min(_REPLICAS, profile.replicas_max)
    if not 1 <= options.replicas <= profile.replicas_max:
        raise Rejected(
            f"{options.replicas} replicas are not possible; expected 1 to {profile.replicas_max} "
            f"for {profile.preset}."
        )
    return options.replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What a run is made of; `findings` is filled in as it goes.

    Attributes:
        scratch: a directory of its own for logs, orders and the server's data.
    """

    options: DemoOptions
    scenario: Scenario
    scratch: Path
    narrator: Narrator
    findings: Findings

    async def run(self, stores: Stores, household: Household) -> None:
        """Do everything between the databases, made and empty, and the verdict.

        Raises:
            CrossfadeError: a step was refused, or a process of the demo died.
        """
        self.findings.engine = stores.engine
        self.narrator.fact("databases", stores.engine)
        await self._load(stores)
        config = self.scratch / "crossfade.yaml"
        write_settings(config, stores, self.scenario)
        addresses = await self._start_proxies(household, config)
        if not self.scenario.profile.reconciler_inside:
            await household.start("reconciler", [*_CLI, "reconcile", "--config", str(config)])
        async with ControlClient(addresses[0]) as control:
            stage = Stage(
                control=control,
                household=household,
                narrator=self.narrator,
                findings=self.findings,
                scenario=self.scenario,
                stores=stores,
                commands=self._commands(config, addresses[0]),
                damage=self.options.damage,
            )
            async with self._live_clients(household, addresses):
                await walk(stage)
                self.findings.processes = household.usage()
                if stores.server_pid is not None:
                    self.findings.processes["postgresql"] = usage(stores.server_pid)
            await self._settle_down(control)
        await self._check(stores)

    async def _load(self, stores: Stores) -> None:
        async with self.narrator.step("load", "the old store") as note:
            note(await self.scenario.load(stores))

    def _commands(self, config: Path, address: str) -> Commands:
        if self.scenario.profile.reconciler_inside:
            return Commands(config="", address=address)
        return Commands(config=str(config), address=address)

    async def _start_proxies(self, household: Household, config: Path) -> list[str]:
        count = replicas_of(self.options, self.scenario.profile)
        async with self.narrator.step("serve", f"{count} proxy processes"):
            children = [
                await household.start(
                    f"proxy-{number}",
                    [*_CLI, "serve", "--config", str(config), "--json"],
                    talk=True,
                )
                for number in range(count)
            ]
            return [await _address(child) for child in children]

    @asynccontextmanager
    async def _live_clients(
        self, household: Household, addresses: list[str]
    ) -> AsyncIterator[None]:
        """Keep live clients at work inside the block; afterwards read their account."""
        account = self.scratch / "account.json"
        orders = self.scratch / "orders.json"
        corpus = self.options.corpus
        Orders(
            addresses=addresses,
            preset=self.options.preset,
            seed=self.findings.seed,
            corpus=str(corpus) if corpus else "",
            quick=self.options.quick,
            account=str(account),
        ).save(orders)
        child = await household.start(
            "clients", ["-m", "proxy.demo.clients", str(orders)], talk=True
        )
        await self._first_counts(child)
        listening = asyncio.create_task(self._listen(child))
        try:
            yield
        except (CrossfadeError, CallError):
            with contextlib.suppress(CrossfadeError, TimeoutError, OSError):
                await self._collect(household, child, listening, account)
            raise
        finally:
            listening.cancel()
        await self._collect(household, child, listening, account)

    async def _collect(
        self, household: Household, child: Child, listening: asyncio.Task[None], account: Path
    ) -> None:
        """Stop the clients and read what they did."""
        async with self.narrator.step("clients", "finish and stop"):
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await _stop_clients(household, child)
            self.findings.account = await asyncio.to_thread(read_account, account)

    async def _first_counts(self, child: Child) -> None:
        self.narrator.doing("live clients: starting")
        async with self.narrator.step("clients", "write, read and search from now on"):
            await _line(child)

    async def _listen(self, child: Child) -> None:
        while line := await _stdout(child).readline():
            counts = json.loads(line)
            kept = ("acknowledged", "reads", "searches", "failed", "wrong")
            self.narrator.heard({name: counts[name] for name in kept})

    async def _settle_down(self, control: ControlClient) -> None:
        """Wait until no write is open and no key is dirty: then both stores must be equal."""
        deadline_s = time.monotonic() + _QUIET_S
        async with self.narrator.step("settle", "no write open, no key dirty"):
            while time.monotonic() < deadline_s:
                status = await control.status()
                if not status.unsettled and not sum(status.dirty.values()):
                    return
                await asyncio.sleep(_POLL_S)
            self.narrator.warn(
                f"{status.unsettled} writes are still open, {dict(status.dirty)} keys dirty"
            )

    async def _check(self, stores: Stores) -> None:
        findings = self.findings
        async with self.narrator.step("check", "straight from both stores") as note:
            expected = findings.account.expected if findings.account else ()
            contents, findings.complaints = await self.scenario.examine(stores, expected)
            findings.rows = {"old": contents.rows("old"), "new": contents.rows("new")}
            findings.matched, findings.differences = compare(contents, primary="new")
            findings.lost = lost_writes(contents, expected)
            note(
                f"{findings.matched} rows equal, {len(findings.differences)} differ, "
                f"{len(findings.lost)} of {len(expected)} live keys lost"
            )


async def _address(child: Child) -> str:
    answer = json.loads(await _line(child))
    return str(answer["address"])


async def _line(child: Child) -> bytes:
    """Return the first line a process prints.

    Raises:
        ChildFailed: it ended, or said nothing in time.
    """
    try:
        async with asyncio.timeout(_READY_S):
            line = await _stdout(child).readline()
    except TimeoutError as error:
        raise ChildFailed(
            f"The {child.name} process was not ready within {_READY_S:.0f} s.", hint=child.tail()
        ) from error
    if not line:
        await child.process.wait()
        child.check()
    return line


async def _stop_clients(household: Household, child: Child) -> None:
    """Tell the clients to stop, and wait until each has finished its request."""
    stdin = child.process.stdin
    if stdin is not None:
        stdin.write(b"stop\n")
        stdin.close()
    async with asyncio.timeout(_READY_S):
        while await _stdout(child).read(2**16):
            pass
        code = await child.process.wait()
    await household.stop(child)
    if code:
        raise ChildFailed(f"The live clients ended with {code}.", hint=child.tail())


def _stdout(child: Child) -> asyncio.StreamReader:
    if child.process.stdout is None:
        raise ChildFailed(f"The {child.name} process has no output to read.")
    return child.process.stdout
