"""Profiles of a process that missed its goal: which code it spent its CPU time in."""

from __future__ import annotations

import pstats
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.bench.figures import Json
from tests.bench.sampling import by_many
from tests.bench.upserts import Load, through_proxy
from tests.bench.world import Serving, World, client_of, run_job, serving

_SHOWN = 25
_CLIENTS = 4
_WAITING = ("run_until_complete", "run_forever", "runners.py")
"""The event loop's own entry holds the time in which it waits: that is no work."""

Work = Callable[[Serving], Awaitable[None]]


async def profile_proxy(world: World, name: str, work: Work) -> Json:
    """Run a proxy of its own under cProfile while `work` calls it."""
    file = world.scratch / f"{name}.prof"
    async with serving(world, profile=file) as proxy:
        await work(proxy)  # fills every cache first
        proxy.begin_profile()
        began_s = proxy.cpu_seconds()
        await work(proxy)
        spent_s = proxy.cpu_seconds() - began_s
    return {"own_cpu_s": round(spent_s, 3), **digest(file)}


async def profile_job(world: World, name: str, *command: str) -> Json:
    """Run a job's command under cProfile."""
    file = world.scratch / f"{name}.prof"
    done = await run_job(world, *command, profile=file)
    return {
        "own_cpu_s": round(done.own_cpu_s, 2),
        "server_cpu_s": round(done.server_cpu_s, 2),
        "seconds": done.number("elapsed_s"),
        **digest(file),
    }


def searches_of(vectors: Sequence[bytes], calls: int) -> Work:
    """Return the work of searching by several clients at once."""

    async def work(proxy: Serving) -> None:
        async with client_of(proxy) as client:

            async def search(number: int) -> object:
                return await client.search("documents", vectors[number % len(vectors)], limit=10)

            await by_many({"search": search}, clients=_CLIENTS, each=calls // _CLIENTS)

    return work


def upserts_of(load: Load, calls: int) -> Work:
    """Return the work of writing by several clients at once."""

    async def work(proxy: Serving) -> None:
        async with client_of(proxy) as client:
            way = through_proxy(client, load)
            await by_many({"upsert": way}, clients=_CLIENTS, each=calls // _CLIENTS)

    return work


def digest(file: Path) -> Json:
    """Return a profile as data: CPU seconds by package, and the functions that took most.

    cProfile slows Python code about twofold and C code not at all; shares count, not sums.
    """
    stats = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]  # not in the stubs
    packages: Counter[str] = Counter()
    rows = []
    for (path, line, function), (_, calls, own_s, total_s, _) in stats.items():
        if any(word in f"{path} {function}" for word in _WAITING):
            continue
        packages[_package(path)] += own_s
        rows.append((own_s, total_s, calls, f"{_short(path)}:{line} {function}"))
    rows.sort(reverse=True)
    return {
        "seconds_by_package": {name: round(s, 3) for name, s in packages.most_common(12)},
        "functions": [
            {"function": name, "calls": calls, "own_s": round(own_s, 4), "total_s": round(all_s, 4)}
            for own_s, all_s, calls, name in rows[:_SHOWN]
        ],
    }


def _package(path: str) -> str:
    parts = Path(path).parts
    if path in ("~", "") or path.startswith("<"):
        return "built in or compiled"
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    for name in ("proxy", "reconcile", "shadow", "crossfade"):
        if name in parts:
            return name
    return "standard library"


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-3:])
