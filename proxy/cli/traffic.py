"""`crossfade traffic`: set the share of reads that the new store answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.change import require_reason, show_change
from proxy.cli.remote import (
    ActorOption,
    AddressOption,
    DryRunOption,
    ForceOption,
    ProxyConfigOption,
    ReasonOption,
    Target,
    TlsCaOption,
    TlsCertOption,
    actor_name,
    control,
    proxy_of,
    require_ours,
)
from proxy.cli.session import JsonOption, begin, finish, run

if TYPE_CHECKING:
    from crossfade.client.control_types import Change, Routing


def traffic(
    ctx: typer.Context,
    *,
    percent: Annotated[
        float | None,
        typer.Argument(
            min=0.0, max=100.0, help="0 to 100. Without one: show it.", show_default=False
        ),
    ] = None,
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    actor: ActorOption = "",
    address: AddressOption = "",
    config: ProxyConfigOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the share of reads that go to the new store, in phase ramp.

    Each targeting key (tenant, user) sticks to its side, and raising the percentage only moves
    more keys over. A key with a write under way is read from the primary whatever the percentage.

    Exit code 1 if it was refused.

    [bold]Examples[/bold]

      crossfade traffic

      crossfade traffic 5 --reason "first tenants"

      crossfade traffic 0 --reason "p95 is up"          back at once
    """
    output = begin(ctx, as_json)
    proxy = proxy_of(address, config, tls_ca=tls_ca, tls_cert=tls_cert)
    if percent is None:
        routing = run(_routing(proxy))
        if as_json:
            output.json(routing)
        output.say(f"{routing.traffic_percent:g} % of reads to new (phase {routing.phase.value})")
        return
    require_reason(force, reason)

    async def change() -> Change:
        async with control(proxy) as client:
            await require_ours(client, proxy)
            return await client.set_traffic(
                percent, actor=actor_name(actor), reason=reason, dry_run=dry_run, force=force
            )

    finish(show_change(run(change()), output, dry_run=dry_run))


async def _routing(proxy: Target) -> Routing:
    async with control(proxy) as client:
        return (await client.status()).routing
