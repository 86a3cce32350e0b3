"""One run of the benchmark, part by part, over the corpus and over the corpus repeated."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossfade.client.control_types import Phase

from proxy.demo.doc_server.corpus import Corpus, load_corpus
from proxy.demo.options import Pace
from proxy.demo.processes import Guard, Household
from proxy.errors import CrossfadeError
from tests.bench import copies, item_part, machine, memory, searches, upserts
from tests.bench.figures import Results
from tests.bench.layers import search_layers
from tests.bench.profiling import profile_job, profile_proxy, searches_of, upserts_of
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

DOC_SERVER, LANCEDB = "doc-server", "lancedb"
PARTS = (DOC_SERVER, LANCEDB)
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

    @contextmanager
    def step(self, name: str, world: World) -> Iterator[None]:
        """Say what is measured now, and note how many CPUs others used meanwhile."""
        self.say(name)
        began, began_s = world.usage(), time.monotonic()
        yield
        self.results.others[name] = round(began.others_until(world.usage()), 2)
        self.results.durations_s[name] = round(time.monotonic() - began_s, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Peak memory in MiB at one size of table."""

    proxy: float
    backfill: float


async def run(sizes: Sizes, say: Say, *, parts: Collection[str] = PARTS) -> Results:
    """Measure everything, or some of `PARTS`.

    Raises:
        CrossfadeError: something did not work; a goal that is missed is no error.
    """
    began_s = time.monotonic()
    corpus = load_corpus(None, Pace(documents=sizes.documents, live_documents=200))
    bench = Bench(corpus=corpus, sizes=sizes, results=Results(), say=say)
    bench.results.notes["corpus"] = dict(corpus.summary())
    bench.results.notes["machine"] = machine.describe()
    with tempfile.TemporaryDirectory(prefix="crossfade-bench-") as scratch, Guard() as guard:
        logs = Path(scratch) / "logs"
        logs.mkdir()
        _allow_bytecode(Path(scratch) / "bytecode")
        async with Household(logs=logs, guard=guard) as household:
            if DOC_SERVER in parts:
                await _doc_server(household, Path(scratch), bench)
            if LANCEDB in parts:
                await item_part.measure(
                    household, Path(scratch) / "items", bench.step, sizes, bench.results
                )
    bench.results.figures.sort(key=lambda figure: figure.part)
    bench.results.notes["duration_s"] = round(time.monotonic() - began_s, 1)
    return bench.results


async def _doc_server(household: Household, scratch: Path, bench: Bench) -> None:
    """Measure PostgreSQL to PostgreSQL, over few rows and over many."""
    corpus, sizes = bench.corpus, bench.sizes
    with loaded_world(household, scratch / "corpus", corpus) as world:
        bench.results.notes["engine"] = world.dsns.engine
        small = await _over_corpus(world, bench)
    bench.say(f"rows: repeating the corpus to {sizes.rows:,}")
    with loaded_world(household, scratch / "repeated", corpus, rows=sizes.rows) as world:
        large = await _over_rows(world, bench)
    memory.flat("proxy", small.proxy, large.proxy, bench.results)
    memory.flat("backfill", small.backfill, large.backfill, bench.results)


async def _over_corpus(world: World, bench: Bench) -> Peaks:
    """Measure searches and upserts, phase by phase."""
    rows, sizes, results = len(bench.corpus.documents), bench.sizes, bench.results
    ask = searches.Ask(questions=bench.corpus.questions, sizes=sizes)
    with bench.step("start: proxies, and their memory", world):
        await memory.start_times(world, sizes, results)
        proxy_peak = await memory.proxy_peak(world, ask.questions, sizes, rows, results)
    async with serving(world) as proxy:
        with bench.step(f"search: exact over {rows:,} rows", world):
            exact = await searches.measure(world, proxy, "old", ask, results)
        job = await _upserts(world, proxy, bench)
        with bench.step("index: build, and verify", world):
            await copies.build_index(world, rows, results)
            await _must_be_equal(world)
        await to_phase(proxy, Phase.SHADOW, Phase.RAMP)
        await all_reads_to_new(proxy)
        with bench.step("search: by the index", world):
            indexed = await searches.measure(world, proxy, "new", ask, results)
            searches.compare_index(exact, indexed, results)
        await _explain_search(world, proxy, bench)
    memory.reconciler_peak(rows, job.peak_mib, results)
    return Peaks(proxy=proxy_peak, backfill=job.peak_mib)


