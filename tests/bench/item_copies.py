"""The backfill from PostgreSQL into LanceDB, vectors copied, against the plain script."""

from __future__ import annotations

from dataclasses import dataclass

from crossfade.client.control_types import Job, JobKind, Phase

from proxy.errors import CrossfadeError
from tests.bench.figures import Figure, Json, Results, faster, median
from tests.bench.item_world import TABLE, ItemWorld, fill_old, run_there
from tests.bench.item_writes import PART, measure_proxy, raw_rate
from tests.bench.profiling import digest
from tests.bench.script import run_script
from tests.bench.sizes import Sizes
from tests.bench.world import Serving, client_of, serving, to_phase

_SCRIPT_MIN = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """One backfill: as the job tells it, and CPU seconds of the proxy and of PostgreSQL."""

    job: Job
    seconds: float
    proxy_cpu_s: float
    server_cpu_s: float


async def measure(items: ItemWorld, sizes: Sizes, results: Results) -> None:
    """Copy the table by each way in turns; then verify, and write through the last proxy."""
    dsn = items.world.dsns.old
    fill_old(dsn, sizes.items)
    jobs: list[Copied] = []
    scripts: list[float] = []
    for number in range(sizes.copy_rounds):
        name = f"copied-{number}"
        scripts.append(await _script(items, name, sizes.items))
        async with serving(items.stage(name)) as proxy:
            await to_phase(proxy, Phase.DUAL_WRITE)
            jobs.append(await _backfill(items, proxy, sizes.items))
            if number == sizes.copy_rounds - 1:
                _report(jobs, scripts, sizes, results)
                await _verify(proxy, jobs, sizes, results)
                async with client_of(proxy) as client:
                    await measure_proxy(client, "dual_write", sizes, results, raw_rate(results))


async def _script(items: ItemWorld, name: str, rows: int) -> float:
    """Run the plain script in a process of its own; return rows a second."""
    done = await run_script(
        "tests.bench.arrow_script",
        items.world.dsns.old,
        str(items.folder(f"{name}-script")),
        TABLE,
    )
    if done.rows != rows:
        raise CrossfadeError(f"The script copied {done.rows} of {rows} rows.")
    return rows / done.seconds


async def _backfill(items: ItemWorld, proxy: Serving, rows: int) -> Copied:
    before_s = (proxy.cpu_seconds(), items.world.backend_seconds())
    job = await run_there(proxy, JobKind.BACKFILL, build_indexes=False)
    if job.summary.get("copied") != rows:
        raise CrossfadeError(f"The backfill copied {job.summary.get('copied')} of {rows} rows.")
    return Copied(
        job=job,
        seconds=float(job.summary["elapsed_s"]),
        proxy_cpu_s=proxy.cpu_seconds() - before_s[0],
        server_cpu_s=items.world.backend_seconds() - before_s[1],
    )


def _report(jobs: list[Copied], scripts: list[float], sizes: Sizes, results: Results) -> None:
    name = f"backfill of {sizes.items:,} items into LanceDB"
    results.figures.append(
        faster(
            name,
            median([sizes.items / done.seconds for done in jobs]),
            median(scripts),
            part=PART,
            unit="rows/s",
            direct_name="COPY into table.add",
            goal=_SCRIPT_MIN,
        )
    )
    results.notes[name] = {
        "script_rows_per_s": [round(rate) for rate in scripts],
        "backfill_s": [round(done.seconds, 2) for done in jobs],
        "backfill_proxy_cpu_s": [round(done.proxy_cpu_s, 2) for done in jobs],
        "backfill_server_cpu_s": [round(done.server_cpu_s, 2) for done in jobs],
    }


async def _verify(proxy: Serving, jobs: list[Copied], sizes: Sizes, results: Results) -> None:
    job = await run_there(proxy, JobKind.VERIFY)
    if job.summary.get("matched") != sizes.items:
        raise CrossfadeError(f"Verify matched {job.summary.get('matched')} of {sizes.items} rows.")
    rate = sizes.items / float(job.summary["elapsed_s"])
    copied = median([sizes.items / done.seconds for done in jobs])
    results.figures.append(
        Figure(
            part=PART,
            name=f"verify of {sizes.items:,} items",
            unit="rows/s",
            ours=rate,
            direct=copied,
            direct_name="backfill",
            compared=f"{rate / copied:.2f}x",
        )
    )


async def explain(items: ItemWorld) -> Json:
    """Run one more backfill in a proxy under cProfile."""
    world = items.stage("profiled")
    file = world.scratch / "backfill-items.prof"
    async with serving(world, profile=file) as proxy:
        await to_phase(proxy, Phase.DUAL_WRITE)
        proxy.begin_profile()
        job = await run_there(proxy, JobKind.BACKFILL, build_indexes=False)
    return {"seconds": job.summary["elapsed_s"], **digest(file)}
