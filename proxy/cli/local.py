"""Commands that work from --config in this process: stores, ledger, a reconciler, its progress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from proxy.cli.output import Output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from proxy.config.loader import Config
    from proxy.ledger.base import Ledger
    from proxy.ledger.types import Job, JobKind
    from proxy.model import JsonValue
    from proxy.stores.base import Store
    from reconcile.jobs import Reconciler, Tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The two stores by name, and the ledger."""

    stores: dict[str, Store]
    ledger: Ledger


def make_parts(config: Config, *, look_ahead: bool = False) -> Parts:
    """Return stores and ledger of a configuration, not open yet.

    Args:
        look_ahead: the stores are only looked at (`proxy.server.build.build_store`).
    """
    from proxy.clock import SystemClock
    from proxy.server.build import build_ledger, build_store

    settings, clock = config.settings, SystemClock()
    return Parts(
        stores={
            name: build_store(name, its, schema, clock, look_ahead=look_ahead)
            for name, its, schema in (
                ("old", settings.old, config.old),
                ("new", settings.new, config.new),
            )
        },
        ledger=build_ledger(settings, clock),
    )


@asynccontextmanager
async def reconciler(
    config: Config,
    tools: Tools | None = None,
    *,
    owner: str = "",
    wrap: Callable[[Store], Store] | None = None,
    embed: bool = True,
) -> AsyncIterator[Reconciler]:
    """Open stores and ledger and hand out a reconciler; everything is closed at the end.

    Args:
        owner: names this process in the ledger, "" for a name of its own.
        wrap: puts something around each store (telemetry).
        embed: models are loaded where the two stores hold different vectors.

    Raises:
        Unavailable: a store or the ledger does not answer; the message says which.
        Corrupt: the ledger's schema has another version.
        ConfigInvalid: a model, or what it needs, is missing.
    """
    from proxy.clock import SystemClock
    from proxy.server.embedding import open_embedder
    from proxy.server.reconciling import owner_name
    from reconcile.jobs import Reconciler, Tools

    async with AsyncExitStack() as stack:
        tools = tools or Tools()
        if embed and makes_vectors(config):
            # Before any engine is loaded: some of them do not like to see a process begun.
            embedder = await open_embedder(config, SystemClock())
            if embedder is not None:
                stack.push_async_callback(embedder.close)
                tools = replace(tools, embedder=embedder)
        parts = make_parts(config)
        stack.push_async_callback(parts.ledger.close)
        await parts.ledger.open()
        for store in parts.stores.values():
            stack.push_async_callback(store.close)
            await store.open()
        stores = parts.stores
        if wrap is not None:
            stores = {name: wrap(store) for name, store in stores.items()}
        yield Reconciler(
            stores,
            parts.ledger,
            config.settings.reconcile,
            owner=owner or owner_name(),
            tools=tools,
        )


def makes_vectors(config: Config) -> bool:
    """True if a copy in either direction makes vectors from texts."""
    from proxy.vectors import VectorPath
    from reconcile.ranges import scope_of

    return any(
        scope_of(name, here, there).path is VectorPath.EMBEDDED
        for name in config.collections
        for here, there in ((config.old, config.new), (config.new, config.old))
    )


async def run_job(
    config: Config, kind: JobKind, params: Mapping[str, JsonValue], output: Output
) -> Job:
    """Run one job to its end in this process, with a progress bar for people.

    SIGTERM stops it after the batch under way and leaves it for the next run, as Ctrl-C does.
    """
    from proxy.cli.session import until_stopped

    with JobBar(kind.value, output) as bar:
        async with reconciler(config, embed=not params.get("dry_run")) as worker:
            job = await until_stopped(worker.run_once(kind, params, bar.update), stop=worker.stop)
    if job is None:
        raise KeyboardInterrupt
    return job


class JobBar(AbstractContextManager["JobBar"]):
    """A progress bar on standard error that follows a job's summary; nothing with --json."""

    def __init__(self, title: str, output: Output) -> None:
        self._title = title
        self._quiet = output.as_json
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> JobBar:
        if self._quiet:
            return self
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._progress.start()
        self._task = self._progress.add_task(self._title, total=0, rate="")
        return self

    def update(self, job: Job) -> None:
        """Show a job's progress."""
        self.show(job.summary)

    def show(self, summary: Mapping[str, JsonValue]) -> None:
        """Show the progress that a summary tells."""
        if self._progress is None or self._task is None:
            return
        rate, eta = number(summary, "rate_rows_per_s"), summary.get("eta_s")
        left = f", {eta:.0f} s left" if isinstance(eta, int | float) and eta else ""
        stage = str(summary.get("stage", ""))
        self._progress.update(
            self._task,
            description=f"{self._title}: {stage}" if stage else self._title,
            completed=number(summary, "rows"),
            total=number(summary, "rows_total"),
            rate=f"{rate:,.0f} rows/s{left}" if rate else "",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def number(summary: Mapping[str, JsonValue], name: str) -> float:
    """Return a number of a summary, 0 if it is not there."""
    value = summary.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0


def vectorless(collection: str, summary: Mapping[str, JsonValue], looked_at: str) -> str:
    """Say how many of the records looked at have a text and no vector, "" for none."""
    count = number(summary, "no_vector")
    if not count:
        return ""
    return (
        f"{collection}: {count:,.0f} of {number(summary, looked_at):,.0f} records looked at have a"
        " text and no vector: text searches will not find them, before the cutover or after it."
        " A write through the proxy that gives every field of the template, even unchanged, makes"
        " the vector"
    )


def mapping(summary: Mapping[str, JsonValue], name: str) -> Mapping[str, JsonValue]:
    """Return an object of a summary, {} if it is not there."""
    value = summary.get(name)
    return value if isinstance(value, Mapping) else {}
