"""The control plane's operations as one Protocol: status, phases, traffic, jobs, reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
from proxy.model import JsonValue
from proxy.stores.base import IndexState


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHealth:
    """One store as this replica sees it. `breaker` is "closed", "open" or "half_open"."""

    name: str
    role: str
    engine: str
    healthy: bool
    breaker: str
    detail: str = ""
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """One condition of a phase step, checked. `remedy` says what to do when it fails."""

    name: str
    passed: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The outcome of a phase or traffic command.

    `applied` is False for a dry run and for a step that was refused (see `preconditions` and
    `message`). `stall_ms` is how long writes were held by a swap, 0 otherwise.
    """

    applied: bool
    routing: Routing
    preconditions: Sequence[Precondition]
    message: str
    stall_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything an operator looks at first."""

    migration: str
    routing: Routing
    stores: Sequence[StoreHealth]
    replicas: Sequence[Replica]
    unsettled: int
    dirty: Mapping[str, int]
    jobs: Sequence[Job]
    indexes: Sequence[IndexState]
    dead_letters: int
    flags: Mapping[str, JsonValue]
    next_steps: Sequence[str] = field(default_factory=tuple)


class ControlPlane(Protocol):
    """What the control front calls. Errors are those of `proxy.errors`."""

    async def status(self) -> Status:
        """Return the whole state."""

    async def change_phase(
        self, target: Phase, *, dry_run: bool, force: bool, actor: str, reason: str
    ) -> Change:
        """Move one step, forward or back, if its preconditions hold (or with `force`)."""

    async def set_traffic(
        self, percent: float, *, dry_run: bool, force: bool, actor: str, reason: str
    ) -> Change:
        """Set the share of reads that go to the new store, 0..100 (phase ramp)."""

    async def start_job(self, kind: JobKind, params: Mapping[str, JsonValue], *, actor: str) -> Job:
        """Ask the reconciler for a job (a runner picks it up)."""

    async def want_job(self, job_id: int, wanted: JobState, *, actor: str) -> Job:
        """Pause, resume (REQUESTED) or cancel a job."""

    async def job(self, job_id: int) -> Job:
        """Return a job with its progress."""

    async def jobs(self) -> list[Job]:
        """Return jobs, newest first."""

    async def dirty_keys(self, collection: str, *, limit: int) -> list[DirtyKey]:
        """Return a sample of dirty keys."""

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Return unresolved dead letters."""

    async def shadow_report(self) -> Mapping[str, JsonValue]:
        """Return the merged shadow-read report as JSON."""

    async def events(self, *, limit: int, after: int) -> list[Event]:
        """Return the event log."""
