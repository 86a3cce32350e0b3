"""Jobs of a proxy that reconciles itself: asked for there, and watched as if they ran here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from proxy.cli.output import Output
from proxy.cli.remote import Target, actor_name, as_ours, control, not_ours, target_of
from proxy.errors import Reason, Rejected, Unavailable

if TYPE_CHECKING:
    from crossfade.client.control import ControlClient
    from crossfade.client.control_types import Job as ClientJob

    from proxy.cli.local import JobBar
    from proxy.config.loader import Config
    from proxy.config.settings import ListenSettings
    from proxy.ledger.types import Job, JobKind, Replica
    from proxy.model import JsonValue

PROBE_S = 3.0
"""How long a proxy may take to say that it is there."""

AWAITED_S = 300.0
"""For so long a proxy that went down without a goodbye is expected back."""


async def reconciling_proxy(config: Config) -> Target | None:
    """Return the proxy that runs this configuration's jobs, None if there is none to ask.

    Raises:
        Rejected(FAILED_PRECONDITION): another migration's proxy answers there.
    """
    from proxy.cli.local import make_parts
    from proxy.server.reconciling import in_proxy

    settings = config.settings
    target = target_of(settings.listen)
    # Asked first: engines are loaded only where there is somebody to ask.
    migration = await _served(target) if target is not None else None
    if migration is None or not in_proxy(settings.reconcile, make_parts(config).stores.values()):
        return None
    if migration == settings.migration:
        return target
    raise not_ours(settings.listen.address, migration, settings.migration)


async def require_free(config: Config, *, here: bool) -> None:
    """Return if this process may take stores that one process alone may write.

    Args:
        here: whoever asks knows that the proxy cannot start meanwhile.

    Raises:
        Unavailable: the ledger does not answer; or it knows a proxy that lives, or that went down
            moments ago and would not come back while this process works.
    """
    from proxy.cli.local import make_parts
    from proxy.clock import SystemClock
    from proxy.server.build import build_ledger

    if here:
        return
    # The ledger first: engines are loaded only where there is somebody to wait for.
    ledger = build_ledger(config.settings, SystemClock())
    try:
        await ledger.open()
        replica = awaited(await ledger.replicas())
    finally:
        await ledger.close()
    if replica is None:
        return
    stores = make_parts(config).stores.values()
    alone = [store.name for store in stores if store.capabilities.single_writer]
    if not alone:
        return
    what = (
        "lives" if replica.alive else f"went down {-replica.lease_left_s:,.0f} s ago, not in order"
    )
    raise Unavailable(
        f"The proxy {replica.replica_id} {what}, and does not answer at"
        f" {config.settings.listen.address}. It alone may write the {' and the '.join(alone)}"
        " store, and could not start again while this command works.",
        where="proxy",
        hint=certificate_hint(config.settings.listen)
        + "Try again when the proxy runs: the command asks it then. With --here the work is done"
        " in this process, and no proxy starts before it has ended.",
    )


def certificate_hint(listen: ListenSettings) -> str:
    """Say what a proxy with mutual TLS asks of this command, "" if it has it."""
    tls = listen.tls
    if tls is None or not tls.client_ca or os.environ.get("CROSSFADE_TLS_CERT"):
        return ""
    return "It asks for a client certificate (listen.tls.client_ca): set CROSSFADE_TLS_CERT. "


def awaited(replicas: Sequence[Replica]) -> Replica | None:
    """Return the proxy that lives, or may be about to come back; None if there is none.

    Where one process writes, the one that started last tells how it stands.
    """
    for replica in sorted(replicas, key=lambda one: (one.alive, one.started_at), reverse=True):
        late = not replica.clean_exit and replica.lease_left_s > -AWAITED_S
        return replica if replica.alive or late else None
    return None


async def _served(target: Target) -> str | None:
    """Return the migration that a proxy at this address serves, None if nobody answers."""
    from crossfade.client.errors import CallError

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(control(target, retries=0, timeout_s=PROBE_S))
        try:
            return (await client.status()).migration
        except CallError as error:
            if not error.detail.reason and isinstance(as_ours(error, target.address), Unavailable):
                return None
            raise


async def run_job(
    config: Config,
    target: Target,
    kind: JobKind,
    params: Mapping[str, JsonValue],
    output: Output,
) -> Job:
    """Have the proxy run one job, and watch it to its end.

    An unfinished one with the same parameters goes on, as it would here. Ctrl-C and SIGTERM pause
    it after the batch under way; the same command goes on from there.

    Raises:
        Rejected: a parameter is wrong, or another such job is under way.
        Unavailable: the proxy went away; the job keeps its place.
    """
    from proxy.cli.local import JobBar
    from proxy.cli.session import until_stopped
    from reconcile.params import parse_params, settings_for

    parse_params(kind, params, config.collections)
    settings_for(config.settings.reconcile, params)
    stop = asyncio.Event()
    async with control(target) as client:
        job = await _begun(client, kind, params)
        with JobBar(kind.value, output) as bar:

            async def watched() -> Job:
                # By now a signal pauses the job, so whoever reads this line may send one.
                output.note(f"job {job.job_id} runs in the proxy at {target.address}")
                return await _watched(client, job.job_id, bar, stop)

            ended = await until_stopped(watched(), stop=stop.set)
    if ended is None:
        raise KeyboardInterrupt
    return ended


async def _begun(client: ControlClient, kind: JobKind, params: Mapping[str, JsonValue]) -> Job:
    """Return the job that is under way, resumed, or new."""
    from crossfade.client import control_types as there

    from reconcile.jobs import unfinished
    from reconcile.roles import period_epoch

    began = period_epoch((await client.status()).flags)
    known = [as_ledgers(one) for one in await client.jobs()]
    same = [job for job in known if job.kind is kind]
    found = unfinished(same, params, began=began, join=True)
    actor = actor_name("")
    if found is None:
        asked = there.JobKind(kind.value)
        return as_ledgers(await client.start_job(asked, dict(params), actor=actor))
    if found.state.value in ("paused", "failed"):
        resumed = await client.control_job(found.job_id, there.JobAction.RESUME, actor=actor)
        return as_ledgers(resumed)
    return found


async def _watched(client: ControlClient, job_id: int, bar: JobBar, stop: asyncio.Event) -> Job:
    """Follow a job until it ends or is paused."""
    from proxy.ledger.types import JobState

    job: Job | None = None
    pausing = asyncio.create_task(_pause_when(stop, client, job_id))
    try:
        async for seen in client.watch_job(job_id):
            job = as_ledgers(seen)
            bar.update(job)
            if job.state is JobState.PAUSED:
                break
    finally:
        pausing.cancel()
        await asyncio.wait([pausing])
    if job is None:
        raise Unavailable(f"The proxy says nothing of job {job_id}.", where="proxy")
    return job


async def _pause_when(stop: asyncio.Event, client: ControlClient, job_id: int) -> None:
    """Pause the job once the command is told to stop; one that has just ended needs it no more."""
    from crossfade.client import control_types as there
    from crossfade.client.errors import CallError

    await stop.wait()
    try:
        await client.control_job(job_id, there.JobAction.PAUSE, actor=actor_name(""))
    except CallError:
        return


def as_ledgers(job: ClientJob) -> Job:
    """Return a job as the ledger has it, so that it is shown and judged like one that ran here."""
    from proxy.ledger.types import Job, JobKind, JobState

    return Job(
        job_id=job.job_id,
        kind=JobKind(job.kind.value),
        state=JobState(job.state.value),
        wanted=JobState(job.wanted.value),
        epoch=job.epoch,
        params=job.params,
        summary=job.summary,
        owner=job.owner,
        owner_alive=job.owner_alive,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error=job.error,
    )


def refuse_beside(target: Target, stores: Sequence[str]) -> Rejected:
    """Say why no reconciler can be started beside this proxy."""
    return Rejected(
        f"The proxy at {target.address} reconciles itself: it alone may write the"
        f" {' and the '.join(stores)} store.",
        reason=Reason.FAILED_PRECONDITION,
        hint="Nothing needs to be started. `crossfade backfill`, `verify`, `repair` and `job` ask"
        " that proxy; `crossfade status` shows its jobs.",
    )