async def _upserts(world: World, proxy: Serving, bench: Bench) -> JobDone:
    """Measure upserts in old_only, move to dual_write, fill the new store, measure them there."""
    sizes, results = bench.sizes, bench.results
    load = upserts.load_of(bench.corpus.live, sizes)
    with bench.step("upsert: old_only", world):
        await upserts.measure_one(world, proxy, load, sizes, results)
    await to_phase(proxy, Phase.DUAL_WRITE)
    job = await run_job(world, "backfill", "--no-indexes")
    with bench.step("upsert: dual_write", world):
        await upserts.measure_both(world, proxy, load, sizes, results)
    if sizes.explain and results.missed(upserts.PART):
        bench.say("upsert: profile")
        results.profiles["proxy while it writes both stores"] = await profile_proxy(
            world, "upsert", upserts_of(load, _PROFILED_CALLS)
        )
        upserts.clean_up(world, "old", "new")
    return job


async def _must_be_equal(world: World) -> None:
    """Everything above was written through both stores: they must hold the same."""
    done = await run_job(world, "verify")
    differing = sum(done.number(name) for name in ("mismatched", "missing", "extra"))
    if differing:
        raise CrossfadeError(f"After the upserts {differing:.0f} records differ.")


async def _explain_search(world: World, proxy: Serving, bench: Bench) -> None:
    """Say where the time of a search goes; with a profile if a goal was missed."""
    questions, profiles = bench.corpus.questions, bench.results.profiles
    calls = min(_LAYER_CALLS, bench.sizes.near)
    with bench.step("search: layer by layer", world):
        layers = await search_layers(world, proxy, "new", questions, calls)
    profiles["search by the index, layer by layer, p50 ms"] = layers
    if bench.sizes.explain and bench.results.missed(searches.PART):
        bench.say("search: profile")
        work = searches_of([question.vector for question in questions], _PROFILED_CALLS)
        profiles["proxy while it searches by the index"] = await profile_proxy(
            world, "search", work
        )


async def _over_rows(world: World, bench: Bench) -> Peaks:
    """Measure backfill and verify over the repeated corpus."""
    sizes, results = bench.sizes, bench.results
    rows = count(world.dsns.old, "SELECT count(*) FROM doc_embeddings")
    async with serving(world) as proxy:
        await to_phase(proxy, Phase.DUAL_WRITE)
        await copies.prepare(world)
        with bench.step(f"backfill and verify: {rows:,} rows, in turns with the pipe", world):
            job: JobDone = await copies.measure(world, rows, sizes, results)
        memory.reconciler_peak(rows, job.peak_mib, results)
        missed = results.missed(copies.COPY_PART) or results.missed(copies.VERIFY_PART)
        if sizes.explain and missed:
            await _explain_copy(world, bench)
        if sizes.build_index:
            with bench.step(f"index: over {rows:,} rows; this takes minutes", world):
                await copies.build_index(world, rows, results)
    with bench.step(f"memory: the proxy over {rows:,} rows", world):
        peak = await memory.proxy_peak(world, bench.corpus.questions, sizes, rows, results)
    return Peaks(proxy=peak, backfill=job.peak_mib)


async def _explain_copy(world: World, bench: Bench) -> None:
    bench.say("backfill and verify: profile")
    execute(world.dsns.new, "TRUNCATE documents")
    documents = ("--collection", "documents")
    profiles = bench.results.profiles
    profiles["backfill"] = await profile_job(
        world, "backfill", "backfill", *documents, "--no-indexes"
    )
    profiles["verify"] = await profile_job(world, "verify", "verify", *documents)


def _allow_bytecode(cache: Path) -> None:
    """Let child processes keep bytecode as an installed program does, even where it is forbidden.

    Otherwise each start would compile every module anew.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str(cache)
