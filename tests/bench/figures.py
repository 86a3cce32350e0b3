"""What a benchmark found: figures with goals, latency series, profiles; as data and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table.

    Attributes:
        part: which of the benchmark's parts it belongs to.
        name: what was measured.
        ours: Crossfade's figure, in `unit`.
        direct: the direct equivalent's figure in the same unit, None where there is none.
        direct_name: what the direct equivalent is.
        compared: the number the goal is about ("+0.41 ms", "1.02x").
        goal: in words, "" for a figure that only informs.
        met: whether the goal is met, None without one.
    """

    part: str
    name: str
    unit: str
    ours: float
    direct: float | None = None
    direct_name: str = ""
    compared: str = ""
    goal: str = ""
    met: bool | None = None


class Series:
    """Durations of many equal calls."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.wall_s = 0.0
        """Length of the blocks of concurrent calls; 0 for calls one after the other."""

    def quantile_ms(self, share: float) -> float:
        """Return a quantile in milliseconds (linear between neighbours)."""
        ordered = sorted(self.seconds)
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return 1000.0 * (ordered[low] + (ordered[high] - ordered[low]) * (place - low))

    @property
    def p50_ms(self) -> float:
        """The median."""
        return self.quantile_ms(0.50)

    @property
    def p95_ms(self) -> float:
        """What 95 of 100 calls did not exceed."""
        return self.quantile_ms(0.95)

    def as_json(self) -> Json:
        """Return its summary."""
        found = {
            "calls": len(self.seconds),
            "p50_ms": round(self.p50_ms, 4),
            "p95_ms": round(self.p95_ms, 4),
            "mean_ms": round(1000 * statistics.fmean(self.seconds), 4),
            "max_ms": round(1000 * max(self.seconds), 4),
        }
        if self.wall_s:
            found["calls_per_s"] = round(len(self.seconds) / self.wall_s, 1)
        return found


@dataclass(slots=True)
class Results:
    """Everything one run found, filled in as it goes.

    Attributes:
        series: latency series by name.
        notes: whatever explains a figure: CPU seconds, rows, the machine.
        others: CPUs that other processes used on average, by step.
        durations_s: how long each step took.
        profiles: where the time goes, by the part whose goal was missed.
    """

    figures: list[Figure] = field(default_factory=list)
    series: dict[str, Series] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    durations_s: dict[str, float] = field(default_factory=dict)
    profiles: dict[str, object] = field(default_factory=dict)

    def missed(self, part: str = "") -> list[Figure]:
        """Return the figures whose goal was missed, of one part or of all."""
        return [
            item for item in self.figures if item.met is False and (not part or item.part == part)
        ]

    def as_json(self) -> Json:
        """Return the report."""
        return {
            "goals": {
                "met": sum(1 for item in self.figures if item.met),
                "missed": len(self.missed()),
            },
            "figures": [asdict(item) for item in self.figures],
            "series": {name: item.as_json() for name, item in self.series.items()},
            "notes": self.notes,
            "cpus_used_by_others": self.others,
            "durations_s": self.durations_s,
            "profiles": self.profiles,
        }


def added(part: str, name: str, ours: Series, direct: Series, *, goal_ms: float) -> Figure:
    """Compare medians: how many milliseconds Crossfade adds."""
    more_ms = ours.p50_ms - direct.p50_ms
    return Figure(
        part=part,
        name=f"{name}, p50",
        unit="ms",
        ours=ours.p50_ms,
        direct=direct.p50_ms,
        direct_name="psycopg",
        compared=f"{more_ms:+.2f} ms",
        goal=f"adds at most {goal_ms:g} ms",
        met=more_ms <= goal_ms,
    )


def tail(part: str, name: str, ours: Series, direct: Series, *, goal: float) -> Figure:
    """Compare 95th percentiles by their ratio."""
    ratio = ours.p95_ms / direct.p95_ms
    return Figure(
        part=part,
        name=f"{name}, p95",
        unit="ms",
        ours=ours.p95_ms,
        direct=direct.p95_ms,
        direct_name="psycopg",
        compared=f"{ratio:.3f}x",
        goal=f"at most {goal:g}x",
        met=ratio <= goal,
    )


def faster(
    name: str, ours: float, direct: float, *, part: str, unit: str, direct_name: str, goal: float
) -> Figure:
    """Compare rates: greater is better, and the goal is a least ratio (0: no goal)."""
    ratio = ours / direct
    return Figure(
        part=part,
        name=name,
        unit=unit,
        ours=ours,
        direct=direct,
        direct_name=direct_name,
        compared=f"{ratio:.2f}x",
        goal=f"at least {goal:g}x" if goal else "",
        met=ratio >= goal if goal else None,
    )


def below(part: str, name: str, unit: str, ours: float, most: float) -> Figure:
    """Compare a figure with a bound."""
    return Figure(
        part=part,
        name=name,
        unit=unit,
        ours=ours,
        goal=f"less than {most:g} {unit}",
        met=ours < most,
    )


def median(values: Sequence[float]) -> float:
    """Return the median of a few repetitions."""
    return statistics.median(values)
