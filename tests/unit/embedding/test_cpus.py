"""Threads for the CPUs there are, and no more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.embedding import cpus


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 6),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("20000 100000", 1),
        ("6400000 100000", 6),
        ("garbage", 6),
        (None, 6),
    ],
)
def test_a_quota_bounds_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota + "\n")
    assert cpus.usable_cpus(file) == expected
