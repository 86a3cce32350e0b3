"""The client of the control plane, for the command line and for operators' own tools."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import grpc

from crossfade.client import control_messages as messages
from crossfade.client.control_types import (
    Change,
    DeadLetter,
    DirtyKey,
    Event,
    Job,
    JobAction,
    JobKind,
    Phase,
    Status,
)
from crossfade.client.errors import Unavailable, from_rpc_error
from crossfade.client.transport import MESSAGE_BYTES_MAX, CallOptions, call, open_channel
from crossfade.control.v1 import control_pb2 as pb
from crossfade.control.v1 import control_pb2_grpc

CHANGE_TIMEOUT_S: Final = 120.0
"""A phase step waits for every replica to acknowledge and for writes to drain."""


class ControlClient:
    """One migration, through any of its proxies.

    Every method raises a subclass of `CallError`. Reads are tried again after UNAVAILABLE;
    commands are not, since they have no idempotency key: look at the status before a second try.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = 10.0,
        retries: int = 3,
        change_timeout_s: float = CHANGE_TIMEOUT_S,
    ) -> None:
        """Connect lazily; `target` is "host:port"."""
        self._options = CallOptions(timeout_s=timeout_s, retries=retries)
        self._once = CallOptions(timeout_s=timeout_s, retries=0)
        self._change = CallOptions(timeout_s=change_timeout_s, retries=0)
        self._channel = open_channel(target, credentials, MESSAGE_BYTES_MAX)
        self._stub = control_pb2_grpc.ControlServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def status(self) -> Status:
        """Return the whole state."""
        answer = await call(self._stub.GetStatus, pb.GetStatusRequest(), self._options)
        return messages.status(answer)

    async def change_phase(
        self,
        target: Phase,
        *,
        actor: str,
        reason: str = "",
        dry_run: bool = False,
        force: bool = False,
    ) -> Change:
        """Move one step; a step that its preconditions refuse is an answer, not an error."""
        request = pb.ChangePhaseRequest(
            target=messages.PHASES[target],
            dry_run=dry_run,
            force=force,
            actor=actor,
            reason=reason,
        )
        return messages.change(await call(self._stub.ChangePhase, request, self._change))

    async def set_traffic(
        self,
        percent: float,
        *,
        actor: str,
        reason: str = "",
        dry_run: bool = False,
        force: bool = False,
    ) -> Change:
        """Set the share of reads that the new store answers, 0..100."""
        request = pb.SetTrafficRequest(
            traffic_percent=percent, dry_run=dry_run, force=force, actor=actor, reason=reason
        )
        return messages.change(await call(self._stub.SetTraffic, request, self._change))

    async def start_job(self, kind: JobKind, params: Mapping[str, Any], *, actor: str) -> Job:
        """Ask for a backfill, a verify or a repair; `params` is a JSON object."""
        request = pb.StartJobRequest(
            kind=messages.JOB_KINDS[kind], params_json=json.dumps(params), actor=actor
        )
        return messages.job(await call(self._stub.StartJob, request, self._once))

    async def control_job(self, job_id: int, action: JobAction, *, actor: str) -> Job:
        """Pause, resume or cancel a job."""
        request = pb.ControlJobRequest(
            job_id=job_id, action=messages.JOB_ACTIONS[action], actor=actor
        )
        return messages.job(await call(self._stub.ControlJob, request, self._options))

    async def job(self, job_id: int) -> Job:
        """Return a job with its progress.

        Raises:
            NotFound: there is none.
        """
        request = pb.GetJobRequest(job_id=job_id)
        return messages.job(await call(self._stub.GetJob, request, self._options))

    async def jobs(self) -> list[Job]:
        """Return jobs, newest first."""
        answer = await call(self._stub.ListJobs, pb.ListJobsRequest(), self._options)
        return [messages.job(one) for one in answer.jobs]

    async def watch_job(self, job_id: int) -> AsyncIterator[Job]:
        """Yield the job now and at each change; the last one yielded has ended.

        A proxy that goes away is replaced by another try, a bounded number of times without
        any progress in between.
        """
        failures = 0
        while True:
            try:
                async for message in self._stub.WatchJob(pb.WatchJobRequest(job_id=job_id)):
                    failures = 0
                    yield messages.job(message)
                return
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error)
                failures += 1
                if not isinstance(failure, Unavailable) or failures > self._options.retries:
                    raise failure from error
            # Asking for the job waits until a proxy answers, with its own retries and deadline.
            await self.job(job_id)

    async def shadow_report(self) -> Mapping[str, Any]:
        """Return the merged report of shadow reads."""
        request = pb.GetShadowReportRequest()
        answer = await call(self._stub.GetShadowReport, request, self._options)
        report: Mapping[str, Any] = json.loads(answer.report_json)
        return report

    async def events(self, *, limit: int = 100, after: int = 0) -> list[Event]:
        """Return events with a greater id than `after`, oldest first."""
        request = pb.ListEventsRequest(limit=limit, after_event_id=after)
        answer = await call(self._stub.ListEvents, request, self._options)
        return [messages.event(one) for one in answer.events]

    async def dirty_keys(self, collection: str, *, limit: int = 100) -> list[DirtyKey]:
        """Return a sample of the keys whose two stores may differ."""
        request = pb.ListDirtyKeysRequest(collection=collection, limit=limit)
        answer = await call(self._stub.ListDirtyKeys, request, self._options)
        return [messages.dirty_key(one) for one in answer.keys]

    async def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return unresolved dead letters."""
        request = pb.ListDeadLettersRequest(limit=limit)
        answer = await call(self._stub.ListDeadLetters, request, self._options)
        return [messages.dead_letter(one) for one in answer.letters]
