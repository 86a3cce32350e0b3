"""The ledger's Protocols, one for each reader of it; PostgreSQL and memory implement them all.

Every call raises Unavailable when the ledger cannot be reached. Keys are logical keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from proxy.ledger.types import (
    CopyOutcome,
    CopySnapshot,
    DeadLetter,
    Difference,
    DirtyKey,
    Event,
    EventDraft,
    Intent,
    IntentDraft,
    Job,
    JobKind,
    JobState,
    RangeState,
    Replica,
    Routing,
    Settlement,
)
from proxy.model import JsonValue, Key


class IntentLog(Protocol):
    """What the write path and the fence need."""

    async def append(
        self, drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        """Make intents durable, all or none, one result a draft.

        Raises:
            StaleEpoch: the routing in force is not `epoch`, or writes are held.
            LeaseLost: the replica's lease has run out by the ledger's clock.
            Rejected(FAILED_PRECONDITION): an idempotency key was used for another request.
            Unavailable: the first try with the same idempotency key has not ended yet.
        """

    async def recall(self, idempotency_key: str) -> Key | None:
        """Return the key that the first try with this idempotency key resolved to."""

    async def answered(
        self, idempotency_key: str, request_digest: str
    ) -> Mapping[str, JsonValue] | None:
        """Return the recorded answer of an idempotency key, None if there is none.

        Raises:
            Rejected(FAILED_PRECONDITION): it was used for another request.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Close intents. Not clean, overlapped (rule W5) or taken over: the key is dirty."""

    async def fenced(self, collection: str, keys: Collection[Key]) -> frozenset[Key]:
        """Return those of the keys that are dirty or have an unsettled intent, right now."""

    async def mark_dirty(self, collection: str, keys: Collection[Key], *, reason: str) -> None:
        """Mark keys dirty, durably."""

    async def unsettled(self, collection: str | None = None) -> int:
        """Count intents that are not settled."""

    async def dirty_counts(self) -> dict[str, int]:
        """Count dirty keys by collection."""

    async def sweep(self) -> int:
        """Take over unsettled intents of dead replicas (keys become dirty); return how many."""

    async def prune(self) -> int:
        """Forget settled intents that nobody can need any more. Return how many."""


class CopyLog(Protocol):
    """What a copier needs: steps 0, 1, 2 and 5 of the copy rule."""

    async def begin_copy(
        self, collection: str, *, copying: bool = True, keys: Collection[Key] = ()
    ) -> CopySnapshot:
        """Step 1: register a snapshot of the ledger. It is good for 60 s.

        `keys`, to be repaired, are claimed for 25 s, or until the copy ends: two copies of one key
        at a time could leave the older state, with the mark cleared by the other one. A key that
        is not dirty (step 0) is not claimed.

        A swap of the primary waits until no copying snapshot is open; a reader's watermark
        (verify) says `copying=False` and holds nobody up. Read the routing after this call: with
        a copying snapshot open the roles cannot change.
        """

    async def finish_copy(
        self,
        snapshot: CopySnapshot,
        *,
        touched: Collection[Key],
        left_out: Collection[Key] = (),
        progress: RangeState | None = None,
    ) -> CopyOutcome:
        """Step 5, in one transaction with the range's checkpoint.

        A touched key with any intent not visible in the snapshot becomes dirty; dirty marks that
        the snapshot saw are cleared for the other touched keys; keys left out become dirty.

        Raises:
            Unavailable: the snapshot had expired; every touched key is dirty, copy again.
        """

    async def abandon_copy(
        self, snapshot: CopySnapshot, *, written: Collection[Key] = (), late_s: float = 0.0
    ) -> None:
        """Forget a snapshot; nothing is cleared.

        `written`, which the copy may have changed, become dirty, and are claimed for `late_s`
        more: what was sent without an answer may still land.
        """

    async def dirty_keys(self, collection: str, *, limit: int) -> list[DirtyKey]:
        """Return dirty keys, oldest mark first."""

    async def settled_since(self, snapshot: CopySnapshot, keys: Collection[Key]) -> frozenset[Key]:
        """Return the keys with an intent unsettled now, or not visible in the snapshot.

        All of them once the snapshot has expired, or was finished or abandoned: nobody knows.
        """

    async def mark_dirty(self, collection: str, keys: Collection[Key], *, reason: str) -> None:
        """Mark keys dirty, durably (step 0)."""

    async def dirty_counts(self) -> dict[str, int]:
        """Count dirty keys by collection."""

    async def add_dead_letters(
        self, job_id: int, collection: str, letters: Mapping[Key, str]
    ) -> None:
        """Record records that cannot be converted, with reasons; one open letter a key."""

    async def dead_letters(self, *, limit: int = 1000) -> list[DeadLetter]:
        """Return unresolved dead letters."""

    async def resolve_dead_letters(
        self, collection: str, keys: Collection[Key], *, resolution: str
    ) -> int:
        """Close dead letters of these keys. Return how many."""


class JobLog(Protocol):
    """What the reconciler's jobs need. One owner a job, by lease; a dead owner's job is free."""

    async def create_job(
        self, kind: JobKind, params: Mapping[str, JsonValue], *, ranges: Sequence[RangeState] = ()
    ) -> Job:
        """Create a job in state REQUESTED (params may name collections, throttles, dry_run)."""

    async def add_ranges(self, job_id: int, ranges: Sequence[RangeState]) -> None:
        """Persist a job's ranges, once, all or none (`job_id` in them is ignored)."""

    async def claim_job(self, job_id: int, *, owner: str, lease_s: float) -> Job:
        """Take a job and set it RUNNING.

        Raises:
            Rejected(FAILED_PRECONDITION): another live owner has it, or it has ended.
        """

    async def renew_job(
        self, job_id: int, *, owner: str, lease_s: float, summary: Mapping[str, JsonValue]
    ) -> Job:
        """Keep the lease, store progress, and return the job (look at `wanted`).

        Raises:
            LeaseLost: the job belongs to another owner now.
        """

    async def end_job(
        self,
        job_id: int,
        *,
        owner: str,
        state: JobState,
        summary: Mapping[str, JsonValue],
        error: str = "",
    ) -> Job:
        """Finish or pause a job and give up its lease."""

    async def want(self, job_id: int, wanted: JobState) -> Job:
        """Ask a job to run (REQUESTED or resumed), pause or be cancelled."""

    async def job(self, job_id: int) -> Job:
        """Return a job. Raises Rejected(NOT_FOUND)."""

    async def jobs(self, *, kind: JobKind | None = None, limit: int = 20) -> list[Job]:
        """Return jobs, newest first."""

    async def ranges(self, job_id: int) -> list[RangeState]:
        """Return a job's ranges in order of (collection, number); empty before add_ranges."""

    async def save_range(self, progress: RangeState) -> None:
        """Store a range's checkpoint on its own (verify; the copy uses finish_copy)."""

    async def add_differences(self, job_id: int, differences: Sequence[Difference]) -> None:
        """Store differences; a second one for the same key replaces the first."""

    async def differences(self, job_id: int, *, limit: int = 1000) -> list[Difference]:
        """Return a job's differences in order of (collection, key)."""


