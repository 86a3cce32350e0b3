"""Control-plane messages to plain data; a mapping each, with nothing to decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from crossfade.client import control_types as types
from crossfade.client.values import from_microseconds
from crossfade.control.v1 import control_pb2 as pb

PHASES: Final[Mapping[types.Phase, pb.Phase.ValueType]] = {
    phase: pb.Phase.Value(f"PHASE_{phase.name}") for phase in types.Phase
}
JOB_KINDS: Final[Mapping[types.JobKind, pb.JobKind.ValueType]] = {
    kind: pb.JobKind.Value(f"JOB_KIND_{kind.name}") for kind in types.JobKind
}
JOB_ACTIONS: Final[Mapping[types.JobAction, pb.JobAction.ValueType]] = {
    action: pb.JobAction.Value(f"JOB_ACTION_{action.name}") for action in types.JobAction
}
_PHASES: Final = {number: phase for phase, number in PHASES.items()}
_JOB_KINDS: Final = {number: kind for kind, number in JOB_KINDS.items()}
_JOB_STATES: Final = {pb.JobState.Value(f"JOB_STATE_{one.name}"): one for one in types.JobState}


def routing(message: pb.Routing) -> types.Routing:
    """Return a routing."""
    return types.Routing(
        epoch=message.epoch,
        phase=_PHASES[message.phase],
        primary=message.primary,
        traffic_percent=message.traffic_percent,
        hold=message.hold,
    )


def job(message: pb.Job) -> types.Job:
    """Return a job."""
    started = message.started_at_us if message.HasField("started_at_us") else None
    finished = message.finished_at_us if message.HasField("finished_at_us") else None
    return types.Job(
        job_id=message.job_id,
        kind=_JOB_KINDS[message.kind],
        state=_JOB_STATES[message.state],
        wanted=_JOB_STATES[message.wanted],
        epoch=message.epoch,
        params=json.loads(message.params_json),
        summary=json.loads(message.summary_json),
        owner=message.owner,
        owner_alive=message.owner_alive,
        created_at=from_microseconds(message.created_at_us),
        started_at=None if started is None else from_microseconds(started),
        finished_at=None if finished is None else from_microseconds(finished),
        error=message.error,
    )


def status(message: pb.GetStatusResponse) -> types.Status:
    """Return the whole state."""
    return types.Status(
        migration=message.migration,
        routing=routing(message.routing),
        stores=[_store(one) for one in message.stores],
        replicas=[_replica(one) for one in message.replicas],
        unsettled=message.unsettled_count,
        dirty=dict(message.dirty_counts),
        jobs=[job(one) for one in message.jobs],
        indexes=[_index(one) for one in message.indexes],
        dead_letters=message.dead_letter_count,
        flags=json.loads(message.flags_json),
        next_steps=list(message.next_steps),
    )


def _store(message: pb.StoreHealth) -> types.StoreHealth:
    return types.StoreHealth(
        name=message.name,
        role=message.role,
        engine=message.engine,
        healthy=message.healthy,
        breaker=message.breaker,
        detail=message.detail,
        latency_ms=message.latency_ms,
    )


def _replica(message: pb.Replica) -> types.Replica:
    return types.Replica(
        replica_id=message.replica_id,
        acked_epoch=message.acked_epoch,
        alive=message.alive,
        lease_left_s=message.lease_left_s,
        started_at=from_microseconds(message.started_at_us),
        address=message.address,
        ledger_down=message.ledger_down,
        clean_exit=message.clean_exit,
    )


def _index(message: pb.IndexState) -> types.IndexState:
    return types.IndexState(
        collection=message.collection,
        name=message.name,
        exists=message.exists,
        ready=message.ready,
        detail=message.detail,
    )


def change(message: pb.ChangeResponse) -> types.Change:
    """Return the outcome of a phase or traffic command."""
    return types.Change(
        applied=message.applied,
        routing=routing(message.routing),
        preconditions=[
            types.Precondition(
                name=one.name, passed=one.passed, detail=one.detail, remedy=one.remedy
            )
            for one in message.preconditions
        ],
        message=message.message,
        stall_ms=message.stall_ms,
    )


def event(message: pb.Event) -> types.Event:
    """Return an event."""
    return types.Event(
        event_id=message.event_id,
        at=from_microseconds(message.at_us),
        kind=message.kind,
        actor=message.actor,
        reason=message.reason,
        epoch=message.epoch,
        detail=json.loads(message.detail_json),
    )


def dirty_key(message: pb.DirtyKey) -> types.DirtyKey:
    """Return a dirty key."""
    return types.DirtyKey(
        collection=message.collection,
        key=tuple(json.loads(message.key_json)),
        reason=message.reason,
        since=from_microseconds(message.since_us),
    )


def dead_letter(message: pb.DeadLetter) -> types.DeadLetter:
    """Return a dead letter."""
    return types.DeadLetter(
        letter_id=message.letter_id,
        collection=message.collection,
        key=tuple(json.loads(message.key_json)),
        reason=message.reason,
        job_id=message.job_id,
        created_at=from_microseconds(message.created_at_us),
    )
