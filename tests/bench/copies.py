"""Parts 3 and 4: the backfill against a pipe between two psql and a CSV script; the verify."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from proxy.errors import CrossfadeError
from tests.bench.figures import Figure, Results, below, faster, median
from tests.bench.psql_pipe import copy_by_pipe
from tests.bench.rows import settle_down
from tests.bench.script import run_script
from tests.bench.sizes import Sizes
from tests.bench.world import JobDone, World, count, execute, run_job

COPY_PART = "3 backfill"
VERIFY_PART = "4 verify"
MEMORY_PART = "5 memory"
_PIPE_MIN = 0.8
_SCRIPT_MIN = 4.0
_VERIFY_MIN = 2.0
_PEAK_MIB_MAX = 300.0
_DOCUMENTS = ("--collection", "documents")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One run of one way of copying."""

    rows: int
    seconds: float
    server_cpu_s: float

    @property
    def rows_per_s(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


async def prepare(world: World) -> None:
    """Copy the parents once, so that every way then copies the documents alone."""
    await run_job(world, "backfill", "--collection", "sources", "--no-indexes")


async def measure(world: World, rows: int, sizes: Sizes, results: Results) -> JobDone:
    """Copy the documents by each way in turns, then verify; return the last backfill."""
    script = await _script(world, min(sizes.script_rows, rows))
    pipes: list[Rate] = []
    jobs: list[JobDone] = []
    for left in range(sizes.copy_rounds, 0, -1):
        # The order turns round each time, and a backfill comes last: verify then looks at it.
        for way in ("pipe", "backfill") if left % 2 else ("backfill", "pipe"):
            _empty(world)
            if way == "pipe":
                pipes.append(await _pipe(world, rows))
            else:
                jobs.append(await _backfill(world, rows))
    _report(rows, pipes, jobs, script, results)
    await _verify(world, rows, jobs, results)
    return jobs[-1]


def _empty(world: World) -> None:
    execute(world.dsns.new, "TRUNCATE documents")
    settle_down(world.dsns.new)


async def _pipe(world: World, rows: int) -> Rate:
    before_s = world.backend_seconds()
    seconds = await copy_by_pipe(world.dsns.old, world.dsns.new)
    if count(world.dsns.new, "SELECT count(*) FROM documents") != rows:
        raise CrossfadeError("The pipe did not copy every row.")
    return Rate(rows=rows, seconds=seconds, server_cpu_s=world.backend_seconds() - before_s)


async def _backfill(world: World, rows: int) -> JobDone:
    job = await run_job(world, "backfill", *_DOCUMENTS, "--no-indexes")
    if job.number("copied") != rows:
        raise CrossfadeError(f"The backfill copied {job.number('copied'):.0f} of {rows} rows.")
    return job


async def _script(world: World, rows: int) -> Rate:
    """Run the CSV script over some rows in a process of its own, into an empty table."""
    _empty(world)
    before_s = world.backend_seconds()
    done = await run_script(
        "tests.bench.csv_script",
        world.dsns.old,
        world.dsns.new,
        str(rows),
        str(world.scratch / "documents.csv"),
    )
    return Rate(
        rows=done.rows,
        seconds=done.seconds,
        server_cpu_s=world.backend_seconds() - before_s,
    )


def _report(
    rows: int, pipes: list[Rate], jobs: list[JobDone], script: Rate, results: Results
) -> None:
    ours = median([rows / job.number("elapsed_s") for job in jobs])
    pipe = median([rate.rows_per_s for rate in pipes])
    name = f"backfill of {rows:,} rows"
    results.figures += [
        faster(
            name,
            ours,
            pipe,
            part=COPY_PART,
            unit="rows/s",
            direct_name="psql COPY pipe",
            goal=_PIPE_MIN,
        ),
        faster(
            name,
            ours,
            script.rows_per_s,
            part=COPY_PART,
            unit="rows/s",
            direct_name=f"CSV script, {script.rows:,} rows",
            goal=_SCRIPT_MIN,
        ),
        faster(
            f"{name}, process and all",
            median([rows / job.wall_s for job in jobs]),
            pipe,
            part=COPY_PART,
            unit="rows/s",
            direct_name="psql COPY pipe",
            goal=0.0,
        ),
    ]
    results.notes[name] = {
        "pipe_s": [round(rate.seconds, 2) for rate in pipes],
        "pipe_server_cpu_s": [round(rate.server_cpu_s, 2) for rate in pipes],
        "backfill_s": [job.number("elapsed_s") for job in jobs],
        "backfill_process_s": [round(job.wall_s, 2) for job in jobs],
        "backfill_own_cpu_s": [round(job.own_cpu_s, 2) for job in jobs],
        "backfill_server_cpu_s": [round(job.server_cpu_s, 2) for job in jobs],
        "script_rows": script.rows,
        "script_s": round(script.seconds, 2),
        "cpus": psutil.cpu_count(),
    }


async def _verify(world: World, rows: int, jobs: list[JobDone], results: Results) -> None:
    """Verify what the last backfill copied; it must be equal."""
    settle_down(world.dsns.new)
    done = await run_job(world, "verify", *_DOCUMENTS)
    if done.number("matched") != rows:
        raise CrossfadeError(f"Verify matched {done.number('matched'):.0f} of {rows} rows.")
    results.figures.append(
        faster(
            f"verify of {rows:,} rows",
            rows / done.number("elapsed_s"),
            median([rows / job.number("elapsed_s") for job in jobs]),
            part=VERIFY_PART,
            unit="rows/s",
            direct_name="backfill",
            goal=_VERIFY_MIN,
        )
    )
    results.figures.append(
        below(MEMORY_PART, f"verify, {rows:,} rows, peak", "MiB", done.peak_mib, _PEAK_MIB_MAX)
    )
    results.notes[f"verify of {rows:,} rows"] = {
        "verify_s": done.number("elapsed_s"),
        "verify_process_s": round(done.wall_s, 2),
        "verify_own_cpu_s": round(done.own_cpu_s, 2),
        "verify_server_cpu_s": round(done.server_cpu_s, 2),
    }


async def build_index(world: World, rows: int, results: Results) -> None:
    """Build the index by a second backfill, which finds every row equal; for information."""
    job = await run_job(world, "backfill")
    results.figures.append(
        Figure(
            part=COPY_PART,
            name=f"HNSW index over {rows:,} rows (and a second look)",
            unit="s",
            ours=job.number("elapsed_s"),
        )
    )
