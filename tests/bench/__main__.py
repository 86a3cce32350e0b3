"""`python -m tests.bench`: run the benchmark, print its table, write bench.json.

Exit code 0 even if a goal is missed, since that is a finding; 1 if something did not work.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import uvloop
from rich.console import Console

from proxy.errors import CrossfadeError
from tests.bench.run import PARTS, run
from tests.bench.sizes import QUICK, Sizes
from tests.bench.table import WIDTH_MIN, print_report


def main(arguments: list[str] | None = None) -> int:
    """Run it; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rows and calls: does it work?")
    parser.add_argument("--rows", type=int, help="rows of the copied table (default 44,951)")
    parser.add_argument(
        "--index", action="store_true", help="build the index over all rows too (minutes)"
    )
    parser.add_argument("--part", choices=PARTS, help="this half alone (default: both)")
    parser.add_argument("--out", type=Path, default=Path("bench-report"), help="for bench.json")
    given = parser.parse_args(arguments)
    sizes = QUICK if given.quick else Sizes()
    sizes = replace(sizes, rows=given.rows or sizes.rows, build_index=given.index)
    parts = (given.part,) if given.part else PARTS
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_MIN)
    try:
        results = uvloop.run(run(sizes, console.print, parts=parts))
    except CrossfadeError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "bench.json"
    file.write_text(json.dumps(results.as_json(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    print_report(results, console)
    console.print(f"Everything, with the series and profiles: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
