"""Every metric Crossfade exports, as data: name, kind, unit, labels and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """The kind of an instrument."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: OpenTelemetry's; Prometheus shows it with underscores, unit and kind.
        unit: "s", "By" or "" for a plain number.
    """

    name: str
    kind: Kind
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()

    @property
    def prometheus(self) -> str:
        """The name Prometheus shows, without a histogram's _bucket, _sum and _count."""
        base = self.name.replace(".", "_")
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return f"{base}{unit}{'_total' if self.kind is Kind.COUNTER else ''}"

    @property
    def series(self) -> tuple[str, ...]:
        """The names of the time series."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.prometheus}_{part}" for part in ("bucket", "sum", "count"))
        return (self.prometheus,)


RPC_DURATION = MetricSpec(
    name="crossfade.rpc.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    labels=("method", "code"),
    help="Calls answered, by method and gRPC status code (CANCELLED: the client went away).",
)
STORE_DURATION = MetricSpec(
    name="crossfade.store.call.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    labels=("store", "operation", "outcome"),
    help="Calls to a store: ok, rejected, unavailable, ambiguous, corrupt, error or cancelled.",
)
LEDGER_DURATION = MetricSpec(
    name="crossfade.ledger.call.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    labels=("operation", "outcome"),
    help="Calls of the write path and the fence to the ledger.",
)
STORE_POOL = MetricSpec(
    name="crossfade.store.pool",
    kind=Kind.GAUGE,
    labels=("store", "state"),
    help="A store's connections and waiting callers, as its adapter counts them.",
)
EMBEDDER = MetricSpec(
    name="crossfade.embedder",
    kind=Kind.GAUGE,
    labels=("figure",),
    help="The embedder: texts waiting, texts, batches, cache hits, 1 if it is up.",
)
STORE_UP = MetricSpec(
    name="crossfade.store.up",
    kind=Kind.GAUGE,
    labels=("store",),
    help="1 if the store answers this replica.",
)
STORE_PRIMARY = MetricSpec(
    name="crossfade.store.primary",
    kind=Kind.GAUGE,
    labels=("store",),
    help="1 for the store whose answer is the truth, 0 for the other.",
)
BREAKER_OPEN = MetricSpec(
    name="crossfade.breaker.open",
    kind=Kind.GAUGE,
    labels=("store",),
    help="Circuit breaker of a store: 0 closed, 0.5 half open, 1 open.",
)
INTENTS_APPENDED = MetricSpec(
    name="crossfade.intents.appended",
    kind=Kind.COUNTER,
    help="Intents made durable by this replica.",
)
INTENTS_SETTLED = MetricSpec(
    name="crossfade.intents.settled",
    kind=Kind.COUNTER,
    labels=("outcome",),
    help="Intents closed by this replica: clean, or dirty (the key waits for repair).",
)
UNSETTLED = MetricSpec(
    name="crossfade.ledger.unsettled",
    kind=Kind.GAUGE,
    help="Intents of the whole migration that are not settled.",
)
DIRTY = MetricSpec(
    name="crossfade.ledger.dirty",
    kind=Kind.GAUGE,
    labels=("collection",),
    help="Keys whose two stores may differ.",
)
DEAD_LETTERS = MetricSpec(
    name="crossfade.dead_letters",
    kind=Kind.GAUGE,
    help="Records that could not be converted and block the cutover.",
)
WRITES = MetricSpec(
    name="crossfade.writes",
    kind=Kind.COUNTER,
    labels=("collection", "outcome"),
    help="Acknowledged writes: both, pending (the secondary lacks it for now) or replayed.",
)
READS = MetricSpec(
    name="crossfade.reads",
    kind=Kind.COUNTER,
    labels=("collection", "store", "reason"),
    help="Reads by the store that answered and why (routed, fenced, fallback, ...).",
)
SHADOW = MetricSpec(
    name="crossfade.shadow.reads",
    kind=Kind.COUNTER,
    labels=("outcome",),
    help="Shadow reads: observed, and what became of them (compared, dropped, failed, ...).",
)
PHASE = MetricSpec(
    name="crossfade.phase",
    kind=Kind.GAUGE,
    labels=("phase",),
    help="1 for the phase in force, 0 for the others.",
)
EPOCH = MetricSpec(
    name="crossfade.epoch", kind=Kind.GAUGE, help="Number of the routing this replica follows."
)
TRAFFIC = MetricSpec(
    name="crossfade.traffic.percent",
    kind=Kind.GAUGE,
    help="Share of targeting keys whose reads go to the new store, 0 to 100.",
)
HOLD = MetricSpec(
    name="crossfade.writes.held", kind=Kind.GAUGE, help="1 while writes wait for a swap."
)
REPLICAS = MetricSpec(
    name="crossfade.replicas",
    kind=Kind.GAUGE,
    labels=("state",),
    help="Replicas: alive, or behind (alive but on an older epoch).",
)
FLAG_ERRORS = MetricSpec(
    name="crossfade.flag.errors",
    kind=Kind.COUNTER,
    labels=("code",),
    help="Evaluations of the traffic flag that failed; the built-in answer stood in.",
)
JOB_ROWS = MetricSpec(
    name="crossfade.job.rows",
    kind=Kind.GAUGE,
    labels=("kind", "count"),
    help="The latest job of a kind: its counts (rows, rows_total, matched, missing, ...).",
)
JOB_PROGRESS = MetricSpec(
    name="crossfade.job.progress",
    kind=Kind.GAUGE,
    labels=("kind",),
    help="The latest job of a kind: share done, 0 to 1.",
)
JOB_STATE = MetricSpec(
    name="crossfade.job.state",
    kind=Kind.GAUGE,
    labels=("kind", "state"),
    help="1 for the state of the latest job of a kind.",
)
BATCH_ROWS = MetricSpec(
    name="crossfade.batch.rows",
    kind=Kind.COUNTER,
    labels=("kind", "collection"),
    help="Rows that this reconciler has worked through.",
)
BATCH_BYTES = MetricSpec(
    name="crossfade.batch.size",
    kind=Kind.COUNTER,
    unit="By",
    labels=("kind", "collection"),
    help="Bytes that this reconciler has copied.",
)
BATCH_DURATION = MetricSpec(
    name="crossfade.batch.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    labels=("kind", "collection"),
    help="Batches of backfill, verify and repair.",
)
SCRAPE_AGE = MetricSpec(
    name="crossfade.status.age",
    kind=Kind.GAUGE,
    unit="s",
    help="How old the polled gauges are; grows while the ledger cannot be reached.",
)

CATALOGUE: tuple[MetricSpec, ...] = (
    RPC_DURATION,
    STORE_DURATION,
    LEDGER_DURATION,
    STORE_POOL,
    EMBEDDER,
    STORE_UP,
    STORE_PRIMARY,
    BREAKER_OPEN,
    INTENTS_APPENDED,
    INTENTS_SETTLED,
    UNSETTLED,
    DIRTY,
    DEAD_LETTERS,
    WRITES,
    READS,
    SHADOW,
    PHASE,
    EPOCH,
    TRAFFIC,
    HOLD,
    REPLICAS,
    FLAG_ERRORS,
    JOB_ROWS,
    JOB_PROGRESS,
    JOB_STATE,
    BATCH_ROWS,
    BATCH_BYTES,
    BATCH_DURATION,
    SCRAPE_AGE,
)
"""All of the above."""
