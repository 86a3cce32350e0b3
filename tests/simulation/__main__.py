"""`python -m tests.simulation`: run seeds, print what failed and how to see it again."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from tests.simulation.run import Verdict, run_seed

FAILURES_SHOWN = 10


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one alone and print what happened")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        return _replay(asked.seed)
    return _many(range(asked.first, asked.first + asked.seeds), asked.workers)


def _replay(seed: int) -> int:
    verdict = run_seed(seed, trace=True)
    print("\n".join(verdict.trace))
    _tell(verdict)
    return 1 if verdict.findings else 0


def _tell(verdict: Verdict) -> None:
    print(f"seed {verdict.seed}: {len(verdict.findings)} findings, digest {verdict.digest:08x}")
    for finding in verdict.findings[:FAILURES_SHOWN]:
        print(f"  {finding}")
    if verdict.findings:
        print(f"  again: python -m tests.simulation --seed {verdict.seed}")


def _many(seeds: range, workers: int) -> int:
    began_s = time.perf_counter()
    failed = 0
    writes, virtual_s = 0, 0.0
    for verdict in _verdicts(seeds, workers):
        writes += verdict.writes
        virtual_s += verdict.virtual_s
        if verdict.findings:
            failed += 1
            if failed <= FAILURES_SHOWN:
                _tell(verdict)
    took_s = time.perf_counter() - began_s
    print(
        f"{len(seeds)} seeds, {failed} failed; {writes} writes in {virtual_s:.0f} virtual seconds,"
        f" {took_s:.1f} s of real time"
    )
    return 1 if failed else 0


def _verdicts(seeds: range, workers: int) -> Iterator[Verdict]:
    if workers == 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from islice(pool.map(run_seed, seeds, chunksize=4), len(seeds))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of a set of texts is a part of what a seed decides.
        again = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606
    sys.exit(main(sys.argv[1:]))
