"""The control plane's operations over ledger, stores and switch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.clock import Clock, SystemClock
from proxy.control.evidence import (
    Evidence,
    check_store,
    finished_backfill,
    health_of,
    index_states,
)
from proxy.control.preconditions import JudgeSettings, conditions, traffic_conditions
from proxy.control.switch import Order, Switch, Switched
from proxy.controlplane import Change, Precondition, Status
from proxy.errors import Reason, Rejected, Violation
from proxy.ledger.base import Ledger
from proxy.ledger.types import (
    DeadLetter,
    DirtyKey,
    Event,
    EventDraft,
    Job,
    JobKind,
    JobState,
    Phase,
    Routing,
)
from proxy.model import JsonValue
from proxy.routing.phases import ORDER, Step, after, allowed_targets, secondary_of, shadows, step
from proxy.routing.replicas import lost
from proxy.stores.sides import Sides

log = logging.getLogger(__name__)


def take_any(kind: JobKind, params: Mapping[str, JsonValue]) -> None:
    """Let every parameter pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlParts:
    """What the control plane is made of.

    Attributes:
        engines: store name -> engine name, for people.
        gate: the shadow gate, judged now.
        report: the merged shadow report.
        check_job: raises Rejected if a job has wrong parameters; handed in, because what they
            mean is known elsewhere.
    """

    migration: str
    ledger: Ledger
    sides: Sides
    switch: Switch
    engines: Mapping[str, str]
    judge: JudgeSettings
    gate: Callable[[], Awaitable[Sequence[Precondition]]]
    report: Callable[[], Awaitable[Mapping[str, JsonValue]]]
    check_job: Callable[[JobKind, Mapping[str, JsonValue]], None] = take_any
    clock: Clock = field(default_factory=SystemClock)


