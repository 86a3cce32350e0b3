"""Times of requests as clients saw them, and the percentiles and stalls drawn from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WRITES = frozenset({"insert", "upsert", "update", "delete", "batch", "delete_where"})
SEARCHES = frozenset({"search", "search_all", "search_text", "search_hybrid", "search_keyword"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request: what it was, when (seconds of the machine's monotonic clock), how it ended."""

    kind: str
    start_s: float
    end_s: float
    ok: bool = True

    @property
    def latency_ms(self) -> float:
        return (self.end_s - self.start_s) * 1000.0

    @property
    def write(self) -> bool:
        return self.kind in WRITES

    @property
    def search(self) -> bool:
        return self.kind in SEARCHES


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value at `share` (0..1) by the nearest rank, 0.0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def longest_ms(samples: Iterable[Sample], start_s: float, end_s: float) -> float:
    """Return the longest latency of the samples that were under way within the window."""
    during = (item for item in samples if item.end_s >= start_s and item.start_s <= end_s)
    return max((item.latency_ms for item in during), default=0.0)
