"""An operator beside one replica: a control plane, and the way to the swap."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from proxy.clock import SystemClock
from proxy.config.settings import SwitchSettings
from proxy.control.preconditions import JudgeSettings
from proxy.control.service import ControlParts, ControlService, take_any
from proxy.control.switch import Switch
from proxy.controlplane import Precondition
from proxy.ledger.types import JobKind, JobState, Phase
from proxy.model import JsonValue, Write, WriteOp
from proxy.stores.breaker import Breaker
from proxy.stores.sides import Side, Sides
from tests.rig import Rig, with_source


async def _open_gate() -> Sequence[Precondition]:
    return []


async def _empty_report() -> dict[str, Any]:
    return {}


def control(
    rig: Rig,
    *,
    drain_timeout_s: float = 2.0,
    ack_timeout_s: float = 5.0,
    drain: Callable[[], Awaitable[None]] | None = None,
    check_job: Callable[[JobKind, Mapping[str, JsonValue]], None] = take_any,
) -> ControlService:
    """Return an operator's control plane over a replica."""
    clock = SystemClock()

    async def repair() -> None:
        """Repair the dirty documents, as the wiring does it with the reconciler."""
        for item in await rig.ledger.dirty_keys("documents", limit=100):
            copy = await rig.ledger.begin_copy("documents")
            routing = await rig.ledger.routing()
            names = ("old", "new") if routing.primary == "old" else ("new", "old")
            record = await rig.stored(names[0], item.key)
            if record is not None:
                write = Write(
                    op=WriteOp.UPSERT, collection="documents", key=item.key, fields=record.fields
                )
                await rig.stores[names[1]].apply([write], atomic=True, deadline_s=5)
            await rig.ledger.finish_copy(copy, touched=[item.key])

    settings = SwitchSettings(drain_timeout_s=drain_timeout_s, ack_timeout_s=ack_timeout_s)
    sides = Sides(
        {
            name: Side(store=store, breaker=Breaker(clock, failures_max=5, open_s=5))
            for name, store in rig.stores.items()
        }
    )
    return ControlService(
        ControlParts(
            migration="m",
            ledger=rig.ledger,
            sides=sides,
            switch=Switch(rig.ledger, clock, settings, drain=drain or repair),
            engines={"old": "memory", "new": "memory"},
            judge=JudgeSettings(dirty_reads_max=1000, dirty_swap_max=0),
            gate=_open_gate,
            report=_empty_report,
            check_job=check_job,
        )
    )


async def change(service: ControlService, target: Phase, **options: Any) -> Any:
    """Ask for a phase."""
    arguments = {"dry_run": False, "force": False, "actor": "me", "reason": "test", **options}
    return await service.change_phase(target, **arguments)


async def proven(rig: Rig) -> None:
    """Leave the traces of a finished backfill and a clean verify."""
    job = await rig.ledger.create_job(JobKind.BACKFILL, {})
    await rig.ledger.claim_job(job.job_id, owner="t", lease_s=60)
    await rig.ledger.end_job(job.job_id, owner="t", state=JobState.DONE, summary={})
    await rig.stores["new"].build_index("documents")
    await verified(rig)


async def verified(rig: Rig) -> None:
    """Leave the trace of a clean verify under the routing in force."""
    value: dict[str, JsonValue] = {
        "job_id": 1,
        "at": SystemClock().now().isoformat(),
        "epoch": (await rig.ledger.routing()).epoch,
        "clean": True,
    }
    await rig.ledger.set_flag("last_verify", value, actor="t", reason="")


async def to_ramp(rig: Rig, service: ControlService) -> None:
    """Go as far as every precondition lets one go before the swap."""
    await change(service, Phase.DUAL_WRITE)
    await with_source(rig)
    await proven(rig)
    for target in (Phase.SHADOW, Phase.RAMP):
        assert (await change(service, target)).applied
    moved = await service.set_traffic(100, dry_run=False, force=False, actor="me", reason="")
    assert moved.applied
