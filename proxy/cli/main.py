"""The `crossfade` command: one small file a subcommand; heavy imports wait until one runs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Annotated

import typer

from proxy.cli.backfill import backfill
from proxy.cli.demo import demo
from proxy.cli.exits import EXIT_HELP
from proxy.cli.job import job
from proxy.cli.phase import phase
from proxy.cli.plan import plan
from proxy.cli.reconcile import reconcile
from proxy.cli.repair import repair
from proxy.cli.report import report
from proxy.cli.serve import serve
from proxy.cli.session import CrossfadeGroup, Session
from proxy.cli.status import status
from proxy.cli.traffic import traffic
from proxy.cli.verify import verify

app = typer.Typer(
    name="crossfade",
    cls=CrossfadeGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Move live traffic from one document store to another: no downtime, no lost write.\n\n"
    "A migration: plan, serve, phase dual_write, backfill, verify, phase shadow, report, "
    "phase ramp, traffic 10 ... 100, phase new_primary; and back by the same commands.",
    epilog=EXIT_HELP,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"crossfade {version('crossfade')}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="CROSSFADE_DEBUG", help="Show the stack trace of an error."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Keep what belongs to every command."""
    # gRPC's own care for forks hangs a child for ever if calls are under way, and the parent, which
    # waits until it has become another program, with it. Ours always do; gRPC reads this once,
    # when it is imported.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    ctx.obj = Session(debug=debug)


def reflowed(text: str) -> str:
    """Join the lines of each paragraph, so that the terminal's width breaks them; examples stay."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if part.startswith(" ") else " ".join(part.split("\n")) for part in paragraphs
    )


def _add(panel: str, *commands: Callable[..., None]) -> None:
    """Register commands; the parameters of a command function are its options."""
    for command in commands:
        text = reflowed(inspect.cleandoc(command.__doc__ or ""))
        app.command(rich_help_panel=panel, epilog=EXIT_HELP, help=text)(command)


_add("See", status, plan, report)
_add("Run", serve, reconcile, demo)
_add("Move", phase, traffic)
_add("Bring together", backfill, verify, repair, job)


def run() -> None:
    """Run the command; the entry point of the console script."""
    app()


if __name__ == "__main__":
    run()
