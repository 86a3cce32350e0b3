"""The control service: each call checked, handed to the control plane, and its answer written."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Final

from crossfade.control.v1 import control_pb2 as pb

from proxy.controlplane import ControlPlane
from proxy.dataplane import RequestContext
from proxy.errors import Unavailable, Violation
from proxy.fronts.native import control_messages as messages
from proxy.fronts.native.context import Deadlines
from proxy.fronts.native.rpc import Reply, Stream, Unary
from proxy.fronts.native.values import dump_json
from proxy.ledger.types import Job, JobKind, JobState, Phase
from proxy.model import FieldType, JsonValue
from proxy.validate import rejected, shown, type_problem

SERVICE: Final = pb.DESCRIPTOR.services_by_name["ControlService"].full_name

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
TEXT_MAX: Final = 1000
"""Characters of an actor or a reason."""
DEADLINES: Final = Deadlines(default_s=60.0, max_s=600.0)
"""A phase step waits for replicas and drains writes; the configuration allows minutes for both."""
_POLL_DEADLINE_S: Final = 10.0
_ENDED: Final = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
_ACTIONS: Final[Mapping[int, JobState]] = {
    pb.JOB_ACTION_PAUSE: JobState.PAUSED,
    pb.JOB_ACTION_RESUME: JobState.REQUESTED,
    pb.JOB_ACTION_CANCEL: JobState.CANCELLED,
}


class ControlService:
    """The control plane on the wire.

    Args:
        stopping: set when the server stops; watchers are told to look elsewhere.
        watch_interval_s: how often a watched job is looked at.
    """

    def __init__(
        self, control_plane: ControlPlane, *, stopping: asyncio.Event, watch_interval_s: float
    ) -> None:
        self._plane = control_plane
        self._stopping = stopping
        self._watch_interval_s = watch_interval_s

    def methods(self) -> list[Unary | Stream]:
        """Return every method of the service."""
        return [
            Unary(name="GetStatus", request=pb.GetStatusRequest, handle=self.status),
            Unary(
                name="ChangePhase",
                request=pb.ChangePhaseRequest,
                handle=self.change_phase,
                writes=True,
            ),
            Unary(
                name="SetTraffic",
                request=pb.SetTrafficRequest,
                handle=self.set_traffic,
                writes=True,
            ),
            Unary(name="StartJob", request=pb.StartJobRequest, handle=self.start_job, writes=True),
            Unary(
                name="ControlJob",
                request=pb.ControlJobRequest,
                handle=self.control_job,
                writes=True,
            ),
            Unary(name="GetJob", request=pb.GetJobRequest, handle=self.job),
            Unary(name="ListJobs", request=pb.ListJobsRequest, handle=self.jobs),
            Stream(name="WatchJob", request=pb.WatchJobRequest, handle=self.watch_job),
            Unary(
                name="GetShadowReport", request=pb.GetShadowReportRequest, handle=self.shadow_report
            ),
            Unary(name="ListEvents", request=pb.ListEventsRequest, handle=self.events),
            Unary(name="ListDirtyKeys", request=pb.ListDirtyKeysRequest, handle=self.dirty_keys),
            Unary(
                name="ListDeadLetters", request=pb.ListDeadLettersRequest, handle=self.dead_letters
            ),
        ]

    async def status(self, request: pb.GetStatusRequest, context: RequestContext) -> Reply:
        """Return the whole state."""
        return Reply(messages.status(await self._plane.status()))

    async def change_phase(self, request: pb.ChangePhaseRequest, context: RequestContext) -> Reply:
        """Move one phase."""
        problems = _asked_by(request.actor, request.reason, force=request.force)
        target = messages.PHASES.get(request.target)
        if target is None:
            expected = f"one of {', '.join(phase.name for phase in Phase)}"
            got = str(request.target)
            problems.append(Violation(where="target", expected=expected, got=got))
        if target is None or problems:
            raise rejected(problems)
        change = await self._plane.change_phase(
            target,
            dry_run=request.dry_run,
            force=request.force,
            actor=request.actor,
            reason=request.reason,
        )
        return Reply(messages.change(change))

    async def set_traffic(self, request: pb.SetTrafficRequest, context: RequestContext) -> Reply:
        """Set the share of reads that go to the new store."""
        problems = _asked_by(request.actor, request.reason, force=request.force)
        percent = request.traffic_percent
        if not (math.isfinite(percent) and 0.0 <= percent <= 100.0):
            problems.append(
                Violation(where="traffic_percent", expected="0 to 100", got=str(percent))
            )
        if problems:
            raise rejected(problems)
        change = await self._plane.set_traffic(
            percent,
            dry_run=request.dry_run,
            force=request.force,
            actor=request.actor,
            reason=request.reason,
        )
        return Reply(messages.change(change))

    async def start_job(self, request: pb.StartJobRequest, context: RequestContext) -> Reply:
        """Ask for a job."""
        problems = _asked_by(request.actor, "", force=False)
        kind = messages.JOB_KINDS.get(request.kind)
        if kind is None:
            expected = f"one of {', '.join(kind.name for kind in JobKind)}"
            problems.append(Violation(where="kind", expected=expected, got=str(request.kind)))
        params = _params(request.params_json, problems)
        if kind is None or problems:
            raise rejected(problems)
        return Reply(messages.job(await self._plane.start_job(kind, params, actor=request.actor)))

    async def control_job(self, request: pb.ControlJobRequest, context: RequestContext) -> Reply:
        """Pause, resume or cancel a job."""
        problems = _asked_by(request.actor, "", force=False)
        wanted = _ACTIONS.get(request.action)
        if wanted is None:
            expected = "PAUSE, RESUME or CANCEL"
            problems.append(Violation(where="action", expected=expected, got=str(request.action)))
        if wanted is None or problems:
            raise rejected(problems)
        job = await self._plane.want_job(request.job_id, wanted, actor=request.actor)
        return Reply(messages.job(job))

    async def job(self, request: pb.GetJobRequest, context: RequestContext) -> Reply:
        """Return one job."""
        return Reply(messages.job(await self._plane.job(request.job_id)))

    async def jobs(self, request: pb.ListJobsRequest, context: RequestContext) -> Reply:
        """Return the latest jobs."""
        return Reply(messages.jobs(await self._plane.jobs()))

    async def watch_job(
        self, request: pb.WatchJobRequest, context: RequestContext
    ) -> AsyncIterator[pb.Job]:
        """Yield the job now and whenever it has changed, until it has ended."""
        last: Job | None = None
        while True:
            async with asyncio.timeout(_POLL_DEADLINE_S):
                job = await self._plane.job(request.job_id)
            if job != last:
                yield messages.job(job)
            if job.state in _ENDED:
                return
            last = job
            if await self._stops_within(self._watch_interval_s):
                raise Unavailable(
                    "This replica stops.", where="proxy", hint="Watch the job at another."
                )

    async def _stops_within(self, interval_s: float) -> bool:
        try:
            async with asyncio.timeout(interval_s):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    async def shadow_report(
        self, request: pb.GetShadowReportRequest, context: RequestContext
    ) -> Reply:
        """Return the shadow-read report."""
        report = await self._plane.shadow_report()
        return Reply(pb.GetShadowReportResponse(report_json=dump_json(report)))

    async def events(self, request: pb.ListEventsRequest, context: RequestContext) -> Reply:
        """Return the event log."""
        limit = _limit(request.limit)
        found = await self._plane.events(limit=limit, after=request.after_event_id)
        return Reply(messages.events(found))

    async def dirty_keys(self, request: pb.ListDirtyKeysRequest, context: RequestContext) -> Reply:
        """Return a sample of dirty keys."""
        limit = _limit(request.limit)
        found = await self._plane.dirty_keys(request.collection, limit=limit)
        return Reply(messages.dirty_keys(found))

    async def dead_letters(
        self, request: pb.ListDeadLettersRequest, context: RequestContext
    ) -> Reply:
        """Return unresolved dead letters."""
        found = await self._plane.dead_letters(limit=_limit(request.limit))
        return Reply(messages.dead_letters(found))


def _asked_by(actor: str, reason: str, *, force: bool) -> list[Violation]:
    """Return what is missing of who asks and why; the event log needs both."""
    problems = []
    if not 1 <= len(actor.strip()) <= TEXT_MAX:
        expected = f"who asks, 1 to {TEXT_MAX} characters"
        problems.append(Violation(where="actor", expected=expected, got=shown(actor)))
    if len(reason) > TEXT_MAX or (force and not reason.strip()):
        expected = f"why, up to {TEXT_MAX} characters, not empty with force"
        problems.append(Violation(where="reason", expected=expected, got=shown(reason)))
    return problems


def _params(text: str, problems: list[Violation]) -> dict[str, JsonValue]:
    """Return a job's parameters; what is wrong with the text goes into `problems`."""
    expected = "a JSON object, or nothing"
    try:
        params = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        problems.append(Violation(where="params_json", expected=expected, got=str(error)))
        return {}
    if not isinstance(params, dict):
        problems.append(Violation(where="params_json", expected=expected, got=shown(text)))
        return {}
    problem = type_problem(FieldType.JSON, params, where="params_json")
    if problem is not None:
        problems.append(problem)
    return params


def _limit(limit: int) -> int:
    if not 0 <= limit <= LIMIT_MAX:
        expected = f"1 to {LIMIT_MAX}, or 0 for {LIMIT_DEFAULT}"
        raise rejected([Violation(where="limit", expected=expected, got=str(limit))])
    return limit or LIMIT_DEFAULT
