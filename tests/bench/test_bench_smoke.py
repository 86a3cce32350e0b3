"""The benchmark runs from end to end, small, and leaves its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"1 search", "2 upsert", "3 backfill", "4 verify", "5 memory", "6 index"}


def test_a_quick_benchmark_prints_its_table_and_writes_every_part(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Crossfade beside its direct equivalents" in done.stdout
    report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    figures = report["figures"]
    assert {figure["part"] for figure in figures} == PARTS
    assert all(figure["ours"] > 0 for figure in figures)
    judged = [figure for figure in figures if figure["goal"]]
    assert all(figure["met"] in (True, False) for figure in judged)
    assert report["goals"]["met"] + report["goals"]["missed"] == len(judged)
    recall = next(figure for figure in figures if figure["name"].startswith("recall"))
    assert recall["met"]
