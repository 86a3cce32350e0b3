"""Start a proxy, serve until told to stop, and leave nothing in flight."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from proxy.clock import Clock, SystemClock
from proxy.config.loader import Config
from proxy.errors import CrossfadeError
from proxy.fronts.native.serve import NativeServer, ServeOptions
from proxy.ledger.types import Phase
from proxy.server.build import build_ledger, build_store
from proxy.server.embedding import abandon, open_embedder
from proxy.server.health import LeaseHealth
from proxy.server.housekeeping import HoldWatch, Housekeeping, pay_debt
from proxy.server.opening import TAKEN_WAIT_S, Opening
from proxy.server.parts import Parts, build_parts
from proxy.server.reconciling import in_proxy, reconcile_beside
from proxy.stores.base import Store
from proxy.telemetry.gauges import GaugePoller
from proxy.telemetry.logs import configure_logs
from proxy.telemetry.observed import ObservedDataPlane
from proxy.telemetry.setup import Telemetry, build_telemetry

log = logging.getLogger(__name__)

_GRACE_S = 5.0
_CANCEL_S = 2.0
_CANCELS_MAX = 5
_RECONCILER = "reconciler"


async def serve(config: Config, *, insecure: bool, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        insecure: clear text on an address that other machines can reach is wanted.
        ready: told "host:port" once requests are taken.

    Raises:
        ConfigInvalid: the stores do not fit the layouts, or the models of their vectors.
        Unavailable: the primary, the ledger or the embedder does not answer at the start.
        Corrupt: the ledger has another schema version.
    """
    configure_logs(config.settings.telemetry)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    telemetry = build_telemetry(
        config.settings.telemetry,
        migration=config.settings.migration,
        metrics_address=config.settings.listen.metrics,
    )
    try:
        async with running(config, telemetry, SystemClock(), insecure=insecure) as address:
            _leave_out_of_collections()
            ready(address)
            await stop.wait()
            log.info("stopping")
    finally:
        await telemetry.close()


