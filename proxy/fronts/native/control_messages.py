"""The control plane's data as messages; a mapping each, with nothing to decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from crossfade.control.v1 import control_pb2 as pb

from proxy.controlplane import Change, Status
from proxy.fronts.native.values import dump_json, to_microseconds
from proxy.ledger.types import (
    DeadLetter,
    DirtyKey,
    Event,
    Job,
    JobKind,
    JobState,
    Phase,
    Replica,
    Routing,
)
from proxy.model import encode_key

PHASES: Final[Mapping[int, Phase]] = {
    pb.Phase.Value(f"PHASE_{phase.name}"): phase for phase in Phase
}
JOB_KINDS: Final[Mapping[int, JobKind]] = {
    pb.JobKind.Value(f"JOB_KIND_{kind.name}"): kind for kind in JobKind
}
_PHASES: Final = {phase: pb.Phase.Value(f"PHASE_{phase.name}") for phase in Phase}
_JOB_KINDS: Final = {kind: pb.JobKind.Value(f"JOB_KIND_{kind.name}") for kind in JobKind}
_JOB_STATES: Final = {state: pb.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}


def status(state: Status) -> pb.GetStatusResponse:
    """Return the whole state."""
    return pb.GetStatusResponse(
        migration=state.migration,
        routing=routing(state.routing),
        stores=[
            pb.StoreHealth(
                name=store.name,
                role=store.role,
                engine=store.engine,
                healthy=store.healthy,
                breaker=store.breaker,
                detail=store.detail,
                latency_ms=store.latency_ms,
            )
            for store in state.stores
        ],
        replicas=[_replica(replica) for replica in state.replicas],
        unsettled_count=state.unsettled,
        dirty_counts=dict(state.dirty),
        jobs=[job(one) for one in state.jobs],
        indexes=[
            pb.IndexState(
                collection=index.collection,
                name=index.name,
                exists=index.exists,
                ready=index.ready,
                detail=index.detail,
            )
            for index in state.indexes
        ],
        dead_letter_count=state.dead_letters,
        flags_json=dump_json(state.flags),
        next_steps=state.next_steps,
    )


def routing(state: Routing) -> pb.Routing:
    """Return a routing."""
    return pb.Routing(
        epoch=state.epoch,
        phase=_PHASES[state.phase],
        primary=state.primary,
        traffic_percent=state.percent,
        hold=state.hold,
    )


def _replica(replica: Replica) -> pb.Replica:
    return pb.Replica(
        replica_id=replica.replica_id,
        acked_epoch=replica.acked_epoch,
        alive=replica.alive,
        lease_left_s=replica.lease_left_s,
        started_at_us=to_microseconds(replica.started_at),
        address=replica.address,
        ledger_down=replica.ledger_down,
        clean_exit=replica.clean_exit,
    )


def change(outcome: Change) -> pb.ChangeResponse:
    """Return the outcome of a phase or traffic command."""
    return pb.ChangeResponse(
        applied=outcome.applied,
        routing=routing(outcome.routing),
        preconditions=[
            pb.Precondition(name=one.name, passed=one.passed, detail=one.detail, remedy=one.remedy)
            for one in outcome.preconditions
        ],
        message=outcome.message,
        stall_ms=outcome.stall_ms,
    )


def job(state: Job) -> pb.Job:
    """Return a job."""
    message = pb.Job(
        job_id=state.job_id,
        kind=_JOB_KINDS[state.kind],
        state=_JOB_STATES[state.state],
        wanted=_JOB_STATES[state.wanted],
        epoch=state.epoch,
        params_json=dump_json(state.params),
        summary_json=dump_json(state.summary),
        owner=state.owner,
        owner_alive=state.owner_alive,
        created_at_us=to_microseconds(state.created_at),
        error=state.error,
    )
    if state.started_at is not None:
        message.started_at_us = to_microseconds(state.started_at)
    if state.finished_at is not None:
        message.finished_at_us = to_microseconds(state.finished_at)
    return message


def jobs(found: Sequence[Job]) -> pb.ListJobsResponse:
    """Return jobs."""
    return pb.ListJobsResponse(jobs=[job(one) for one in found])


def events(found: Sequence[Event]) -> pb.ListEventsResponse:
    """Return events."""
    answer = pb.ListEventsResponse()
    for event in found:
        answer.events.add(
            event_id=event.event_id,
            at_us=to_microseconds(event.at),
            kind=event.kind,
            actor=event.actor,
            reason=event.reason,
            epoch=event.epoch,
            detail_json=dump_json(event.detail),
        )
    return answer


def dirty_keys(found: Sequence[DirtyKey]) -> pb.ListDirtyKeysResponse:
    """Return dirty keys."""
    answer = pb.ListDirtyKeysResponse()
    for dirty in found:
        answer.keys.add(
            collection=dirty.collection,
            key_json=encode_key(dirty.key),
            reason=dirty.reason,
            since_us=to_microseconds(dirty.since),
        )
    return answer


def dead_letters(found: Sequence[DeadLetter]) -> pb.ListDeadLettersResponse:
    """Return dead letters."""
    answer = pb.ListDeadLettersResponse()
    for letter in found:
        answer.letters.add(
            letter_id=letter.letter_id,
            collection=letter.collection,
            key_json=encode_key(letter.key),
            reason=letter.reason,
            job_id=letter.job_id,
            created_at_us=to_microseconds(letter.created_at),
        )
    return answer
