"""Hunt planted bugs: run seeds until a checker notices one, or tell who notices it at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.run import run_seed

SEEDS_MAX = 500
_CHECKER_CHARS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunted:
    """How a planted bug was caught: by which checker first, at which seed, after how many.

    `checker` is "" if it was not. `others` noticed it in the same run.
    """

    bug: str
    checker: str = ""
    text: str = ""
    seed: int = -1
    seeds: int = 0
    others: tuple[str, ...] = ()


def hunt(bug: Bug, *, first: int = 0, seeds_max: int = SEEDS_MAX) -> Hunted:
    """Run seeds with a bug until one fails."""
    for count, seed in enumerate(range(first, first + seeds_max), start=1):
        try:
            found = run_seed(seed, bug=bug).findings
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # a crash is noticed
            return Hunted(bug=bug.name, checker="the run", text=repr(error), seed=seed, seeds=count)
        if found:
            return Hunted(
                bug=bug.name,
                checker=found[0].checker,
                text=found[0].text,
                seed=seed,
                seeds=count,
                others=tuple(sorted({item.checker for item in found} - {found[0].checker})),
            )
    return Hunted(bug=bug.name, seeds=seeds_max)


def noticed_by(name: str, seeds: int) -> Counter[str]:
    """Return, by checker, in how many of the first seeds it notices a planted bug."""
    (bug,) = (item for item in BUGS if item.name == name)
    found: Counter[str] = Counter()
    for seed in range(seeds):
        with suppress(Exception, asyncio.CancelledError):  # a run that breaks off shows nothing
            found.update({item.checker for item in run_seed(seed, bug=bug).findings})
    return found


def hunt_named(name: str, first: int = 0, seeds_max: int = SEEDS_MAX) -> Hunted:
    """Hunt a bug by its name (a process of a pool gets no functions)."""
    (bug,) = (item for item in BUGS if item.name == name)
    return hunt(bug, first=first, seeds_max=seeds_max)


def row(hunted: Hunted | None) -> str:
    """Return a row of the table of what was caught by whom, its head for None."""
    told = ("planted bug", "caught by", "seeds", "at seed; who else noticed")
    if hunted is not None:
        where = "; ".join([str(hunted.seed), *hunted.others]) if hunted.checker else ""
        told = (hunted.bug, hunted.checker or "NOBODY", str(hunted.seeds), where)
    bugs = max(len(bug.name) for bug in BUGS)
    return f"{told[0]:<{bugs}}  {told[1]:<{_CHECKER_CHARS}}  {told[2]:>5}  {told[3]}"
