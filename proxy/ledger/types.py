"""What the ledger remembers, as plain data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from proxy.errors import Reason, Rejected
from proxy.model import JsonValue, Key
from proxy.query import KeyRange


class Phase(Enum):
    """Where a migration stands (design: old_only -> ... -> new_only)."""

    OLD_ONLY = "old_only"
    DUAL_WRITE = "dual_write"
    SHADOW = "shadow"
    RAMP = "ramp"
    NEW_PRIMARY = "new_primary"
    NEW_ONLY = "new_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The routing in force; one row a migration, replaced as a whole by each epoch.

    Attributes:
        epoch: number of this routing, from 1.
        primary: "old" or "new".
        percent: 0..100, share of targeting keys whose reads go to the secondary's side "new".
        hold: writes wait (a swap is draining).
    """

    epoch: int
    phase: Phase
    primary: str
    percent: float = 0.0
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One proxy process. Alive while its lease has not run out (by the ledger's clock)."""

    replica_id: str
    acked_epoch: int
    alive: bool
    lease_left_s: float
    started_at: dt.datetime
    address: str = ""
    ledger_down: str = "refuse"
    clean_exit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentDraft:
    """One key that is about to change. `idempotency_key` is the client's, "" for none."""

    collection: str
    key: Key
    op: str
    idempotency_key: str = ""
    request_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A durable intent. `snapshot` is the ledger's view when it was appended (opaque).

    `earlier` is the recorded answer of a write with the same idempotency key, if there is one:
    then nothing was appended and `seq` is 0. `resumed`: that key was seen before, but no answer is
    on record (the first try may have been applied).
    """

    seq: int
    collection: str
    key: Key
    snapshot: str
    replica_id: str
    idempotency_key: str = ""
    earlier: Mapping[str, JsonValue] | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The end of an intent: clean only if both stores did the same.

    `forget`: nothing was applied, so that the next try with its idempotency key is a first one;
    of no effect once the intent was taken over, or another try's answer is on record.
    """

    intent: Intent
    clean: bool
    reason: str = ""
    answer: Mapping[str, JsonValue] | None = None
    forget: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DirtyKey:
    """A key whose two stores may differ."""

    collection: str
    key: Key
    reason: str
    since: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySnapshot:
    """Step 1 of the copy rule: a registered view of the ledger.

    `in_flight` are the keys of the collection with an intent that is visible and unsettled in
    it, and those that another copy may still write. Settled intents are kept until the snapshot
    is finished or abandoned. `claimed` are the keys that only this copy may write now: those that
    it asked for, were dirty, and were nobody else's.
    """

    snapshot_id: int
    collection: str
    in_flight: frozenset[Key]
    claimed: frozenset[Key] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOutcome:
    """Step 5 of the copy rule: keys that became dirty, and how many marks were cleared."""

    dirty: frozenset[Key]
    cleared: int


class JobKind(Enum):
    """What the reconciler can be asked to do."""

    BACKFILL = "backfill"
    VERIFY = "verify"
    REPAIR = "repair"


class JobState(Enum):
    """Where a job stands. PAUSED and CANCELLED are also what a running job is asked to become."""

    REQUESTED = "requested"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job. `wanted` is what the operator asked for; the runner obeys at the next batch.

    `summary` is the job's own result (rows, rate, verify counts), replaced as it goes.
    """

    job_id: int
    kind: JobKind
    state: JobState
    wanted: JobState
    epoch: int
    params: Mapping[str, JsonValue]
    summary: Mapping[str, JsonValue]
    owner: str
    owner_alive: bool
    created_at: dt.datetime
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeState:
    """A persisted key range of a job and how far it got.

    Attributes:
        number: position, from 0, within (job, collection).
        cursor: the last key that is finished; None before the first batch.
        done: the whole range is finished.
        tally: counts the job keeps per range ({"rows": 10, "matched": 10, ...}).
    """

    job_id: int
    collection: str
    number: int
    keys: KeyRange
    cursor: Key | None = None
    done: bool = False
    tally: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One record that verify found different.

    Attributes:
        kind: "mismatched", "missing" (only on the primary) or "extra" (only on the secondary).
        fields: names that differ ("vector" included).
        detail: {field: [primary value, secondary value]}, shortened for a person.
    """

    collection: str
    key: Key
    kind: str
    fields: tuple[str, ...] = ()
    detail: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be converted; it blocks the cutover until resolved."""

    letter_id: int
    collection: str
    key: Key
    reason: str
    job_id: int
    created_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDraft:
    """What the event log is told: what was done, by whom and why (the operator's own words)."""

    kind: str
    actor: str
    reason: str = ""
    detail: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the migration's event log."""

    event_id: int
    at: dt.datetime
    kind: str
    actor: str
    reason: str
    epoch: int
    detail: Mapping[str, JsonValue]


def unverified() -> Rejected:
    """Return why the roles cannot be swapped after writes that the ledger has not seen."""
    return Rejected(
        "Writes went to the primary alone while the ledger was down: what they wrote is not known.",
        reason=Reason.FAILED_PRECONDITION,
        hint="Run `crossfade verify`, repair what it finds, and try again once one was clean.",
    )
