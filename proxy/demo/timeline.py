"""When each phase and each swap of a run was, and what clients felt meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.demo.samples import Sample, longest_ms, percentile
from proxy.model import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A phase as the clients lived it, from its start to its end (monotonic seconds)."""

    phase: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """A swap of the primary.

    Attributes:
        to: the primary afterwards.
        start_s: when writes began to be held; end_s: when every replica had the new roles.
        hold_ms: how long the proxy says it held writes.
    """

    to: str
    start_s: float
    end_s: float
    hold_ms: float


@dataclass(slots=True)
class Timeline:
    """The phases of one run, in order; exactly one is open at any time after `enter`."""

    started_s: float = field(default_factory=time.monotonic)
    spans: list[Span] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    _open: tuple[str, float] | None = None

    def enter(self, phase: str) -> None:
        """Close the open phase and open another."""
        now_s = time.monotonic()
        self.close(now_s)
        self._open = (phase, now_s)

    def close(self, now_s: float | None = None) -> None:
        """Close the open phase, if there is one."""
        if self._open is not None:
            phase, start_s = self._open
            end_s = time.monotonic() if now_s is None else now_s
            self.spans.append(Span(phase=phase, start_s=start_s, end_s=end_s))
            self._open = None


def phase_report(span: Span, samples: Sequence[Sample], started_s: float) -> dict[str, JsonValue]:
    """Return what the clients did and felt in one phase; latencies in milliseconds."""
    during = [item for item in samples if span.start_s <= item.start_s < span.end_s]
    searches = [item.latency_ms for item in during if item.search and item.ok]
    over_all = [item.latency_ms for item in during if item.kind == "search_all" and item.ok]
    writes = [item.latency_ms for item in during if item.write and item.ok]
    return {
        "phase": span.phase,
        "started_s": round(span.start_s - started_s, 3),
        "duration_s": round(span.end_s - span.start_s, 3),
        "searches": len(searches),
        "search_p50_ms": round(percentile(searches, 0.50), 3),
        "search_p95_ms": round(percentile(searches, 0.95), 3),
        "searches_all": len(over_all),
        "search_all_p50_ms": round(percentile(over_all, 0.50), 3),
        "writes": len(writes),
        "write_p50_ms": round(percentile(writes, 0.50), 3),
        "write_p95_ms": round(percentile(writes, 0.95), 3),
        "reads": sum(not item.write and not item.search for item in during),
        "failed": sum(not item.ok for item in during),
    }


def swap_report(swap: Swap, samples: Sequence[Sample], started_s: float) -> dict[str, JsonValue]:
    """Return the longest time a client waited for a write that was under way at the swap."""
    writes = [item for item in samples if item.write]
    return {
        "to": swap.to,
        "at_s": round(swap.start_s - started_s, 3),
        "stall_ms": round(longest_ms(writes, swap.start_s, swap.end_s), 3),
        "hold_ms": round(swap.hold_ms, 3),
    }
