"""The walk through every phase, there, back and there again, under live traffic."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from crossfade.client import CallError
from crossfade.client.control import ControlClient
from crossfade.client.control_types import Change, Job, JobKind, JobState, Phase

from proxy.demo.narrator import Narrator, told
from proxy.demo.processes import Household
from proxy.demo.scenario import Scenario, Stores
from proxy.demo.timeline import Swap
from proxy.demo.verdict import Findings
from proxy.errors import CrossfadeError

_ACTOR = "crossfade demo"
_RAMP = (1.0, 10.0, 50.0, 100.0)
_READY_S = 30.0
_POLL_S = 0.5
_COMMAND_S = 180.0
_SWAP_TRIES = 3


class StepRefused(CrossfadeError):
    """A phase step or a job did not do what the demo asked; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """How a person has a job done: by a process of its own, or inside the proxy.

    Attributes:
        config: of the reconciler's commands; "" if the proxy alone may write a store.
        address: of a proxy.
    """

    config: str
    address: str

    def of(self, kind: JobKind, *, report_only: bool) -> list[str]:
        """Return the arguments of python that do a job and wait for its end."""
        command = ["-m", "proxy.cli.main"]
        if self.config:
            command += [kind.value, "--config", self.config, "--json"]
            return [*command, "--report-only"] if report_only else command
        command += ["job", kind.value, "--address", self.address, "--wait", "--json"]
        return [*command, "--param", "report_only=true"] if report_only else command


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a walk works with; `damage`: kinds of rows to spoil before the last verify."""

    control: ControlClient
    household: Household
    narrator: Narrator
    findings: Findings
    scenario: Scenario
    stores: Stores
    commands: Commands
    damage: Sequence[str]


async def walk(stage: Stage) -> None:
    """Go through the whole migration; what was found so far is kept if it fails.

    Raises:
        StepRefused: a step was refused or a job failed; nothing after it was tried.
        ChildFailed: a process of the demo died.
    """
    try:
        await _walk(stage)
    finally:
        stage.findings.timeline.close()
        with contextlib.suppress(CallError):
            await _gather(stage)


async def _walk(stage: Stage) -> None:
    timeline = stage.findings.timeline
    timeline.enter("old_only")
    await _dwell(stage)
    await _phase(stage, Phase.DUAL_WRITE, "both stores are written")
    timeline.enter("dual_write")
    await _dwell(stage)
    timeline.enter("backfill")
    stage.findings.backfill = (await _job(stage, JobKind.BACKFILL)).summary
    await _note_index(stage)
    timeline.enter("verify")
    await _job(stage, JobKind.VERIFY)
    await _phase(stage, Phase.SHADOW, "reads are repeated and compared")
    timeline.enter("shadow")
    await _dwell(stage)
    await _ready(stage, Phase.RAMP, timeout_s=stage.scenario.pace.shadow_timeout_s)
    await _phase(stage, Phase.RAMP, "the new store may answer")
    for percent in _RAMP:
        await _traffic(stage, percent)
        timeline.enter(f"ramp {percent:g}%")
        await _dwell(stage)
    await _swap(stage, Phase.NEW_PRIMARY, "cutover")
    timeline.enter("new_primary")
    await _dwell(stage)
    await _swap(stage, Phase.RAMP, "rollback")
    timeline.enter("rollback")
    await _dwell(stage)
    await _job(stage, JobKind.VERIFY)
    await _traffic(stage, 100.0)
    await _ready(stage, Phase.NEW_PRIMARY, timeout_s=_READY_S)
    await _swap(stage, Phase.NEW_PRIMARY, "cutover again")
    timeline.enter("new_primary again")
    await _dwell(stage)
    await _final_verify(stage)


async def _final_verify(stage: Stage) -> None:
    timeline = stage.findings.timeline
    timeline.enter("final verify")
    if stage.damage:
        damage = await asyncio.to_thread(stage.scenario.inflict, stage.stores, stage.damage)
        stage.findings.damage = damage
        for item in damage:
            stage.narrator.warn(f"{item.kind} on purpose: {item.collection} {list(item.key)}")
    job = await _job(stage, JobKind.VERIFY, may_differ=True)
    stage.findings.verify = job.summary


async def _gather(stage: Stage) -> None:
    """Take the shadow report and the event log along."""
    stage.findings.shadow = await stage.control.shadow_report()
    stage.findings.events = [
        {
            "event_id": event.event_id,
            "at": event.at.isoformat(),
            "kind": event.kind,
            "actor": event.actor,
            "reason": event.reason,
            "epoch": event.epoch,
            "detail": dict(event.detail),
        }
        for event in await stage.control.events(limit=1000)
    ]


async def _phase(stage: Stage, target: Phase, meaning: str) -> Change:
    await _ready(stage, target, timeout_s=_READY_S)
    async with stage.narrator.step(f"phase {target.value}", meaning) as note:
        change = await stage.control.change_phase(target, actor=_ACTOR, reason=meaning)
        _must_apply(change, f"The step to {target.value}")
        note(f"writes held {change.stall_ms:.0f} ms" if change.stall_ms else "")
    return change


async def _swap(stage: Stage, target: Phase, meaning: str) -> None:
    """Swap the primary; one that a busy machine could not drain in time is tried again.

    Its stall is counted from the first try: clients felt that one too.
    """
    held_s: list[float] = []
    change: Change | None = None
    while change is None:
        await _ready(stage, target, timeout_s=_READY_S)
        asked_s = time.monotonic()
        try:
            change = await _phase(stage, target, meaning)
        except StepRefused as refusal:
            if len(held_s) + 1 == _SWAP_TRIES:
                raise
            stage.narrator.warn(f"{refusal} It is tried again.")
        held_s.append(max(asked_s, await _held_since_s(stage)))
    done_s = time.monotonic()
    stage.findings.timeline.swaps.append(
        Swap(
            to=change.routing.primary,
            start_s=min(held_s[0], done_s),
            end_s=done_s,
            hold_ms=change.stall_ms,
        )
    )


async def _held_since_s(stage: Stage) -> float:
    """Return when the last swap began to hold writes (monotonic seconds), by the event log."""
    events = await stage.control.events(limit=1000)
    held = [event.at.timestamp() for event in events if event.kind == "hold"]
    return held[-1] - time.time() + time.monotonic() if held else 0.0


async def _traffic(stage: Stage, percent: float) -> None:
    await _until_allowed(
        stage,
        f"traffic {percent:g} %",
        lambda: stage.control.set_traffic(percent, actor=_ACTOR, dry_run=True),
        timeout_s=_READY_S,
    )
    meaning = "of the tenants read from the new store"
    async with stage.narrator.step(f"traffic {percent:g} %", meaning):
        change = await stage.control.set_traffic(percent, actor=_ACTOR, reason=meaning)
        _must_apply(change, f"Traffic of {percent:g} %")


async def _ready(stage: Stage, target: Phase, *, timeout_s: float) -> None:
    """Wait until every precondition of a step holds; shadow reads and repairs need their time."""
    await _until_allowed(
        stage,
        f"phase {target.value}",
        lambda: stage.control.change_phase(target, actor=_ACTOR, dry_run=True),
        timeout_s=timeout_s,
    )


async def _until_allowed(
    stage: Stage, what: str, ask: Callable[[], Awaitable[Change]], *, timeout_s: float
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        stage.household.check()
        change = await ask()
        if all(item.passed for item in change.preconditions):
            return
        if time.monotonic() > deadline_s:
            raise _refused(change, f"The step to {what}")
        missing = [item for item in change.preconditions if not item.passed]
        stage.narrator.doing(f"{what}: waiting, {missing[0].name}: {missing[0].detail}")
        await asyncio.sleep(_POLL_S)


async def _job(stage: Stage, kind: JobKind, *, may_differ: bool = False) -> Job:
    """Have one job done to its end by the command line, as a cron job would.

    Args:
        may_differ: differences are reported, neither queued for repair nor an error.
    """
    command = stage.commands.of(kind, report_only=may_differ)
    async with stage.narrator.step(kind.value, "") as note:
        ended = await stage.household.run(f"crossfade-{kind.value}", command, timeout_s=_COMMAND_S)
        jobs = [job for job in await stage.control.jobs() if job.kind is kind]
        newest = max(jobs, key=lambda job: job.job_id, default=None)
        if newest is None or newest.state is not JobState.DONE:
            state = f"is {newest.state.value}: {newest.error}" if newest else "never began"
            raise StepRefused(f"The {kind.value} {state}.", hint=ended.tail)
        note(told(newest.summary))
        if ended.code and not may_differ:
            raise StepRefused(f"The {kind.value} ended with {ended.code}.", hint=ended.tail)
    return newest


async def _note_index(stage: Stage) -> None:
    status = await stage.control.status()
    stage.findings.index = {
        f"{item.collection}.{item.name}": {"ready": item.ready, "detail": item.detail}
        for item in status.indexes
    }
    for item in status.indexes:
        stage.narrator.fact("index", f"{item.name} {'is ready' if item.ready else item.detail}")


async def _dwell(stage: Stage) -> None:
    """Let the live clients work for a while, and notice at once if a process died."""
    deadline_s = time.monotonic() + stage.scenario.pace.dwell_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        stage.household.check()
        await asyncio.sleep(min(left_s, _POLL_S))


def _must_apply(change: Change, what: str) -> None:
    if not change.applied:
        raise _refused(change, what)


def _refused(change: Change, what: str) -> StepRefused:
    """Return the error that names every precondition that failed, with its remedy."""
    lines = [
        f"  {item.name}: {item.detail}. {item.remedy}".rstrip()
        for item in change.preconditions
        if not item.passed
    ]
    return StepRefused("\n".join([f"{what} was refused. {change.message}".strip(), *lines]))
