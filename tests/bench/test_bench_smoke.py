"""The benchmark runs from end to end, small, and leaves its report; each half on its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
DOC_SERVER = {"1 search", "2 upsert", "3 backfill", "4 verify", "5 memory", "6 index"}
LANCEDB = {"7 lancedb and embeddings"}


@pytest.mark.parametrize(("half", "parts"), [("doc-server", DOC_SERVER), ("lancedb", LANCEDB)])
def test_a_quick_benchmark_prints_its_table_and_writes_every_part(
    half: str, parts: set[str], tmp_path: Path
) -> None:
    report = measured(half, tmp_path)
    figures = report["figures"]
    assert {figure["part"] for figure in figures} == parts
    assert all(figure["ours"] > 0 for figure in figures)
    judged = [figure for figure in figures if figure["goal"]]
    assert all(figure["met"] in (True, False) for figure in judged)
    assert report["goals"]["met"] + report["goals"]["missed"] == len(judged)
    for figure in figures:
        if figure["name"].startswith("recall"):
            assert figure["met"]


def measured(half: str, out: Path) -> Any:
    """Run one half of the benchmark and return its report."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--part", half, "--out", str(out)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Crossfade beside its direct equivalents" in done.stdout
    return json.loads((out / "bench.json").read_text(encoding="utf-8"))
