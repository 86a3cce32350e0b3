"""The reconciler inside a proxy: when it runs there, and running it beside the requests."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Iterable, Mapping

from proxy.clock import Clock
from proxy.config.settings import ReconcileSettings
from proxy.embedding.base import Embedder
from proxy.ledger.base import Ledger
from proxy.server.opening import Opening
from proxy.stores.base import Store
from proxy.telemetry.jobs import JobMetrics
from proxy.telemetry.metrics import Metrics
from reconcile.jobs import Reconciler, Tools
from reconcile.service import serve

log = logging.getLogger(__name__)

_RESTART_S = 5.0
_OPENING_POLL_S = 0.5


def owner_name() -> str:
    """Name this process in the ledger, new for every start."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def in_proxy(settings: ReconcileSettings, stores: Iterable[Store]) -> bool:
    """True if the proxy reconciles: it is asked to, or alone may write one of the stores."""
    if settings.in_proxy == "auto":
        return any(store.capabilities.single_writer for store in stores)
    return settings.in_proxy == "always"


def build_reconciler(
    stores: Mapping[str, Store],
    ledger: Ledger,
    settings: ReconcileSettings,
    *,
    clock: Clock,
    metrics: Metrics,
    embedder: Embedder | None = None,
) -> Reconciler:
    """Return the reconciler of a proxy; the drain of a swap works with it too.

    One for both: it remembers the writes that were given up and may still land.
    """
    tools = Tools(clock=clock, observer=JobMetrics(metrics, clock), embedder=embedder)
    return Reconciler(stores, ledger, settings, owner=owner_name(), tools=tools)


async def reconcile_beside(reconciler: Reconciler, opening: Opening, clock: Clock) -> None:
    """Run the reconciler until it is stopped; an error of its own never ends the proxy.

    It begins when both stores are open: a replica that another one keeps from a store must not
    take jobs that only that one can do.
    """
    while not (opening.complete or reconciler.stopping):
        await clock.sleep(_OPENING_POLL_S)
    if reconciler.stopping:
        return
    log.info("this proxy reconciles too: jobs, repairs and what dead replicas left")
    while not reconciler.stopping:
        try:
            await serve(reconciler)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("the reconciler failed; it begins again in %.0f s", _RESTART_S)
            await clock.sleep(_RESTART_S)
