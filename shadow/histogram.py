"""Mergeable histograms: latencies in logarithmic buckets, and shares of 0..1 in 20 steps.

Counts and sums are integers, so that merging is exact in any order and grouping.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from proxy.model import JsonValue
from shadow.fields import counts, integer, integers

K = TypeVar("K")

GROWTH = 1.02
"""Ratio of two neighbouring latency buckets: a percentile is off by at most 1 %."""

_LOWEST_MS = 0.001
_BUCKETS = math.ceil(math.log(600_000 / _LOWEST_MS) / math.log(GROWTH))
_MICRO = 1_000_000
_APART = 1.645 / math.sqrt(2)  # one-sided 95 %, shared by two intervals
SHARE_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Latencies of 0.001 ms to 10 minutes; the histogram has at most about 1,020 buckets.

    Attributes:
        buckets: count by bucket; bucket i holds 0.001 * 1.02**i to 0.001 * 1.02**(i+1) ms.
        total_us: sum, in whole microseconds.
    """

    buckets: Mapping[int, int] = field(default_factory=dict)
    total_us: int = 0

    @classmethod
    def of(cls, latency_ms: float) -> Latencies:
        """Return the histogram of one latency."""
        index = math.floor(math.log(max(latency_ms, _LOWEST_MS) / _LOWEST_MS) / math.log(GROWTH))
        return cls(
            buckets={min(index, _BUCKETS - 1): 1}, total_us=round(max(latency_ms, 0.0) * 1000)
        )

    def __add__(self, other: Latencies) -> Latencies:
        return Latencies(
            buckets=add_counts(self.buckets, other.buckets),
            total_us=self.total_us + other.total_us,
        )

    @property
    def count(self) -> int:
        """How many latencies there are."""
        return sum(self.buckets.values())

    @property
    def mean_ms(self) -> float | None:
        """The mean, None of nothing."""
        return self.total_us / 1000 / self.count if self.buckets else None

    def percentile_ms(self, percent: float) -> float | None:
        """Return the nearest-rank percentile (the middle of its bucket), None of nothing."""
        return self._at_rank(math.ceil(self.count * percent / 100))

    def bounds_ms(self, percent: float) -> tuple[float, float] | None:
        """Return a confidence interval of a percentile, None of nothing.

        The ranks of a percentile are binomial (B. Arnold and others: A First Course in Order
        Statistics, section 7.2), here by the normal approximation. The interval is narrow on
        purpose: when those of two samples do not meet, they differ at 95 % confidence.
        """
        share, count = percent / 100, self.count
        spread = _APART * math.sqrt(count * share * (1 - share))
        low = self._at_rank(math.floor(count * share - spread))
        high = self._at_rank(math.ceil(count * share + spread) + 1)
        return None if low is None or high is None else (low, high)

    def _at_rank(self, rank: int) -> float | None:
        """Return the latency at a rank, counted from 1; ranks outside are the nearest inside."""
        wanted, seen = min(max(1, rank), self.count), 0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if seen >= wanted:
                return bucket_ms(index + 0.5)
        return None

    def to_json(self) -> dict[str, JsonValue]:
        """Return JSON that `from_json` reads."""
        return {
            "buckets": {str(index): self.buckets[index] for index in sorted(self.buckets)},
            "total_us": self.total_us,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> Latencies:
        """Read what `to_json` wrote. Raises Corrupt."""
        return cls(
            buckets={int(index): count for index, count in counts(data, "buckets").items()},
            total_us=integer(data, "total_us"),
        )


def bucket_ms(index: float) -> float:
    """Return the lower edge of a latency bucket; index + 0.5 is its (geometric) middle."""
    return float(_LOWEST_MS * GROWTH**index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Values of 0..1 (or, shifted, of -1..1) in 20 equal steps, and exactly the maximum apart.

    Attributes:
        bins: 21 counts; the last one holds only the maximum itself.
        total_millionths: sum of the values, in whole millionths.
        low: the least possible value: 0 or -1.
    """

    bins: tuple[int, ...] = (0,) * (SHARE_STEPS + 1)
    total_millionths: int = 0
    low: int = 0

    @classmethod
    def of(cls, value: float, low: int = 0) -> Shares:
        """Return the histogram of one value in low..1."""
        share = (value - low) / (1 - low)
        step = min(SHARE_STEPS, max(0, math.floor(share * SHARE_STEPS + 1e-9)))
        bins = tuple(int(index == step) for index in range(SHARE_STEPS + 1))
        return cls(bins=bins, total_millionths=round(value * _MICRO), low=low)

    def __add__(self, other: Shares) -> Shares:
        return Shares(
            bins=tuple(left + right for left, right in zip(self.bins, other.bins, strict=True)),
            total_millionths=self.total_millionths + other.total_millionths,
            low=min(self.low, other.low),
        )

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.bins)

    @property
    def mean(self) -> float | None:
        """The mean, None of nothing."""
        return self.total_millionths / _MICRO / self.count if self.count else None

    def to_json(self) -> dict[str, JsonValue]:
        """Return JSON that `from_json` reads."""
        return {
            "bins": list(self.bins),
            "total_millionths": self.total_millionths,
            "low": self.low,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> Shares:
        """Read what `to_json` wrote. Raises Corrupt."""
        return cls(
            bins=integers(data, "bins", SHARE_STEPS + 1),
            total_millionths=integer(data, "total_millionths"),
            low=integer(data, "low"),
        )


def add_counts(left: Mapping[K, int], right: Mapping[K, int]) -> dict[K, int]:
    """Add two mappings of counts, key by key."""
    total = Counter(left)
    total.update(right)
    return dict(total)


def add_all(parts: Sequence[Latencies]) -> Latencies:
    """Add any number of latency histograms."""
    return sum(parts, Latencies())
