"""The state of the in-memory ledger; a transaction is a stretch without await."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field

from proxy.clock import Clock
from proxy.ledger.types import (
    DeadLetter,
    Difference,
    Event,
    Job,
    Phase,
    RangeState,
    Routing,
)
from proxy.model import JsonValue, Key

DirtyId = tuple[str, Key]


@dataclass(slots=True)
class StoredIntent:
    """An intent as the ledger keeps it. `xid` and `settled_xid` are commit numbers."""

    seq: int
    collection: str
    key: Key
    replica_id: str
    idem: str
    xid: int
    snapshot: int
    settled_xid: int | None = None


@dataclass(slots=True)
class StoredMark:
    """A dirty mark; only a copier that saw `xid` may clear it."""

    xid: int
    reason: str
    since: dt.datetime


@dataclass(slots=True)
class StoredReplica:
    """A replica and its lease, in the clock's monotonic seconds."""

    replica_id: str
    address: str
    ledger_down: str
    started_at: dt.datetime
    lease_until_s: float
    acked_epoch: int = 0
    swept: bool = False
    clean_exit: bool = False


@dataclass(slots=True)
class StoredSnapshot:
    """A registered copy snapshot: every commit up to `xid` is visible in it."""

    collection: str
    copying: bool
    xid: int
    expires_s: float


@dataclass(frozen=True, slots=True)
class StoredClaim:
    """A key that only one copy may write for the time being."""

    snapshot_id: int
    expires_s: float


@dataclass(slots=True)
class StoredAnswer:
    """What is known of an idempotency key."""

    digest: str
    key: Key
    answer: dict[str, JsonValue] | None = None


@dataclass(slots=True)
class MemoryState:
    """Everything, and the commit counter that orders it."""

    clock: Clock
    xid: int = 0
    numbers: int = 0
    routing: Routing = field(
        default_factory=lambda: Routing(epoch=1, phase=Phase.OLD_ONLY, primary="old")
    )
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    intents: dict[int, StoredIntent] = field(default_factory=dict)
    dirty: dict[DirtyId, StoredMark] = field(default_factory=dict)
    answers: dict[str, StoredAnswer] = field(default_factory=dict)
    snapshots: dict[int, StoredSnapshot] = field(default_factory=dict)
    claims: dict[DirtyId, StoredClaim] = field(default_factory=dict)
    replicas: dict[str, StoredReplica] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    job_leases: dict[int, float] = field(default_factory=dict)
    ranges: dict[int, dict[tuple[str, int], RangeState]] = field(default_factory=dict)
    differences: dict[int, dict[DirtyId, Difference]] = field(default_factory=dict)
    letters: dict[DirtyId, DeadLetter] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    flags: dict[str, JsonValue] = field(default_factory=dict)
    shadow: dict[tuple[str, str], tuple[int, dict[str, JsonValue]]] = field(default_factory=dict)

    def commit(self) -> int:
        """Return the number of the transaction that is being written."""
        self.xid += 1
        return self.xid

    def number(self) -> int:
        """Return a fresh number for a row."""
        self.numbers += 1
        return self.numbers

    def mark(self, collection: str, key: Key, reason: str, xid: int) -> None:
        """Set or renew a dirty mark."""
        known = self.dirty.get((collection, key))
        since = known.since if known else self.clock.now()
        self.dirty[collection, key] = StoredMark(xid=xid, reason=reason, since=since)

    def alive(self, replica: StoredReplica) -> bool:
        """True while the replica's lease runs."""
        return not replica.swept and replica.lease_until_s > self.clock.monotonic_s()