class ControlService:
    """`ControlPlane` for one migration; any replica may serve it."""

    def __init__(self, parts: ControlParts) -> None:
        self._parts = parts
        self._one_at_a_time = asyncio.Lock()
        self._running: set[asyncio.Task[Change]] = set()

    async def _to_the_end(self, work: Coroutine[Any, Any, Change]) -> Change:
        """Finish a change although its caller goes away: half a swap would hold every write."""
        task = asyncio.create_task(work, name="change of routing")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Change]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("a change of routing failed: %s", task.exception())

    async def _evidence(self, *, schemas: bool) -> Evidence:
        parts = self._parts
        ledger = parts.ledger
        routing, flags = await ledger.routing(), await ledger.flags()
        secondary = parts.sides.store(secondary_of(routing))
        names = ("old", "new")
        health = await asyncio.gather(
            *(health_of(name, parts.sides, routing, parts.engines[name]) for name in names)
        )
        problems = [
            problem
            for name in (names if schemas else ())
            for problem in await check_store(parts.sides.store(name))
        ]
        return Evidence(
            routing=routing,
            health=health,
            problems=problems,
            replicas=await ledger.replicas(),
            unsettled=await ledger.unsettled(),
            dirty=await ledger.dirty_counts(),
            backfill=await finished_backfill(ledger, flags),
            dead_letters=await ledger.dead_letters(limit=1000),
            indexes=await index_states(secondary),
            flags=flags,
            gate=await parts.gate() if shadows(routing.phase) else (),
            at=parts.clock.now(),
        )

    async def status(self) -> Status:
        """See `ControlPlane.status`."""
        evidence = await self._evidence(schemas=False)
        return Status(
            migration=self._parts.migration,
            routing=evidence.routing,
            stores=evidence.health,
            replicas=evidence.replicas,
            unsettled=evidence.unsettled,
            dirty=evidence.dirty,
            jobs=await self._parts.ledger.jobs(limit=10),
            indexes=evidence.indexes,
            dead_letters=len(evidence.dead_letters),
            flags=evidence.flags,
            next_steps=self._next_steps(evidence),
        )

    def _next_steps(self, evidence: Evidence) -> list[str]:
        steps: list[str] = []
        phase = evidence.routing.phase
        if phase is Phase.NEW_ONLY:
            return ["nothing: the migration has ended, and the old store may be switched off"]
        for target in allowed_targets(phase):
            taken = step(phase, target)
            if taken is None:
                continue
            failed = [
                item for item in conditions(taken, evidence, self._parts.judge) if not item.passed
            ]
            command = f"crossfade phase {target.value}"
            if not failed:
                steps.append(f"{command}: every precondition holds")
            elif taken.forward:
                steps.append(f"{command}: not yet: " + "; ".join(item.detail for item in failed))
                steps.extend(item.remedy for item in failed if item.remedy)
        return steps

    async def change_phase(
        self, target: Phase, *, dry_run: bool, force: bool, actor: str, reason: str
    ) -> Change:
        """See `ControlPlane.change_phase`."""
        return await self._to_the_end(
            self._change_phase(target, dry_run=dry_run, force=force, actor=actor, reason=reason)
        )

    async def _change_phase(
        self, target: Phase, *, dry_run: bool, force: bool, actor: str, reason: str
    ) -> Change:
        async with self._one_at_a_time:
            evidence = await self._evidence(schemas=target is Phase.DUAL_WRITE)
            routing = evidence.routing
            taken = step(routing.phase, target)
            if taken is None or routing.hold:
                raise _no_step(routing, target)
            checked = conditions(taken, evidence, self._parts.judge)
            refused = _refused(checked, force=force)
            if dry_run or refused:
                return Change(
                    applied=False,
                    routing=routing,
                    preconditions=checked,
                    message=refused or _would(taken),
                )
            order = _order(actor, reason, checked, taken, forced=force)
            if force:
                await self._forget_lost(evidence, order)
            switched = await self._switch(taken, routing, order)
            return Change(
                applied=switched.applied,
                routing=switched.routing,
                preconditions=checked,
                message=switched.message + _last_word(taken, switched),
                stall_ms=switched.stall_ms,
            )

    async def _forget_lost(self, evidence: Evidence, order: Order) -> None:
        """Let nobody wait for replicas that will not come back; a full verify must stand in."""
        gone: list[JsonValue] = [item.replica_id for item in lost(evidence.replicas)]
        if not gone:
            return
        order.detail["forgotten_replicas"] = gone
        ledger = self._parts.ledger
        await ledger.set_flag(
            "full_verify_needed",
            {
                "at": self._parts.clock.now().isoformat(),
                "replica": ", ".join(str(name) for name in gone),
            },
            actor=order.actor,
            reason="replicas that may have written without the ledger were given up",
        )
        for name in gone:
            await ledger.release_replica(str(name))

    async def _switch(self, taken: Step, routing: Routing, order: Order) -> Switched:
        target = after(routing, taken)
        if not taken.swap:
            return await self._parts.switch.step(routing, target, order)
        sides = self._parts.sides
        return await self._parts.switch.swap(
            routing,
            target,
            order,
            allocator=sides.store(target.primary),
            source=sides.store(routing.primary),
        )

    async def set_traffic(
        self, percent: float, *, dry_run: bool, force: bool, actor: str, reason: str
    ) -> Change:
        """See `ControlPlane.set_traffic`."""
        if not 0.0 <= percent <= 100.0:
            raise Rejected(
                "The percentage is out of range.",
                reason=Reason.OUT_OF_RANGE,
                violations=(
                    Violation(where="percent", expected="a number in 0..100", got=f"{percent:g}"),
                ),
            )
        return await self._to_the_end(
            self._set_traffic(percent, dry_run=dry_run, force=force, actor=actor, reason=reason)
        )

    async def _set_traffic(
        self, percent: float, *, dry_run: bool, force: bool, actor: str, reason: str
    ) -> Change:
        async with self._one_at_a_time:
            evidence = await self._evidence(schemas=False)
            routing = evidence.routing
            if routing.hold:
                # Another epoch would take the hold away from the swap that is to release it.
                raise Rejected(
                    "The traffic cannot change while a swap is under way.",
                    reason=Reason.FAILED_PRECONDITION,
                    hint="The swap ends or gives up by itself; try again in some seconds.",
                )
            checked = traffic_conditions(evidence, self._parts.judge, percent=percent)
            refused = _refused(checked, force=force and checked[0].passed)
            if dry_run or refused:
                would = f"Would move {percent:g} % of the reads to the new store."
                return Change(
                    applied=False, routing=routing, preconditions=checked, message=refused or would
                )
            order = Order(
                actor=actor,
                reason=reason,
                detail={"from": routing.percent, "to": percent, "forced": force},
            )
            target = replace(routing, percent=percent)
            switched = await self._parts.switch.step(routing, target, order)
            message = f"{percent:g} % of the reads go to the new store. {switched.message}"
            return Change(
                applied=True, routing=switched.routing, preconditions=checked, message=message
            )

    async def start_job(self, kind: JobKind, params: Mapping[str, JsonValue], *, actor: str) -> Job:
        """See `ControlPlane.start_job`."""
        self._parts.check_job(kind, params)
        job = await self._parts.ledger.create_job(kind, params)
        await self._log("job.start", actor, {"job_id": job.job_id, "kind": kind.value})
        return job

    async def want_job(self, job_id: int, wanted: JobState, *, actor: str) -> Job:
        """See `ControlPlane.want_job`."""
        job = await self._parts.ledger.want(job_id, wanted)
        await self._log("job.want", actor, {"job_id": job_id, "wanted": wanted.value})
        return job

    async def _log(self, kind: str, actor: str, detail: dict[str, JsonValue]) -> None:
        await self._parts.ledger.log_event(EventDraft(kind=kind, actor=actor, detail=detail))

    async def job(self, job_id: int) -> Job:
        """See `ControlPlane.job`."""
        return await self._parts.ledger.job(job_id)

    async def jobs(self) -> list[Job]:
        """See `ControlPlane.jobs`."""
        return await self._parts.ledger.jobs()

    async def dirty_keys(self, collection: str, *, limit: int) -> list[DirtyKey]:
        """See `ControlPlane.dirty_keys`."""
        return await self._parts.ledger.dirty_keys(collection, limit=limit)

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """See `ControlPlane.dead_letters`."""
        return await self._parts.ledger.dead_letters(limit=limit)

    async def shadow_report(self) -> Mapping[str, JsonValue]:
        """See `ControlPlane.shadow_report`."""
        return await self._parts.report()

    async def events(self, *, limit: int, after: int) -> list[Event]:
        """See `ControlPlane.events`."""
        return await self._parts.ledger.events(limit=limit, after=after)


