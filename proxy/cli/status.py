"""`crossfade status`: everything an operator looks at first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.exits import ExitCode
from proxy.cli.output import Output, escaped
from proxy.cli.remote import (
    AddressOption,
    ProxyConfigOption,
    Target,
    TlsCaOption,
    TlsCertOption,
    control,
    healthy,
    proxy_of,
)
from proxy.cli.session import JsonOption, begin, finish, run

if TYPE_CHECKING:
    from crossfade.client.control_types import DeadLetter, DirtyKey, Job, Status


def status(
    ctx: typer.Context,
    *,
    address: AddressOption = "",
    config: ProxyConfigOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    health: Annotated[
        bool,
        typer.Option("--health", help="Only ask whether this replica takes calls (for probes)."),
    ] = False,
    keys: Annotated[
        int,
        typer.Option("--keys", min=0, max=1000, help="Show so many dirty keys and dead letters."),
    ] = 5,
    as_json: JsonOption = False,
) -> None:
    """Show phase, stores, replicas, dirty keys, jobs, indexes, and what to do next.

    Exit code 1 if a store that the phase uses is unhealthy; with --health, if this replica does not
    take calls; 3 if nobody answers.

    [bold]Examples[/bold]

      crossfade status

      crossfade status --json | jq .routing.phase

      crossfade status --health --address 127.0.0.1:50051
    """
    output = begin(ctx, as_json)
    target = proxy_of(address, config, tls_ca=tls_ca, tls_cert=tls_cert)
    if health:
        serving = run(healthy(target))
        if as_json:
            output.json({"serving": serving})
        output.say("serving" if serving else "not serving")
        finish(ExitCode.OK if serving else ExitCode.NO)
        return
    found, dirty, letters = run(_ask(target, keys))
    if as_json:
        output.json({**_as_dict(found), "dirty_keys": dirty, "dead_letter_list": letters})
    else:
        _show(found, output)
        _show_keys(dirty, letters, output)
    finish(ExitCode.OK if well(found) else ExitCode.NO)


def well(found: Status) -> bool:
    """True if every store is healthy that the phase uses: new_only has done with the old one."""
    alone = found.routing.phase.value == "new_only"
    return all(item.healthy for item in found.stores if item.name == "new" or not alone)


async def _ask(target: Target, keys: int) -> tuple[Status, list[DirtyKey], list[DeadLetter]]:
    async with control(target) as client:
        found = await client.status()
        dirty: list[DirtyKey] = []
        for name, count in found.dirty.items():
            if count and keys:
                dirty += await client.dirty_keys(name, limit=keys)
        letters = await client.dead_letters(limit=keys) if found.dead_letters and keys else []
    return found, dirty, letters


def _as_dict(found: Status) -> dict[str, object]:
    import dataclasses

    return {item.name: getattr(found, item.name) for item in dataclasses.fields(found)}


def _show(found: Status, output: Output) -> None:
    routing = found.routing
    held = ", [yellow]writes held[/yellow]" if routing.hold else ""
    output.say(
        f"[bold]{found.migration}[/bold]: phase [bold]{routing.phase.value}[/bold], primary"
        f" {routing.primary}, {routing.traffic_percent:g} % of reads to new,"
        f" epoch {routing.epoch}{held}"
    )
    dirty = sum(found.dirty.values())
    output.say(
        f"unsettled {found.unsettled:,}, dirty {dirty:,}, dead letters {found.dead_letters:,}"
    )
    for name, value in found.flags.items():
        if value is True:
            output.say(f"[yellow]{name.replace('_', ' ')}[/yellow]")
    output.say("")
    output.table(
        "stores",
        ["name", "role", "engine", "healthy", "breaker", ">ms", "detail"],
        [
            [s.name, s.role, s.engine, s.healthy, s.breaker, s.latency_ms, escaped(s.detail)]
            for s in found.stores
        ],
    )
    output.table(
        "replicas",
        ["replica", "address", "alive", ">epoch", ">lease left s"],
        [
            [r.replica_id, r.address, r.alive, r.acked_epoch, max(0.0, r.lease_left_s)]
            for r in found.replicas
            if r.alive or not r.clean_exit
        ],
    )
    if found.jobs:
        output.table("jobs", ["job", "kind", "state", ">rows", "outcome"], map(job_row, found.jobs))
    if found.indexes:
        output.table(
            "indexes",
            ["collection", "index", "exists", "ready", "detail"],
            [[i.collection, i.name, i.exists, i.ready, escaped(i.detail)] for i in found.indexes],
        )
    for step in found.next_steps:
        output.say(f"next: {escaped(step)}")


def job_row(job: Job) -> list[object]:
    """Return a job as a row of a table."""
    summary = job.summary
    parts = [
        f"{name.replace('_', ' ')} {summary[name]:,}"
        for name in ("mismatched", "missing", "extra", "dead_letters", "repaired")
        if isinstance(summary.get(name), int) and summary[name]
    ]
    what = escaped(job.error) or ", ".join(parts) or str(summary.get("stage", ""))
    rows = summary.get("rows", 0)
    done = int(rows) if isinstance(rows, int | float) else 0
    kind = f"{job.kind.value} (dry run)" if job.params.get("dry_run") else job.kind.value
    return [str(job.job_id), kind, job.state.value, done, what]


def _show_keys(dirty: list[DirtyKey], letters: list[DeadLetter], output: Output) -> None:
    if dirty:
        output.table(
            "dirty keys (a sample)",
            ["collection", "key", "reason", "since"],
            [
                [d.collection, escaped(str(list(d.key))), escaped(d.reason), d.since.isoformat()]
                for d in dirty
            ],
        )
    if letters:
        output.table(
            "dead letters (a sample)",
            ["collection", "key", "reason"],
            [[d.collection, escaped(str(list(d.key))), escaped(d.reason)] for d in letters],
        )
