"""`crossfade job`: ask the running reconciler for a job, watch it, pause, resume or cancel it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.exits import ExitCode
from proxy.cli.output import Output
from proxy.cli.remote import (
    ActorOption,
    AddressOption,
    ProxyConfigOption,
    Target,
    TlsCaOption,
    TlsCertOption,
    actor_name,
    control,
    proxy_of,
    require_ours,
)
from proxy.cli.session import JsonOption, begin, finish, run
from proxy.errors import Rejected, Violation

if TYPE_CHECKING:
    from crossfade.client.control import ControlClient
    from crossfade.client.control_types import Job


class Action(StrEnum):
    """What to do."""

    LIST = "list"
    BACKFILL = "backfill"
    VERIFY = "verify"
    REPAIR = "repair"
    WATCH = "watch"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


_STARTS = frozenset({Action.BACKFILL, Action.VERIFY, Action.REPAIR})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    action: Action
    number: int
    params: dict[str, object]
    actor: str
    wait: bool


ActionArgument = Annotated[
    Action, typer.Argument(help="backfill, verify and repair ask for a new job.")
]
NumberArgument = Annotated[
    int | None, typer.Argument(metavar="JOB", help="The job's number.", show_default=False)
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter of a new job; the value is JSON or a text. May be given again.",
        show_default=False,
    ),
]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="After asking for a job: watch it to its end.")
]


def job(
    ctx: typer.Context,
    *,
    action: ActionArgument = Action.LIST,
    number: NumberArgument = None,
    param: ParamOption = None,
    wait: WaitOption = False,
    actor: ActorOption = "",
    address: AddressOption = "",
    config: ProxyConfigOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    as_json: JsonOption = False,
) -> None:
    """Command the long-running reconciler through any proxy.

    That is `crossfade reconcile`, or the proxy itself (reconcile.in_proxy). `crossfade backfill`,
    `verify` and `repair` do their work in their own process where they can; this command asks for
    the same jobs to be done elsewhere, and is how a running one is paused. The next pass of a
    continuous verify waits as a requested job: cancel that one to end it.

    Exit code 1 if a watched job did not end well.

    [bold]Examples[/bold]

      crossfade job

      crossfade job verify --param continuous=true --param interval_s=3600

      crossfade job backfill -p 'collections=["documents"]' -p rows_per_s_max=500 --wait

      crossfade job pause 12
    """
    output = begin(ctx, as_json)
    asked = _Request(
        action=action,
        number=_number(action, number),
        params=_params(param or []),
        actor=actor_name(actor),
        wait=wait,
    )
    target = proxy_of(address, config, tls_ca=tls_ca, tls_cert=tls_cert)
    finish(run(_do(target, asked, output)))


def _number(action: Action, number: int | None) -> int:
    needed = action not in _STARTS and action is not Action.LIST
    if needed == (number is not None):
        return number or 0
    expected = "the number of a job" if needed else "no number"
    problem = Violation(where="JOB", expected=f"{expected} for `crossfade job {action.value}`")
    raise Rejected("The command is incomplete.", violations=(problem,))


def _params(given: list[str]) -> dict[str, object]:
    params: dict[str, object] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not name:
            problem = Violation(where="--param", expected="NAME=VALUE", got=repr(item))
            raise Rejected("A parameter is wrong.", violations=(problem,))
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


async def _do(target: Target, asked: _Request, output: Output) -> ExitCode:
    from crossfade.client.control_types import JobAction, JobKind

    async with control(target) as client:
        if asked.action is Action.LIST:
            _show(await client.jobs(), output)
            return ExitCode.OK
        if asked.action is Action.WATCH:
            return await _watch(client, asked.number, output)
        await require_ours(client, target)
        if asked.action in _STARTS:
            kind = JobKind(asked.action.value)
            made = await client.start_job(kind, asked.params, actor=asked.actor)
            if asked.wait:
                return await _watch(client, made.job_id, output)
            changed = made
        else:
            wish = JobAction(asked.action.value)
            changed = await client.control_job(asked.number, wish, actor=asked.actor)
    if output.as_json:
        output.json(changed)
    output.say(
        f"job {changed.job_id} ({changed.kind.value}): {changed.state.value},"
        f" wanted {changed.wanted.value}"
    )
    return ExitCode.OK


async def _watch(client: ControlClient, number: int, output: Output) -> ExitCode:
    """Follow a job to its end: a progress bar, or with --json one line at each change."""
    from proxy.cli.local import JobBar

    last: Job | None = None
    with JobBar(f"job {number}", output) as bar:
        async for seen in client.watch_job(number):
            last = seen
            bar.show(seen.summary)
            if output.as_json:
                output.line(seen)
    if last is None:
        return ExitCode.NO
    output.say(f"job {last.job_id} ({last.kind.value}): {last.state.value} {last.error}".rstrip())
    return ExitCode.OK if last.state.value == "done" else ExitCode.NO


def _show(jobs: list[Job], output: Output) -> None:
    from proxy.cli.status import job_row

    if output.as_json:
        output.json(jobs)
    output.table("jobs", ["job", "kind", "state", ">rows", "outcome"], map(job_row, jobs))
