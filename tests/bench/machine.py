"""The machine a benchmark ran on, and how much of it others used meanwhile."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_STAT = Path("/proc/stat")


def describe() -> dict[str, object]:
    """Return what a reader of the figures must know."""
    load_1m, load_5m, _ = os.getloadavg()
    return {
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1m": round(load_1m, 2),
        "load_5m": round(load_5m, 2),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU seconds up to a moment: of the whole machine, and of the benchmark's own processes."""

    at_s: float
    busy_s: float
    own_s: float

    @classmethod
    def now(cls, pids: Sequence[int]) -> Usage:
        """Read them; `pids` are the roots of the benchmark's own process trees."""
        return cls(
            at_s=time.monotonic(),
            busy_s=_busy_seconds(),
            own_s=sum(tree_seconds(psutil.Process(pid)) for pid in pids),
        )

    def others_until(self, later: Usage) -> float:
        """Return how many CPUs other processes used on average until `later`."""
        others_s = (later.busy_s - self.busy_s) - (later.own_s - self.own_s)
        return max(0.0, others_s / max(later.at_s - self.at_s, 1e-9))


def tree_seconds(root: psutil.Process) -> float:
    """Return CPU seconds of a process, its living descendants, and those that were waited for."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def _busy_seconds() -> float:
    """Return the seconds in which any CPU worked, stolen time included; waiting is no work."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(word) for word in _STAT.read_text(encoding="ascii").split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
