"""What backfill, verify and repair share: options, running a job here, showing its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.exits import ExitCode
from proxy.cli.local import mapping, number
from proxy.cli.output import Output, escaped

if TYPE_CHECKING:
    from proxy.config.loader import Config
    from proxy.ledger.types import Job, JobKind
    from proxy.model import JsonValue

CollectionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--collection",
        metavar="NAME",
        help="Only this collection; may be given again. Default: all.",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Ranges at a time (default: reconcile.workers)."),
]
RowsPerSecondOption = Annotated[
    float | None,
    typer.Option("--rows-per-s", help="At most so many rows a second, 0 for no limit."),
]
BytesPerSecondOption = Annotated[
    float | None,
    typer.Option("--bytes-per-s", help="At most so many bytes a second, 0 for no limit."),
]
LatencyOption = Annotated[
    float | None,
    typer.Option(
        "--primary-latency-ms", help="Slow down while the primary answers slower than this."
    ),
]
HereOption = Annotated[
    bool,
    typer.Option(
        "--here",
        help="Work in this process although the proxy lives or went down a moment ago. Where one"
        " process alone may write a store (LanceDB) no proxy starts before this command has ended.",
    ),
]


def parameters(**given: JsonValue) -> dict[str, JsonValue]:
    """Return a job's parameters: those options that were given."""
    return {
        name: value
        for name, value in given.items()
        if value is not None and value is not False and value != []
    }


def run_job(
    config: Path,
    kind: JobKind,
    params: Mapping[str, JsonValue],
    output: Output,
    *,
    here: bool = False,
) -> Job:
    """Run a job and return it as it ended.

    It runs in this process, or in the proxy where that one alone may write a store and answers.

    Args:
        here: in this process too where that proxy went down a moment ago.
    """
    from proxy.cli.session import load_config, run
    from proxy.telemetry.logs import configure_logs

    loaded = load_config(config, output)
    configure_logs(loaded.settings.telemetry.model_copy(update={"log_level": "warning"}))
    return run(_run(loaded, kind, params, output, here=here))


async def _run(
    config: Config, kind: JobKind, params: Mapping[str, JsonValue], output: Output, *, here: bool
) -> Job:
    from proxy.cli import hosted, local

    target = await hosted.reconciling_proxy(config)
    if target is not None:
        return await hosted.run_job(config, target, kind, params, output)
    await hosted.require_free(config, here=here)
    return await local.run_job(config, kind, params, output)


def report(job: Job, output: Output, counts: tuple[str, ...]) -> None:
    """Print a job that has ended: one JSON document, or a table by collection."""
    if output.as_json:
        output.json(job)
        return
    summary = job.summary
    rate, elapsed = number(summary, "rate_rows_per_s"), number(summary, "elapsed_s")
    output.say(
        f"{job.kind.value} job {job.job_id}: [bold]{job.state.value}[/bold], "
        f"{number(summary, 'rows'):,.0f} rows in {elapsed:,.1f} s ({rate:,.0f} rows/s)"
    )
    if job.error:
        output.say(f"[red]{escaped(job.error)}[/red]")
    collections = mapping(summary, "collections")
    rows = [
        [name, *(int(number(item, count)) for count in counts)]
        for name, item in collections.items()
        if isinstance(item, Mapping)
    ]
    if rows:
        columns = [f">{count.replace('_', ' ')}" for count in counts]
        output.table("", ["collection", *columns], rows)


def outcome(job: Job, *, good: bool) -> ExitCode:
    """Return the exit code of a job that has ended."""
    from proxy.ledger.types import JobState

    if job.state in (JobState.REQUESTED, JobState.PAUSED):
        return ExitCode.INTERRUPTED
    return ExitCode.OK if good and job.state is JobState.DONE else ExitCode.NO


def explain_interrupted(job: Job, output: Output) -> None:
    """Say that a job that was stopped goes on where it was."""
    from proxy.ledger.types import JobState

    if job.state is JobState.REQUESTED:
        output.note(
            f"stopped here: job {job.job_id} keeps its place; the same command goes on from there."
            " A running reconciler goes on at once, by itself: `crossfade job pause"
            f" {job.job_id}` stops it everywhere"
        )
    if job.state is JobState.PAUSED:
        output.note(
            f"paused: job {job.job_id} keeps its place; `crossfade job resume {job.job_id}`, or the"
            " same command while the proxy reconciles, goes on from there"
        )
