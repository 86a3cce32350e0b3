"""The simulation as a part of every test run: seeds, exact replay, pause points, planted bugs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.bugs import QUICK
from tests.simulation.points import EVERY_POINT

ROOT = Path(__file__).parent.parent.parent
SEEDS = 200
PART = 50
SLOW_S = 280
"""A test takes some ten seconds of one core; this is for a machine that is busy with others."""


def simulate(*arguments: str) -> str:
    """Run the simulation in a process of its own, where texts have the same hashes every time."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments, "--workers", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=SLOW_S,
        check=False,
    )
    print(done.stdout[-4000:], done.stderr[-2000:])
    assert done.returncode == 0, f"see above; again: python -m tests.simulation {arguments}"
    return done.stdout


@pytest.mark.timeout(SLOW_S + 10)
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_no_seed_breaks_a_promise(first: int) -> None:
    told = simulate("--seeds", str(PART), "--first", str(first))
    assert f"{PART} seeds, 0 failed" in told


def test_a_seed_replays_exactly() -> None:
    first, second = (simulate("--seed", "3") for _ in range(2))
    assert len(first.splitlines()) > 500
    assert first == second


@pytest.mark.timeout(SLOW_S + 10)
def test_planted_bugs_are_caught_and_every_pause_point_is_reached() -> None:
    told = simulate("--seeds", "40", "--first", "1000", "--bugs", "500", "--quick")
    for point in EVERY_POINT:
        (line,) = [line for line in told.splitlines() if line.startswith(f"{point.name} ")]
        assert int(line.split()[1]) > 0, point
    assert all(bug in told for bug in QUICK)
