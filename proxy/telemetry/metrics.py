"""The instruments of the catalogue, and one method for each thing that can be reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from proxy.ledger.types import Phase, Routing
from proxy.telemetry import catalogue
from proxy.telemetry.catalogue import CATALOGUE, Kind, MetricSpec
from proxy.telemetry.later import Later

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter, Observation
    from opentelemetry.metrics import _Gauge as Gauge

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bucket bounds: an indexed search takes about a millisecond, a deadline is about ten seconds."""
_BREAKER = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class Metrics:
    """Where every part reports. Cheap, thread-safe, never raises, keeps nothing unbounded."""

    def __init__(self, meter: Meter, *, now: Callable[[], float] = time.monotonic) -> None:
        """Create the instruments.

        Args:
            now: a monotonic clock, for the age of the polled gauges.
        """
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._now = now
        self._later = Later()
        self._polled_at = now()
        self._collections: set[str] = set()
        for spec in CATALOGUE:
            self._create(meter, spec)

    def _create(self, meter: Meter, spec: MetricSpec) -> None:
        if spec is catalogue.SCRAPE_AGE:
            meter.create_observable_gauge(spec.name, [self._age], spec.unit, spec.help)
        elif spec.kind is Kind.COUNTER:
            self._counters[spec.name] = meter.create_counter(spec.name, spec.unit, spec.help)
        elif spec.kind is Kind.GAUGE:
            self._gauges[spec.name] = meter.create_gauge(spec.name, spec.unit, spec.help)
        else:
            self._histograms[spec.name] = meter.create_histogram(
                spec.name, spec.unit, spec.help, explicit_bucket_boundaries_advisory=SECONDS
            )

    def _age(self, _options: object) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        self._later.flush()  # asked for at every collection, before the others are read
        return [Observation(self._now() - self._polled_at)]

    def _count(self, spec: MetricSpec, amount: int, labels: Mapping[str, str]) -> None:
        self._later.put(self._counters[spec.name].add, amount, labels)

    def _set(self, spec: MetricSpec, value: float, labels: Mapping[str, str]) -> None:
        self._gauges[spec.name].set(value, labels)

    def _time(self, spec: MetricSpec, seconds: float, labels: Mapping[str, str]) -> None:
        self._later.put(self._histograms[spec.name].record, seconds, labels)

    # Calls.

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """A call was answered; `method` is the last part of its path."""
        self._time(catalogue.RPC_DURATION, seconds, {"method": method, "code": code})

    def store_call(self, store: str, operation: str, outcome: str, seconds: float) -> None:
        """A store answered, or failed."""
        labels = {"store": store, "operation": operation, "outcome": outcome}
        self._time(catalogue.STORE_DURATION, seconds, labels)

    def ledger_call(self, operation: str, outcome: str, seconds: float) -> None:
        """The ledger answered, or failed."""
        self._time(catalogue.LEDGER_DURATION, seconds, {"operation": operation, "outcome": outcome})

    # Events.

    def appended(self, intents: int) -> None:
        """Intents are durable."""
        self._count(catalogue.INTENTS_APPENDED, intents, {})

    def settled(self, *, clean: int, dirty: int) -> None:
        """Intents are closed."""
        if clean:
            self._count(catalogue.INTENTS_SETTLED, clean, {"outcome": "clean"})
        if dirty:
            self._count(catalogue.INTENTS_SETTLED, dirty, {"outcome": "dirty"})

    def write(self, collection: str, outcome: str, amount: int = 1) -> None:
        """Writes were acknowledged: "both", "pending" or "replayed"."""
        self._count(catalogue.WRITES, amount, {"collection": collection, "outcome": outcome})

    def read(self, collection: str, store: str, reason: str) -> None:
        """A read was answered."""
        labels = {"collection": collection, "store": store, "reason": reason}
        self._count(catalogue.READS, 1, labels)

    def shadow(self, outcome: str, amount: int = 1) -> None:
        """Shadow reads came to an end."""
        self._count(catalogue.SHADOW, amount, {"outcome": outcome})

    def flag_error(self, code: str) -> None:
        """The traffic flag could not be evaluated."""
        self._count(catalogue.FLAG_ERRORS, 1, {"code": code})

    def batch(self, kind: str, collection: str, *, rows: int, size: int, seconds: float) -> None:
        """A batch of a job is finished; `size` in bytes."""
        labels = {"kind": kind, "collection": collection}
        self._count(catalogue.BATCH_ROWS, rows, labels)
        self._count(catalogue.BATCH_BYTES, size, labels)
        self._time(catalogue.BATCH_DURATION, seconds, labels)

    # States.

    def routing(self, routing: Routing) -> None:
        """The routing this replica follows."""
        for phase in Phase:
            self._set(catalogue.PHASE, float(phase is routing.phase), {"phase": phase.value})
        self._set(catalogue.EPOCH, routing.epoch, {})
        self._set(catalogue.TRAFFIC, routing.percent, {})
        self._set(catalogue.HOLD, float(routing.hold), {})

    def ledger(self, *, unsettled: int, dirty: Mapping[str, int], dead_letters: int) -> None:
        """What waits in the ledger. A collection that is not named any more is at zero."""
        self._set(catalogue.UNSETTLED, unsettled, {})
        self._set(catalogue.DEAD_LETTERS, dead_letters, {})
        self._collections.update(dirty)
        for name in self._collections:
            self._set(catalogue.DIRTY, dirty.get(name, 0), {"collection": name})
        self._polled_at = self._now()

    def store(self, name: str, role: str, *, healthy: bool, breaker: str) -> None:
        """A store's health and role."""
        labels = {"store": name}
        self._set(catalogue.STORE_UP, float(healthy), labels)
        self._set(catalogue.STORE_PRIMARY, float(role == "primary"), labels)
        self._set(catalogue.BREAKER_OPEN, _BREAKER.get(breaker, 1.0), labels)

    def pool(self, store: str, stats: Mapping[str, float]) -> None:
        """The gauges of a store's adapter."""
        for state, value in stats.items():
            self._set(catalogue.STORE_POOL, value, {"store": store, "state": state})

    def embedder(self, stats: Mapping[str, float]) -> None:
        """The figures of the embedder."""
        for figure, value in stats.items():
            self._set(catalogue.EMBEDDER, value, {"figure": figure})

    def replicas(self, *, alive: int, behind: int) -> None:
        """How many replicas there are."""
        self._set(catalogue.REPLICAS, alive, {"state": "alive"})
        self._set(catalogue.REPLICAS, behind, {"state": "behind"})

    def job(self, kind: str, state: str, counts: Mapping[str, float]) -> None:
        """The latest job of a kind; `counts` holds "rows" and "rows_total" among others."""
        from proxy.ledger.types import JobState

        for item in JobState:
            labels = {"kind": kind, "state": item.value}
            self._set(catalogue.JOB_STATE, float(item.value == state), labels)
        for name, value in counts.items():
            self._set(catalogue.JOB_ROWS, value, {"kind": kind, "count": name})
        total = counts.get("rows_total", 0.0)
        share = min(1.0, counts.get("rows", 0.0) / total) if total > 0 else 0.0
        self._set(catalogue.JOB_PROGRESS, 1.0 if state == "done" else share, {"kind": kind})
