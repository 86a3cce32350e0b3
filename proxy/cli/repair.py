"""`crossfade repair`: bring every dirty key to the primary's state."""

from __future__ import annotations

import typer

from proxy.cli import jobs
from proxy.cli.local import number
from proxy.cli.session import DEFAULT_CONFIG, ConfigOption, JsonOption, begin, finish


def repair(
    ctx: typer.Context,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    collection: jobs.CollectionsOption = None,
    here: jobs.HereOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy the primary's state of every key that may differ to the secondary.

    A key is dirty when a write did not reach both stores for certain, or when verify found it
    different. What the primary lacks is deleted on the secondary. `crossfade reconcile` does this
    all the time; this command does it once and ends. It runs in this process, or in the proxy
    where that alone may write a store (reconcile.in_proxy).

    Exit code 1 if keys are left that could not be repaired (a dead letter, a missing parent).

    [bold]Examples[/bold]

      crossfade repair

      crossfade verify || crossfade repair && crossfade verify
    """
    from proxy.ledger.types import JobKind

    output = begin(ctx, as_json)
    params = jobs.parameters(collections=list(collection or []))
    job = jobs.run_job(config, JobKind.REPAIR, params, output, here=here)
    jobs.report(job, output, ())
    jobs.explain_interrupted(job, output)
    left = number(job.summary, "left")
    if not output.as_json:
        repaired, deleted = number(job.summary, "repaired"), number(job.summary, "deleted")
        output.say(f"repaired {repaired:,.0f} keys, {deleted:,.0f} of them by deleting")
        if left:
            output.say(f"[red]{left:,.0f} keys could not be repaired[/red]: crossfade status")
    finish(jobs.outcome(job, good=left == 0))
