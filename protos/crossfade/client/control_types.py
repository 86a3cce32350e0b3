"""The state of a migration as an operator's tool gets it, as plain data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from crossfade.client.types import Key


class Phase(Enum):
    """Where a migration stands."""

    OLD_ONLY = "old_only"
    DUAL_WRITE = "dual_write"
    SHADOW = "shadow"
    RAMP = "ramp"
    NEW_PRIMARY = "new_primary"
    NEW_ONLY = "new_only"


class JobKind(Enum):
    """What the reconciler can be asked to do."""

    BACKFILL = "backfill"
    VERIFY = "verify"
    REPAIR = "repair"


class JobState(Enum):
    """Where a job stands."""

    REQUESTED = "requested"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True if the job will not change any more."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class JobAction(Enum):
    """What an operator can do to a job."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The routing in force. `traffic_percent`: share of reads that go to the new store."""

    epoch: int
    phase: Phase
    primary: str
    traffic_percent: float
    hold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHealth:
    """One store as the answering replica sees it."""

    name: str
    role: str
    engine: str
    healthy: bool
    breaker: str
    detail: str
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One proxy process."""

    replica_id: str
    acked_epoch: int
    alive: bool
    lease_left_s: float
    started_at: dt.datetime
    address: str
    ledger_down: str
    clean_exit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """A nearest-neighbour index on the new store."""

    collection: str
    name: str
    exists: bool
    ready: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A backfill, verify or repair; `params` and `summary` are JSON objects."""

    job_id: int
    kind: JobKind
    state: JobState
    wanted: JobState
    epoch: int
    params: Mapping[str, Any]
    summary: Mapping[str, Any]
    owner: str
    owner_alive: bool
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything an operator looks at first. `dirty` counts keys by collection."""

    migration: str
    routing: Routing
    stores: Sequence[StoreHealth]
    replicas: Sequence[Replica]
    unsettled: int
    dirty: Mapping[str, int]
    jobs: Sequence[Job]
    indexes: Sequence[IndexState]
    dead_letters: int
    flags: Mapping[str, Any]
    next_steps: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """One condition of a step, checked."""

    name: str
    passed: bool
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The outcome of a phase or traffic command; `stall_ms`: how long a swap held writes."""

    applied: bool
    routing: Routing
    preconditions: Sequence[Precondition]
    message: str
    stall_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the event log."""

    event_id: int
    at: dt.datetime
    kind: str
    actor: str
    reason: str
    epoch: int
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DirtyKey:
    """A key whose two stores may differ."""

    collection: str
    key: Key
    reason: str
    since: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be converted."""

    letter_id: int
    collection: str
    key: Key
    reason: str
    job_id: int
    created_at: dt.datetime
