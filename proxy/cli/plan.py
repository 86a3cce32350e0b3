"""`crossfade plan`: look at both stores and the ledger, and say what a migration would do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.exits import ExitCode
from proxy.cli.output import Output, escaped
from proxy.cli.session import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    begin,
    finish,
    load_config,
    run,
)
from proxy.errors import CrossfadeError

if TYPE_CHECKING:
    from proxy.cli.local import Parts
    from proxy.cli.searches import Offered
    from proxy.config.crosscheck import OneSided
    from proxy.config.loader import Config
    from reconcile.planning import Plan


@dataclass(slots=True)
class Findings:
    """What `plan` found.

    Attributes:
        unreachable: names of stores (or "ledger") that did not answer.
        problems: each with its remedy; any of them makes the exit code 1.
    """

    migration: str
    stores: dict[str, str] = field(default_factory=dict)
    phase: str = ""
    plan: Plan | None = None
    one_sided: Sequence[OneSided] = ()
    searches: Sequence[Offered] = ()
    problems: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    warnings: Sequence[str] = ()
    next_commands: list[str] = field(default_factory=list)


def plan(
    ctx: typer.Context,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", metavar="NAME", help="Print a preset as it ships, and nothing else."
        ),
    ] = "",
    example: Annotated[
        bool,
        typer.Option("--example", help="Print a commented configuration to start from."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration, both stores and the ledger; print what a migration would do.

    Nothing is written to either store. The ledger's own tables (schema crossfade) are created if
    they are not there.

    Exit code 1 if there is a problem, 2 if the configuration is wrong (every error at once, with
    file and line), 3 if something does not answer.

    [bold]Examples[/bold]

      crossfade plan --example > crossfade.yaml

      crossfade plan --preset doc-server

      crossfade plan --config crossfade.yaml
    """
    output = begin(ctx, as_json)
    if preset or example:
        from proxy.config.loader import example as example_text
        from proxy.config.loader import preset_text

        typer.echo(preset_text(preset) if preset else example_text(), nl=False)
        return
    from proxy.telemetry.logs import configure_logs

    loaded = load_config(config, output)
    # What a driver logs of a store that does not answer is a problem of the plan's own, too.
    configure_logs(loaded.settings.telemetry.model_copy(update={"log_level": "error"}))
    found = run(_look(loaded))
    if output.as_json:
        output.json(_document(found))
    else:
        _show(found, output)
    if found.unreachable:
        finish(ExitCode.UNAVAILABLE)
    finish(ExitCode.NO if found.problems else ExitCode.OK)


async def _look(config: Config) -> Findings:
    """Open what answers, and ask it."""
    from proxy.cli.local import make_parts
    from proxy.cli.searches import offered_searches
    from proxy.config.crosscheck import one_sided_fields
    from proxy.config.secrets import redacted_dsn
    from proxy.embedding.build import model_problems

    settings = config.settings
    found = Findings(
        migration=settings.migration,
        warnings=config.warnings,
        one_sided=one_sided_fields(config.old, config.new),
        searches=offered_searches(config),
    )
    parts = make_parts(config, look_ahead=True)
    async with AsyncExitStack() as stack:
        for name, part, its in (
            ("old", parts.stores["old"], settings.old),
            ("new", parts.stores["new"], settings.new),
            ("ledger", parts.ledger, settings.ledger),
        ):
            where = its.dsn or getattr(its, "uri", "")
            found.stores[name] = redacted_dsn(where) or its.engine
            stack.push_async_callback(part.close)
            try:
                await part.open()
            except CrossfadeError as error:
                found.unreachable.append(name)
                found.problems.append(f"{name}: {error}")
        found.problems += model_problems(settings.embedder, config.models)
        await _check(parts, found)
        if not found.problems and found.phase != "new_only":
            await _plan(config, parts, found)
    return found


async def _check(parts: Parts, found: Findings) -> None:
    """Compare each layout with what is really there, and read the phase."""
    for name, store in parts.stores.items():
        if name not in found.unreachable:
            found.problems += [str(problem) for problem in await store.check()]
    if "ledger" not in found.unreachable:
        found.phase = (await parts.ledger.routing()).phase.value


async def _plan(config: Config, parts: Parts, found: Findings) -> None:
    from proxy.server.reconciling import owner_name
    from reconcile.jobs import Reconciler

    worker = Reconciler(parts.stores, parts.ledger, config.settings.reconcile, owner=owner_name())
    try:
        found.plan = await worker.plan()
    except CrossfadeError as error:
        found.problems.append(str(error))
        return
    found.next_commands = _next_commands(found.phase)


def _next_commands(phase: str) -> list[str]:
    """Return what to do from this phase on."""
    steps = {
        "old_only": ["crossfade serve", "crossfade phase dual_write --reason start"],
        "dual_write": [
            "crossfade backfill",
            "crossfade verify",
            "crossfade phase shadow --reason compare",
        ],
        "shadow": ["crossfade report", "crossfade phase ramp --reason 'gate passed'"],
        "ramp": [
            "crossfade traffic 10 --reason ramp",
            "crossfade phase new_primary --reason cutover",
        ],
        "new_primary": ["crossfade verify", "crossfade phase new_only --reason 'no way back'"],
    }
    return steps.get(phase, [])


def _document(found: Findings) -> dict[str, object]:
    return {
        "migration": found.migration,
        "phase": found.phase,
        "stores": found.stores,
        "plan": found.plan.as_json() if found.plan is not None else None,
        "one_sided_fields": list(found.one_sided),
        "searches": {item.collection: item.as_json() for item in found.searches},
        "problems": found.problems,
        "unreachable": found.unreachable,
        "warnings": list(found.warnings),
        "next_commands": found.next_commands,
    }


def _show(found: Findings, output: Output) -> None:
    output.say(
        f"[bold]{found.migration}[/bold]" + (f", phase {found.phase}" if found.phase else "")
    )
    for name, where in found.stores.items():
        output.say(f"  {name:7}{escaped(where)}")
    output.say("")
    if found.plan is not None:
        _show_plan(found.plan, output)
    if found.searches:
        output.table(
            "searches",
            ["collection", "modes", "words in", "text embedded by"],
            [
                [
                    item.collection,
                    ", ".join(item.modes),
                    ", ".join(item.fields),
                    _listed(item.models),
                ]
                for item in found.searches
            ],
        )
    if found.one_sided:
        output.table(
            "fields that one store alone holds",
            ["collection", "field", "store"],
            [[item.collection, item.field, item.store] for item in found.one_sided],
        )
    for problem in found.problems:
        output.say(f"[red]problem[/red] {escaped(problem)}")
    if not found.problems:
        output.say("[green]no problems[/green]")
    for command in found.next_commands:
        output.say(f"next: [bold]{command}[/bold]")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(escaped(name) for name in names) or "-"


def _show_plan(made: Plan, output: Output) -> None:
    from proxy.cli.local import vectorless

    output.table(
        f"backfill from {made.primary} to {made.secondary}",
        [
            "collection",
            ">rows",
            f">in {made.secondary}",
            ">ranges",
            "path",
            "key order",
            "vectors",
        ],
        [
            [
                item.collection,
                item.rows,
                item.secondary_rows,
                len(item.ranges),
                item.path,
                item.order,
                item.vectors,
            ]
            for item in made.collections
        ],
    )
    for item in made.collections:
        told = vectorless(item.collection, item.as_json(), "looked_at")
        if told:
            output.say(f"[yellow]warning[/yellow] {escaped(told)}")
    if made.indexes:
        output.say(f"indexes built after the load: {', '.join(made.indexes)}")
        output.say("")
