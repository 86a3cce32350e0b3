"""How many CPUs this process may really use: its affinity and its container's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus(quota_file: Path = _QUOTA) -> int:
    """Return the number of CPUs to compute on, at least 1.

    More threads than a container's quota allows are stopped by the kernel for a part of each
    period, all together, and everything gets slower.
    """
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = quota_file.read_text().split()
        allowed = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        # No quota ("max"), or no cgroup at all.
        return affine or 1
    return max(1, min(affine or 1, allowed))
