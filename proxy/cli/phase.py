"""`crossfade phase`: move the migration one step, forward or back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
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
    from crossfade.client.control_types import Change


class PhaseName(StrEnum):
    """The phases, as they are written on the command line. (typer asks for an Enum.)"""

    OLD_ONLY = "old_only"
    DUAL_WRITE = "dual_write"
    SHADOW = "shadow"
    RAMP = "ramp"
    NEW_PRIMARY = "new_primary"
    NEW_ONLY = "new_only"


def phase(
    ctx: typer.Context,
    *,
    target: Annotated[
        PhaseName | None,
        typer.Argument(
            help="The phase to go to. Without one: check the next step and change nothing.",
            show_default=False,
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
    """Move one step if its preconditions hold; each is checked and printed.

    old_only -> dual_write -> shadow -> ramp -> new_primary -> new_only, and back at any time
    before new_only, which is the point of no return. Going to new_primary, and back to ramp, swaps
    the primary: writes wait for some milliseconds and none fails. If the ledger does not drain in
    time nothing is changed and the command says why.

    Exit code 1 if the step was refused (with --dry-run: would be).

    [bold]Examples[/bold]

      crossfade phase                                  what does the next step still need?

      crossfade phase dual_write --reason "start of the migration"

      crossfade phase ramp --reason "error rate is up"     (from new_primary: the rollback)
    """
    output = begin(ctx, as_json)
    require_reason(force, reason)
    proxy = proxy_of(address, config, tls_ca=tls_ca, tls_cert=tls_cert)
    trial = dry_run or target is None
    wanted = _Step(
        target=target, reason=reason, dry_run=trial, force=force, actor=actor_name(actor)
    )
    change = run(_change(proxy, wanted))
    finish(show_change(change, output, dry_run=trial))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One request for a step; `target` None: the next one."""

    target: PhaseName | None
    reason: str
    dry_run: bool
    force: bool
    actor: str


async def _change(proxy: Target, step: _Step) -> Change:
    from crossfade.client.control_types import Change, Phase

    async with control(proxy) as client:
        await require_ours(client, proxy)
        if step.target is None:
            routing = (await client.status()).routing
            order = list(Phase)
            if routing.phase is order[-1]:
                ended = "The migration has ended: there is no next step."
                return Change(
                    applied=False, routing=routing, preconditions=(), message=ended, stall_ms=0.0
                )
            wanted = order[order.index(routing.phase) + 1]
        else:
            wanted = Phase(step.target.value)
        return await client.change_phase(
            wanted,
            actor=step.actor,
            reason=step.reason,
            dry_run=step.dry_run,
            force=step.force,
        )
