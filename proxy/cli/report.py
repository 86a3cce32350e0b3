"""`crossfade report`: what shadow reads have found, and the event log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.exits import ExitCode
from proxy.cli.output import Output, escaped, plain
from proxy.cli.remote import (
    AddressOption,
    ProxyConfigOption,
    Target,
    TlsCaOption,
    TlsCertOption,
    control,
    proxy_of,
)
from proxy.cli.session import JsonOption, begin, finish, run
from proxy.errors import ConfigInvalid, Rejected, Violation

if TYPE_CHECKING:
    from crossfade.client.control_types import Event


def report(
    ctx: typer.Context,
    *,
    address: AddressOption = "",
    config: ProxyConfigOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the report here: a .html page with charts, or a .json file.",
            show_default=False,
        ),
    ] = None,
    events: Annotated[
        int, typer.Option("--events", min=0, max=1000, help="Show the last so many events.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show how the other store's answers differ from those that were served, and why.

    Differences are attributed: in flight, ties and known semantics are excused; missing, stale and
    vector differences tolerate zero. The gate is what the ramp asks for.

    Exit code 1 if the gate has not passed.

    [bold]Examples[/bold]

      crossfade report

      crossfade report --out report.html

      crossfade report --events 20
    """
    output = begin(ctx, as_json)
    if out is not None and out.suffix not in (".html", ".json"):
        expected = "a file name that ends in .html or .json"
        problem = Violation(where="--out", expected=expected, got=str(out))
        raise Rejected("The command is wrong.", violations=(problem,))
    target = proxy_of(address, config, tls_ca=tls_ca, tls_cert=tls_cert)
    found, log = run(_ask(target, events))
    if out is not None:
        _write(out, found)
        output.note(f"wrote {out}")
    if as_json:
        output.json({**found, "events": log} if events else found)
    elif out is None:
        _show(found, output)
    _show_events(log, output)
    finish(ExitCode.OK if _part(found, "gate").get("passed") else ExitCode.NO)


async def _ask(target: Target, events: int) -> tuple[Mapping[str, Any], Sequence[Event]]:
    async with control(target) as client:
        found = await client.shadow_report()
        log: list[Event] = []
        while events:
            page = await client.events(limit=1000, after=log[-1].event_id if log else 0)
            log = [*log, *page][-events:]
            if len(page) < 1000:
                break
    return found, log


def _write(out: Path, found: Mapping[str, Any]) -> None:
    if out.suffix == ".html":
        from shadow.report import render_shadow_report

        text = render_shadow_report(found)
    else:
        text = json.dumps(plain(found), indent=2, ensure_ascii=False) + "\n"
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigInvalid(f"cannot write {out}: {error.strerror or error}", ()) from error


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def _show(found: Mapping[str, Any], output: Output) -> None:
    reads, total, gate = (_part(found, name) for name in ("reads", "total", "gate"))
    output.say(
        f"[bold]{found.get('migration', '')}[/bold]: {reads.get('observed', 0):,} reads observed,"
        f" {total.get('queries', 0):,} compared, {total.get('identical', 0):,} identical"
    )
    output.say("")
    output.table(
        "gate",
        ["met", "condition", "detail"],
        [
            [
                bool(item.get("passed")),
                escaped(str(item.get("name"))),
                escaped(str(item.get("detail"))),
            ]
            for item in gate.get("conditions", [])
        ],
    )
    output.table(
        "by collection",
        ["collection", "kind", "to", ">compared", ">identical", ">overlap", ">p95 ratio"],
        [
            [
                item.get("collection"),
                item.get("kind"),
                item.get("candidate"),
                item.get("queries", 0),
                item.get("identical", 0),
                _share(_part(item, "overlap_excused").get("mean")),
                _share(_part(item, "latency").get("p95_ratio")),
            ]
            for item in found.get("groups", [])
        ],
    )
    causes = _part(_part(total, "differences"), "causes")
    if any(causes.values()):
        rows = [[name, count] for name, count in causes.items() if count]
        output.table("differing ids by cause", ["cause", ">ids"], rows)
    known = _part(total, "known_differences")
    if known:
        rows = [[escaped(reason), known[reason]] for reason in sorted(known)]
        output.table("known differences, excused", ["reason", ">ids"], rows)
    by_rank = _part(total, "by_rank")
    if by_rank:
        rows = [[escaped(reason), by_rank[reason]] for reason in sorted(by_rank)]
        output.table("ranks compared, not scores", ["reason", ">queries"], rows)
    output.say("more: [bold]crossfade report --out report.html[/bold]")


def _share(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _show_events(log: Sequence[Event], output: Output) -> None:
    if log:
        output.table(
            "events",
            ["at", "epoch", "what", "who", "why"],
            [
                [
                    f"{e.at:%Y-%m-%d %H:%M:%S}",
                    str(e.epoch),
                    escaped(event_text(e)),
                    escaped(e.actor),
                    escaped(e.reason),
                ]
                for e in log
            ],
        )


def event_text(event: Event) -> str:
    """Say what an event did: its kind, from where to where, which job, what was overruled."""
    detail = event.detail
    parts = [event.kind]
    if "from" in detail and "to" in detail:
        parts.append(f"{detail['from']} -> {detail['to']}")
    if "job_id" in detail:
        parts.append(f"job {detail['job_id']}")
    unmet = [
        str(item.get("name"))
        for item in detail.get("preconditions") or ()
        if isinstance(item, Mapping) and not item.get("passed")
    ]
    if unmet:
        parts.append(f"(forced; not met: {', '.join(unmet)})")
    return " ".join(parts)
