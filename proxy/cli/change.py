"""What `phase` and `traffic` share: printing a change with its preconditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.cli.exits import ExitCode
from proxy.cli.output import Output, escaped
from proxy.errors import Rejected, Violation

if TYPE_CHECKING:
    from crossfade.client.control_types import Change


def require_reason(force: bool, reason: str) -> None:
    """Raise Rejected if a forced change has no reason."""
    if force and not reason:
        raise Rejected(
            "A forced change needs a reason.",
            violations=(Violation(where="--reason", expected="why this is forced"),),
        )


def show_change(change: Change, output: Output, *, dry_run: bool) -> ExitCode:
    """Print a change and return the exit code: 0 if it was applied, or would be."""
    passed = all(item.passed for item in change.preconditions)
    code = ExitCode.OK if (passed if dry_run else change.applied) else ExitCode.NO
    if output.as_json:
        output.json(change)
        return code
    if change.preconditions:
        output.table(
            "preconditions",
            ["met", "condition", "detail"],
            [
                [item.passed, escaped(item.name), escaped(item.detail)]
                for item in change.preconditions
            ],
        )
    for item in change.preconditions:
        if not item.passed and item.remedy:
            output.say(f"{escaped(item.name)}: {escaped(item.remedy)}")
    routing = change.routing
    colour = "green" if code is ExitCode.OK else "red"
    if change.message:
        output.say(f"[{colour}]{escaped(change.message)}[/{colour}]")
    output.say(
        f"phase [bold]{routing.phase.value}[/bold], primary {routing.primary},"
        f" {routing.traffic_percent:g} % of reads to new, epoch {routing.epoch}"
    )
    if change.stall_ms:
        output.say(f"writes were held for {change.stall_ms:,.0f} ms")
    return code