class RoutingLog(Protocol):
    """What the routing needs: the epoch in force, replicas with leases, and the event log."""

    async def routing(self) -> Routing:
        """Return the routing in force."""

    async def change_routing(
        self,
        expected_epoch: int,
        routing: Routing,
        event: EventDraft,
        *,
        drained: bool = False,
        note: str = "",
    ) -> Routing:
        """Put a new routing in force (its epoch becomes expected_epoch + 1) and log it.

        With `note`, the flag of that name becomes {"epoch": the new epoch} in the same transaction.

        No intent of the old epoch can be appended afterwards.

        Raises:
            StaleEpoch: somebody changed it first.
            Rejected(FAILED_PRECONDITION): with `drained`, something is unsettled, dirty or being
                copied, or the flag "full_verify_needed" is set.
        """

    async def register_replica(
        self, replica_id: str, *, address: str, lease_s: float, ledger_down: str
    ) -> Routing:
        """Announce a replica (its id is new for every process start) and return the routing."""

    async def renew_replica(self, replica_id: str, *, acked_epoch: int, lease_s: float) -> Routing:
        """Renew the lease, acknowledge an epoch, and return the routing in force.

        Raises:
            LeaseLost: the lease had run out, so others may have gone on without this replica;
                register anew.
        """

    async def release_replica(self, replica_id: str) -> None:
        """A clean exit, or a former identity given up: nothing of this replica is in flight."""

    async def replicas(self) -> list[Replica]:
        """Return replicas alive, or dead within the last day."""

    async def wait_change(self, epoch: int, *, timeout_s: float) -> None:
        """Return when the routing may have changed from `epoch`, or after the timeout."""

    async def set_flag(
        self,
        name: str,
        value: JsonValue,
        *,
        actor: str,
        reason: str,
        only_if: JsonValue = None,
    ) -> None:
        """Store a durable fact ("full_verify_needed": {"at": ...}) and log it.

        Args:
            only_if: do nothing unless this is the value until now; None: whatever it is.
        """

    async def flags(self) -> dict[str, JsonValue]:
        """Return the durable facts."""

    async def log_event(self, event: EventDraft) -> None:
        """Append to the event log."""

    async def events(self, *, limit: int = 100, after: int = 0) -> list[Event]:
        """Return events with a greater id than `after`, oldest first."""

    async def put_shadow(
        self, replica_id: str, window: str, stats: Mapping[str, JsonValue]
    ) -> None:
        """Store a replica's shadow statistics of a window (replaces the same window)."""

    async def shadow(self, *, since_epoch: int = 0) -> list[Mapping[str, JsonValue]]:
        """Return the stored shadow statistics of every replica and window."""


class Ledger(IntentLog, CopyLog, JobLog, RoutingLog, Protocol):
    """All of it."""

    async def open(self) -> None:
        """Connect, create or check the schema.

        Raises:
            Unavailable: no answer.
            Corrupt: the schema has another version; the message says which and what to do.
        """

    async def close(self) -> None:
        """Release every connection; safe to call twice."""
