"""One run of the benchmark, part by part, over the corpus and over the corpus repeated."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from crossfade.client.control_types import Phase

from proxy.demo.corpus import Corpus, load_corpus
from proxy.demo.options import Pace
from proxy.demo.processes import Guard, Household
from proxy.errors import CrossfadeError
from tests.bench import copies, memory, searches, upserts
from tests.bench.figures import Results
from tests.bench.layers import search_layers
from tests.bench.profiling import profile_job, profile_proxy, repeated
from tests.bench.sizes import Sizes
from tests.bench.world import (
    JobDone,
    Serving,
    World,
    all_reads_to_new,
    count,
    execute,
    loaded_world,
    run_job,
    serving,
    to_phase,
)

_LAYER_CALLS = 200
_PROFILED_CALLS = 400

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every part is given."""

    corpus: Corpus
    sizes: Sizes
    results: Results
    say: Say


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Peak memory in MiB at one size of table."""

    proxy: float
    backfill: float


async def run(sizes: Sizes, say: Say) -> Results:
    """Measure everything.

    Raises:
        CrossfadeError: something did not work; a goal that is missed is no error.
    """
    began_s = time.monotonic()
    corpus = load_corpus(None, Pace(documents=sizes.documents, live_documents=200))
    bench = Bench(corpus=corpus, sizes=sizes, results=Results(), say=say)
    bench.results.notes["corpus"] = dict(corpus.summary())
    bench.results.notes["machine"] = _machine()
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as scratch, Guard() as guard:
        logs = Path(scratch) / "logs"
        logs.mkdir()
        _allow_bytecode(Path(scratch) / "bytecode")
        async with Household(logs=logs, guard=guard) as household:
            with loaded_world(household, Path(scratch) / "corpus", corpus) as world:
                bench.results.notes["engine"] = world.dsns.engine
                small = await _over_corpus(world, bench)
            say(f"rows: repeating the corpus to {sizes.rows:,}")
            with loaded_world(
                household, Path(scratch) / "repeated", corpus, rows=sizes.rows
            ) as world:
                large = await _over_rows(world, bench)
    memory.flat("proxy", small.proxy, large.proxy, bench.results)
    memory.flat("backfill", small.backfill, large.backfill, bench.results)
    bench.results.figures.sort(key=lambda figure: figure.part)
    bench.results.notes["duration_s"] = round(time.monotonic() - began_s, 1)
    return bench.results


async def _over_corpus(world: World, bench: Bench) -> Peaks:
    """Measure searches and upserts, phase by phase."""
    rows, sizes, results = len(bench.corpus.documents), bench.sizes, bench.results
    questions = bench.corpus.questions
    bench.say("start: proxies, and their memory")
    await memory.start_times(world, sizes, results)
    proxy_peak = await memory.proxy_peak(world, questions, sizes, rows, results)
    ask = searches.Ask(questions=questions, sizes=sizes)
    load = upserts.load_of(bench.corpus.live, sizes)
    async with serving(world) as proxy:
        bench.say(f"search: exact over {rows:,} rows")
        exact = await searches.measure(world, proxy, "old", ask, results)
        bench.say("upsert: old_only")
        await upserts.measure_one(world, proxy, load, sizes, results)
        await to_phase(proxy, Phase.DUAL_WRITE)
        job = await run_job(world, "backfill", "--no-indexes")
        bench.say("upsert: dual_write")
        await upserts.measure_both(world, proxy, load, sizes, results)
        bench.say("index: build and verify")
        await copies.build_index(world, rows, results)
        await _must_be_equal(world)
        await to_phase(proxy, Phase.SHADOW, Phase.RAMP)
        await all_reads_to_new(proxy)
        bench.say("search: by the index")
        indexed = await searches.measure(world, proxy, "new", ask, results)
        searches.compare_index(exact, indexed, results)
        await _explain_search(world, proxy, bench)
    memory.reconciler_peak(rows, job.peak_mib, results)
    return Peaks(proxy=proxy_peak, backfill=job.peak_mib)


async def _must_be_equal(world: World) -> None:
    """Everything above was written through both stores: they must hold the same."""
    done = await run_job(world, "verify")
    differing = sum(done.number(name) for name in ("mismatched", "missing", "extra"))
    if differing:
        raise CrossfadeError(f"After the upserts {differing:.0f} records differ.")


async def _explain_search(world: World, proxy: Serving, bench: Bench) -> None:
    """Say where the time of a search goes; with a profile if a goal was missed."""
    questions = bench.corpus.questions
    bench.say("search: layer by layer")
    calls = min(_LAYER_CALLS, bench.sizes.near)
    layers = await search_layers(world, proxy, "new", questions, calls)
    bench.results.profiles["search by the index, layer by layer, p50 ms"] = layers
    if not bench.sizes.explain or not bench.results.missed(searches.PART):
        return
    bench.say("search: profile")
    work = repeated([question.vector for question in questions], _PROFILED_CALLS)
    bench.results.profiles["proxy while it searches by the index"] = await profile_proxy(
        world, "search", work
    )


async def _over_rows(world: World, bench: Bench) -> Peaks:
    """Measure backfill and verify over the repeated corpus."""
    sizes, results = bench.sizes, bench.results
    rows = count(world.dsns.old, "SELECT count(*) FROM doc_embeddings")
    async with serving(world) as proxy:
        await to_phase(proxy, Phase.DUAL_WRITE)
        await copies.prepare(world)
        bench.say(f"backfill: {rows:,} rows, in turns with the pipe")
        job: JobDone = await copies.measure(world, rows, sizes, results)
        memory.reconciler_peak(rows, job.peak_mib, results)
        missed = results.missed(copies.COPY_PART) or results.missed(copies.VERIFY_PART)
        if sizes.explain and missed:
            await _explain_copy(world, bench)
        if sizes.build_index:
            bench.say(f"index: over {rows:,} rows; this takes minutes")
            await copies.build_index(world, rows, results)
    bench.say(f"memory: the proxy over {rows:,} rows")
    peak = await memory.proxy_peak(world, bench.corpus.questions, sizes, rows, results)
    return Peaks(proxy=peak, backfill=job.peak_mib)


async def _explain_copy(world: World, bench: Bench) -> None:
    bench.say("backfill: profile")
    execute(world.dsns.new, "TRUNCATE documents")
    profiles = bench.results.profiles
    profiles["backfill"] = await profile_job(
        world, "backfill", "backfill", "--collection", "documents", "--no-indexes"
    )
    profiles["verify"] = await profile_job(world, "verify", "verify", "--collection", "documents")


def _allow_bytecode(cache: Path) -> None:
    """Let child processes keep bytecode as an installed program does, even where it is forbidden.

    Otherwise each start would compile every module anew.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str(cache)


def _machine() -> dict[str, object]:
    load_1m, load_5m, _ = os.getloadavg()
    return {
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1m": round(load_1m, 2),
        "load_5m": round(load_5m, 2),
    }
