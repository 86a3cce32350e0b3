"""`python -m tests.simulation`: run seeds, hunt planted bugs, replay a seed that failed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from tests.simulation.bugs import BUGS, QUICK
from tests.simulation.hunt import SEEDS_MAX, Hunted, hunt_named, noticed_by, row
from tests.simulation.points import EVERY_POINT, Reached
from tests.simulation.run import Verdict, run_seed
from tests.simulation.watch import EVERY_CHECKER

FAILURES_SHOWN = 10


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; return the exit code."""
    asked = _parser().parse_args(arguments)
    if asked.seed is not None:
        return _replay(asked.seed)
    good = True
    if asked.seeds:
        good = _many(range(asked.first, asked.first + asked.seeds), asked.workers)
    if asked.bugs:
        names = [bug.name for bug in BUGS if asked.named in bug.name]
        if asked.quick:
            names = [name for name in names if name in QUICK]
        good = _bugs(names, asked.bugs, asked.workers) and good
    if asked.checkers:
        good = _checkers(asked.checkers, asked.workers) and good
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=0, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one alone and print what happened")
    parser.add_argument(
        "--bugs",
        type=int,
        default=0,
        metavar="SEEDS",
        help=f"hunt every planted bug for so many seeds at most (the promise is {SEEDS_MAX})",
    )
    parser.add_argument(
        "--checkers",
        type=int,
        default=0,
        metavar="SEEDS",
        help="tell by checker which planted bugs it notices within so many seeds of each",
    )
    parser.add_argument("--quick", action="store_true", help="only those that are caught soon")
    parser.add_argument("--named", default="", help="only the planted bugs with this in their name")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser


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


def _many(seeds: range, workers: int) -> bool:
    """Run seeds and print what failed; True if nothing did, and every pause point was reached."""
    began_s = time.perf_counter()
    failed, writes, virtual_s = 0, 0, 0.0
    reached = Reached()
    for verdict in _verdicts(seeds, workers):
        writes += verdict.writes
        virtual_s += verdict.virtual_s
        reached.add(verdict.reached)
        if verdict.findings:
            failed += 1
            if failed <= FAILURES_SHOWN:
                _tell(verdict)
                sys.stdout.flush()
    took_s = time.perf_counter() - began_s
    print(
        f"{len(seeds)} seeds, {failed} failed; {writes} writes in {virtual_s:.0f} virtual seconds,"
        f" {took_s:.1f} s of real time\n"
    )
    _tell_points(reached)
    return not failed


def _tell_points(reached: Reached) -> None:
    width = max(len(point.name) for point in EVERY_POINT)
    print(f"{'pause point':<{width}}  {'reached':>8}  {'died there':>10}")
    for point in EVERY_POINT:
        times, deaths = reached.visits[point], reached.deaths[point]
        print(f"{point.name:<{width}}  {times:>8}  {deaths:>10}")
    print()


def _verdicts(seeds: range, workers: int) -> Iterator[Verdict]:
    if workers == 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(run_seed, seeds, chunksize=4)


def _bugs(names: Sequence[str], seeds_max: int, workers: int) -> bool:
    """Hunt the planted bugs and print the table; True if each was caught."""
    with ProcessPoolExecutor(workers) as pool:
        hunts = [pool.submit(hunt_named, name, seeds_max=seeds_max) for name in names]
        print(row(None), flush=True)
        hunted: list[Hunted] = []
        for hunt in hunts:
            hunted.append(hunt.result())
            print(row(hunted[-1]), flush=True)
    missed = [item.bug for item in hunted if not item.checker]
    if missed:
        print(f"\nnot caught within {seeds_max} seeds: {', '.join(missed)}")
    return not missed


def _checkers(seeds: int, workers: int) -> bool:
    """Print which planted bugs each checker notices; True if every one notices some."""
    by_checker: dict[str, list[str]] = {name: [] for name in EVERY_CHECKER}
    with ProcessPoolExecutor(workers) as pool:
        names = [bug.name for bug in BUGS]
        for name, found in zip(names, pool.map(noticed_by, names, repeat(seeds)), strict=True):
            for checker, times in found.items():
                by_checker.setdefault(checker, []).append(f"{name} ({times})")
    print(f"\nchecker: planted bugs (in how many of {seeds} seeds)")
    for checker, bugs in by_checker.items():
        print(f"{checker}: {', '.join(bugs) or 'NONE'}", flush=True)
    return all(by_checker[name] for name in EVERY_CHECKER)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of a set of texts is a part of what a seed decides.
        again = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606  # this program again
    sys.exit(main(sys.argv[1:]))
