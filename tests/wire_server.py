"""A native server over fakes on a free port, for tests of the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from proxy.controlplane import ControlPlane
from proxy.dataplane import DataPlane
from proxy.fronts.native.serve import NativeServer, ServeOptions
from tests.wire_fakes import COLLECTIONS

OPTIONS = ServeOptions(address="127.0.0.1:0", watch_interval_s=0.01)


@asynccontextmanager
async def serving(
    data_plane: DataPlane | None = None,
    control_plane: ControlPlane | None = None,
    options: ServeOptions = OPTIONS,
) -> AsyncIterator[NativeServer]:
    """Serve until the block ends."""
    server = NativeServer(
        options, collections=COLLECTIONS, data_plane=data_plane, control_plane=control_plane
    )
    await server.start()
    await server.set_serving(True)
    try:
        yield server
    finally:
        await server.stop(0)


def target_of(server: NativeServer) -> str:
    """Return where the server listens."""
    return f"127.0.0.1:{server.port}"


def with_limits(**limits: int) -> ServeOptions:
    """Return the options with other limits."""
    return replace(OPTIONS, limits=OPTIONS.limits.model_copy(update=limits))
