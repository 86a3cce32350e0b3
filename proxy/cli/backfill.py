"""`crossfade backfill`: copy what the new store lacks, resumable, beside live traffic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import jobs
from proxy.cli.exits import ExitCode
from proxy.cli.local import mapping, number, vectorless
from proxy.cli.output import Output, escaped
from proxy.cli.session import DEFAULT_CONFIG, ConfigOption, JsonOption, begin, finish

if TYPE_CHECKING:
    from proxy.ledger.types import Job

_COUNTS = ("rows_total", "rows", "copied", "dead_letters")


DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Write nothing; report what it would do and what would not convert."
    ),
]
FullOption = Annotated[
    bool, typer.Option("--full", help="With --dry-run: convert every record, not a sample.")
]
IndexesOption = Annotated[
    bool,
    typer.Option("--indexes/--no-indexes", help="Build the new store's indexes after the load."),
]


def backfill(
    ctx: typer.Context,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    collection: jobs.CollectionsOption = None,
    dry_run: DryRunOption = False,
    full: FullOption = False,
    indexes: IndexesOption = True,
    workers: jobs.WorkersOption = None,
    rows_per_s: jobs.RowsPerSecondOption = None,
    bytes_per_s: jobs.BytesPerSecondOption = None,
    primary_latency_ms: jobs.LatencyOption = None,
    here: jobs.HereOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy every record from the primary to the secondary, then build indexes.

    Runs in this process, beside live traffic, from phase dual_write on; where the proxy alone may
    write a store (reconcile.in_proxy) the proxy at listen.address runs it, and this command
    watches, and is refused (exit code 3) for five minutes after that proxy went down, unless
    --here is given. Ranges and checkpoints are in the ledger: after Ctrl-C, or kill -9, the same
    command goes on where it was and skips nothing; a running `crossfade reconcile` goes on at once,
    by itself. To stop the load everywhere: `crossfade job pause NUMBER`.

    A record that cannot be converted becomes a dead letter with its reason, and blocks the cutover
    until it is resolved. Vectors are copied, or embedded anew where the two stores hold those of
    different models; `crossfade plan` and --dry-run say which.

    Exit code 1 if the job failed or there are dead letters (a dry run: records that would be).

    [bold]Examples[/bold]

      crossfade backfill --dry-run --full        which records would not convert?

      crossfade backfill --rows-per-s 2000       gently

      crossfade backfill --collection documents --workers 4
    """
    from proxy.ledger.types import JobKind

    output = begin(ctx, as_json)
    params = jobs.parameters(
        collections=list(collection or []),
        dry_run=dry_run,
        full=full,
        workers=workers,
        rows_per_s_max=rows_per_s,
        bytes_per_s_max=bytes_per_s,
        primary_latency_ms_max=primary_latency_ms,
    )
    if not indexes:
        params["build_indexes"] = False
    job = jobs.run_job(config, JobKind.BACKFILL, params, output, here=here)
    if dry_run:
        _report_trial(job, output)
        finish(jobs.outcome(job, good=number(job.summary, "unconvertible") == 0))
        return
    finish(_report(job, output))


def _report(job: Job, output: Output) -> ExitCode:
    """Print what a backfill did and return the exit code."""
    jobs.report(job, output, _COUNTS)
    jobs.explain_interrupted(job, output)
    letters = number(job.summary, "dead_letters")
    if letters:
        output.say(f"[red]{letters:,.0f} records could not be converted[/red]: crossfade status")
    elif job.state.value == "done":
        output.say("next: [bold]crossfade verify[/bold]")
    return jobs.outcome(job, good=letters == 0)


def _report_trial(job: Job, output: Output) -> None:
    """Print what a dry run found."""
    if output.as_json:
        output.json(job)
        return
    collections = mapping(job.summary, "collections")
    parts = {name: item for name, item in collections.items() if isinstance(item, Mapping)}
    output.table(
        "dry run: nothing was written",
        ["collection", ">rows", ">ranges", "path", "vectors", ">checked", ">would not convert"],
        [
            [
                name,
                int(number(item, "rows_total")),
                int(number(item, "ranges")),
                item.get("path", ""),
                item.get("vectors", ""),
                int(number(item, "checked")),
                int(number(item, "unconvertible")),
            ]
            for name, item in parts.items()
        ],
    )
    for name, item in parts.items():
        told = vectorless(name, item, "checked")
        if told:
            output.say(f"[yellow]warning[/yellow] {escaped(told)}")
        samples = item.get("samples", [])
        for sample in samples if isinstance(samples, list) else []:
            if isinstance(sample, Mapping):
                reason = escaped(f"{sample.get('key')}: {sample.get('reason')}")
                output.say(f"  {name} {reason}")
    if job.error:
        output.say(f"[red]{escaped(job.error)}[/red]")