def _leave_out_of_collections() -> None:
    """Keep what the start has made out of every later garbage collection.

    Modules and descriptors stay for good; going through them again and again would stop every
    request under way for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def running(
    config: Config, telemetry: Telemetry, clock: Clock, *, insecure: bool = False
) -> AsyncIterator[str]:
    """Run a proxy for the length of the context; yields its address "host:port"."""
    parts = await open_parts(config, telemetry, clock)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work, name=name)
                for name, work in _chores(parts, clock, telemetry)
            ]
            server = _front(parts, telemetry, insecure=insecure)
            try:
                await parts.shadow.start()
                await server.start()
                await server.set_serving(True)
                if config.settings.reads.lease_lost == "refuse":
                    health = LeaseHealth(parts.member.lease_left_s, server.set_serving, clock)
                    tasks.append(group.create_task(health.run(), name="health"))
                host = config.settings.listen.address.rpartition(":")[0]
                yield f"{host}:{server.port}"
            finally:
                parts.reconciler.stop()
                ended = await _quiesce(parts, server)
                await _wait_for_reconciler(tasks)
                await _cancel(tasks)
                if ended:
                    await _leave(parts, clock)
    finally:
        await parts.close()


async def open_parts(config: Config, telemetry: Telemetry, clock: Clock) -> Parts:
    """Open stores and ledger, join the migration, and wire a proxy over them.

    The ledger and the primary must answer, and the models must be loaded; a secondary that does
    not answer is opened later. In new_only the old store may be gone, or its tables: that is
    logged, and nothing else.
    """
    settings = config.settings
    # The slowest part of a start goes on in a process of its own meanwhile.
    loading = asyncio.create_task(open_embedder(config, clock), name="open-embedder")
    ledger = build_ledger(settings, clock)
    stores: dict[str, Store] = {}
    try:
        await ledger.open()
        routing = await ledger.routing()
        stores["old"] = build_store("old", settings.old, config.old, clock)
        stores["new"] = build_store("new", settings.new, config.new, clock)
        opening = Opening(stores, clock)
        others = any(replica.alive for replica in await ledger.replicas())
        await opening.open(
            only=routing.primary if routing.phase is Phase.NEW_ONLY else "",
            # A command that writes a store may end soon; another proxy will not.
            taken_wait_s=0.0 if others else TAKEN_WAIT_S,
        )
        opening.require(routing.primary)
        parts = build_parts(config, opening, ledger, telemetry, clock, embedder=await loading)
        await parts.flags.open()
        await parts.member.start()
    except BaseException:
        await asyncio.gather(
            abandon(loading), *(store.close() for store in stores.values()), ledger.close()
        )
        raise
    return parts


def _front(parts: Parts, telemetry: Telemetry, *, insecure: bool) -> NativeServer:
    settings = parts.config.settings
    return NativeServer(
        ServeOptions(
            address=settings.listen.address,
            tls=settings.listen.tls,
            insecure=insecure,
            limits=settings.limits,
            telemetry=telemetry.rpc,
        ),
        collections=parts.config.collections,
        data_plane=ObservedDataPlane(parts.plane, telemetry.metrics),
        control_plane=parts.control,
    )


def _chores(
    parts: Parts, clock: Clock, telemetry: Telemetry
) -> tuple[tuple[str, Coroutine[Any, Any, None]], ...]:
    settings = parts.config.settings
    house = Housekeeping(
        parts.ledger, parts.member, clock, sweep_every_s=settings.ledger.lease_s / 4
    )
    holds = HoldWatch(
        parts.ledger,
        parts.member,
        clock,
        hold_max_s=(settings.switch.drain_timeout_s + settings.writes.hold_max_s) / 2,
    )
    gauges = GaugePoller(
        parts.control,
        parts.stores,
        telemetry.metrics,
        clock=clock,
        shadow=parts.shadow.gauges,
        embedder=parts.embedder.stats if parts.embedder is not None else dict,
    )
    chores = (
        ("opening", parts.opening.run()),
        ("membership", parts.member.run()),
        ("settle", parts.settle.run()),
        ("dirty-counts", parts.dirty.run()),
        ("housekeeping", house.run()),
        ("hold-watch", holds.run()),
        ("gauges", gauges.run()),
    )
    if not in_proxy(settings.reconcile, parts.stores.values()):
        return chores
    return (*chores, (_RECONCILER, reconcile_beside(parts.reconciler, parts.opening, clock)))


async def _wait_for_reconciler(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Let the batches under way end; jobs keep their place for the next runner."""
    running_ones = [task for task in tasks if task.get_name() == _RECONCILER]
    if running_ones:
        await asyncio.wait(running_ones, timeout=_GRACE_S)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """End tasks; a cancellation that a library swallowed is sent again."""
    left = set(tasks)
    for _ in range(_CANCELS_MAX):
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=_CANCEL_S)
    for task in left:
        log.error("%s does not end; the proxy stops without it", task.get_name())


async def _quiesce(parts: Parts, server: NativeServer) -> bool:
    """Refuse new calls and let the writes end; the lease is still being renewed.

    Returns:
        True if nothing is in flight any more; else only the end of the lease can say so.
    """
    await server.stop(_GRACE_S)
    left = await parts.writer.drain(timeout_s=_GRACE_S)
    if left:
        log.error("%d writes were still running; their keys become dirty with the lease", left)
    with contextlib.suppress(CrossfadeError):
        await parts.shadow.close()
    await parts.settle.wait_delayed(timeout_s=parts.config.settings.writes.late_write_s)
    # While it still runs: a settlement that is cut off is repeated, and its keys repaired.
    with contextlib.suppress(CrossfadeError):
        await parts.settle.flush()
    return not left


async def _leave(parts: Parts, clock: Clock) -> None:
    """Settle what has ended, and say goodbye to the ledger; nobody renews the lease any more."""
    try:
        await pay_debt(parts.ledger, parts.member, parts.writer, clock)
        await parts.member.stop()
    except CrossfadeError as error:
        log.warning("the ledger was not told goodbye: %s", error)
