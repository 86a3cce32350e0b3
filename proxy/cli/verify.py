"""`crossfade verify`: compare every record on both stores, beside live traffic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import jobs
from proxy.cli.local import number
from proxy.cli.output import Output, escaped
from proxy.cli.session import DEFAULT_CONFIG, ConfigOption, JsonOption, begin, finish

if TYPE_CHECKING:
    from proxy.ledger.types import Job

_COUNTS = ("matched", "mismatched", "missing", "extra", "in_flight")


def verify(
    ctx: typer.Context,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    collection: jobs.CollectionsOption = None,
    report_only: Annotated[
        bool,
        typer.Option("--report-only", help="Only report; do not queue differences for repair."),
    ] = False,
    workers: jobs.WorkersOption = None,
    rows_per_s: jobs.RowsPerSecondOption = None,
    here: jobs.HereOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every record: key, every mapped field, and the vector's exact bytes.

    Equal ranges cost no transfer (digests are made where the data lies); a differing range is
    split until its records are named. A difference counts only if the key had no write under way
    and still differs on a second read. Each differing key is queued for repair.

    Where the secondary's vectors are made by another model none may be lacking, and of a sample
    (1 %, at least 20 of each range) the text is embedded again and compared.

    Runs in this process, or in the proxy where that alone may write a store; see backfill.

    missing: only on the primary. extra: only on the secondary. in flight:
    being written meanwhile, or dirty and waiting for repair; not a difference.

    Exit code 1 if anything differs. A verify of all collections is what the next phase asks for.

    [bold]Examples[/bold]

      crossfade verify

      crossfade verify --report-only --json | jq .summary.samples
    """
    from proxy.ledger.types import JobKind

    output = begin(ctx, as_json)
    params = jobs.parameters(
        collections=list(collection or []),
        report_only=report_only,
        workers=workers,
        rows_per_s_max=rows_per_s,
    )
    job = jobs.run_job(config, JobKind.VERIFY, params, output, here=here)
    jobs.report(job, output, _COUNTS)
    jobs.explain_interrupted(job, output)
    differences = sum(number(job.summary, name) for name in ("mismatched", "missing", "extra"))
    if not output.as_json:
        _say_differences(job, output, int(differences), report_only)
    finish(jobs.outcome(job, good=differences == 0))


def _say_differences(job: Job, output: Output, differences: int, report_only: bool) -> None:
    moving = int(number(job.summary, "in_flight"))
    if moving:
        output.say(f"{moving:,} records were being written, or wait for repair: not compared")
    if not differences:
        if job.state.value == "done":
            what = "all others are equal" if moving else "both stores are equal"
            output.say(f"[green]{what}[/green]")
        return
    samples = job.summary.get("samples", [])
    for item in samples if isinstance(samples, list) else []:
        if isinstance(item, Mapping):
            output.say(escaped(difference_text(item)))
    queued = (
        "not queued (--report-only)" if report_only else "queued: [bold]crossfade repair[/bold]"
    )
    output.say(f"[red]{differences:,} records differ[/red]; {queued}")


def difference_text(item: Mapping[str, object]) -> str:
    """Return one difference on one line: what, which key, and the two values of each field."""
    detail = item.get("detail")
    parts = []
    for name, pair in detail.items() if isinstance(detail, Mapping) else ():
        if isinstance(pair, list | tuple) and len(pair) == 2:
            parts.append(f"{name}: {pair[0]!r} / {pair[1]!r}")
    shown = f" ({'; '.join(parts)})" if parts else ""
    return f"  {item.get('kind')} {item.get('collection')} {item.get('key')}{shown}"
