"""What all commands share: the top-level error handler, common options, running async code."""

from __future__ import annotations

import asyncio
import signal
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from proxy.cli.exits import ExitCode, exit_code
from proxy.cli.output import Output, error_document, error_text
from proxy.errors import CrossfadeError

if TYPE_CHECKING:
    from proxy.config.loader import Config

T = TypeVar("T")


@dataclass(slots=True)
class Session:
    """One run of the command: how to report errors, and where output goes."""

    debug: bool = False
    output: Output = field(default_factory=Output)


class CrossfadeGroup(TyperGroup):
    """Turns a CrossfadeError into one clear message and an exit code. (typer asks for a class.)"""

    def invoke(self, ctx: Any) -> Any:  # typer's own types
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (CrossfadeError, ExceptionGroup) as raised:
            error = only_error(raised)
            if error is None:
                raise
            session = ctx.find_object(Session) or Session()
            code = exit_code(error)
            if session.output.as_json:
                session.output.json(error_document(error, code))
            session.output.note(error_text(error))
            if session.debug:
                session.output.note("".join(traceback.format_exception(raised)))
            raise typer.Exit(int(code)) from raised


def only_error(raised: CrossfadeError | ExceptionGroup[Exception]) -> CrossfadeError | None:
    """Return the error to report; None if a group holds anything that is not Crossfade's own."""
    if isinstance(raised, CrossfadeError):
        return raised
    foreign = raised.split(CrossfadeError)[1]
    first: BaseException = raised
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if foreign is None and isinstance(first, CrossfadeError) else None


ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="CROSSFADE_CONFIG",
        help="The configuration file (YAML).",
        show_default=True,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of tables.")
]
DEFAULT_CONFIG = Path("crossfade.yaml")


def begin(ctx: typer.Context, as_json: bool) -> Output:
    """Return where this command prints."""
    session = ctx.ensure_object(Session)
    session.output.as_json = as_json
    return session.output


def load_config(path: Path, output: Output) -> Config:
    """Load the configuration; warnings go to standard error.

    Raises:
        ConfigInvalid: every problem at once.
    """
    from proxy.config.loader import load

    config = load(path)
    for warning in config.warnings:
        output.note(f"warning: {warning}")
    return config


def finish(code: ExitCode) -> None:
    """End the command with this exit code."""
    if code is not ExitCode.OK:
        raise typer.Exit(int(code))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run async code to its end; the first Ctrl-C cancels it in order.

    Raises:
        KeyboardInterrupt: it was interrupted (exit code 130).
    """
    import uvloop

    return uvloop.run(work)


async def until_stopped(
    work: Coroutine[Any, Any, T], *, stop: Callable[[], None] | None = None
) -> T | None:
    """Run a service until it ends or SIGTERM or SIGINT comes.

    Args:
        stop: asks the work to end by itself; without it the work is cancelled. A second signal
            cancels in any case.

    Returns:
        What the work returned, None if it was stopped.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    asked = False

    def on_signal() -> None:
        nonlocal asked
        if asked or stop is None:
            task.cancel()
        else:
            stop()
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        if not asked:
            raise
        return None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