def _no_step(routing: Routing, target: Phase) -> Rejected:
    steps = [item.value for item in allowed_targets(routing.phase)]
    reachable = ", ".join(steps) or "none"
    why = " while a swap is under way" if routing.hold else ""
    return Rejected(
        f"There is no step from {routing.phase.value} to {target.value}{why}.",
        reason=Reason.FAILED_PRECONDITION,
        violations=(Violation(where="target", expected=f"one of: {reachable}", got=target.value),),
        hint=_step_hint(routing, target, steps),
    )


def _step_hint(routing: Routing, target: Phase, steps: Sequence[str]) -> str:
    """Say how to come to `target`, where no single step leads there."""
    if routing.phase is Phase.NEW_ONLY:
        return "new_only is the point of no return."
    if routing.hold:
        return "Wait until the swap has ended; `crossfade status` shows it."
    if target is routing.phase:
        return f"The phase is {target.value} already."
    forward = ORDER.index(target) > ORDER.index(routing.phase)
    return f"Go one step at a time: `crossfade phase {steps[0 if forward else -1]}` is the next."


def _refused(checked: Sequence[Precondition], *, force: bool) -> str:
    failed = [item.name for item in checked if not item.passed]
    if not failed or force:
        return ""
    return f"Refused, nothing was changed: {', '.join(failed)}."


def _would(taken: Step) -> str:
    how = "hold writes, drain, swap the primary, release" if taken.swap else "change the routing"
    return f"Every precondition holds. Would {how}: {taken.source.value} -> {taken.target.value}."


def _order(
    actor: str, reason: str, checked: Sequence[Precondition], taken: Step, *, forced: bool
) -> Order:
    detail: dict[str, JsonValue] = {
        "from": taken.source.value,
        "to": taken.target.value,
        "forced": forced,
        "preconditions": [
            {"name": item.name, "passed": item.passed, "detail": item.detail} for item in checked
        ],
    }
    return Order(actor=actor, reason=reason, detail=detail, note=_period(taken))


def _period(taken: Step) -> str:
    """Name the period that a step begins; the shadow gate counts anew after a step back too."""
    if taken.swap:
        return "swap"
    forward = taken.forward and taken.target is Phase.DUAL_WRITE
    return taken.target.value if forward or taken.target is Phase.SHADOW else ""


def _last_word(taken: Step, switched: Switched) -> str:
    if switched.applied and taken.target is Phase.NEW_ONLY:
        return " The old store is not written any more: there is no way back from here."
    return ""
