"""The gRPC server: both services, health, reflection, TLS, limits; started and stopped here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from proxy.config.settings import LimitSettings, TlsSettings
from proxy.controlplane import ControlPlane
from proxy.dataplane import DataPlane
from proxy.errors import Reason, Rejected
from proxy.fronts.native import control, storage
from proxy.fronts.native.context import NewId, new_request_id
from proxy.fronts.native.control import ControlService
from proxy.fronts.native.endpoint import check_address, server_credentials
from proxy.fronts.native.rpc import Pipeline
from proxy.fronts.native.storage import StorageService
from proxy.fronts.native.telemetry import NoTelemetry, Telemetry
from proxy.model import CollectionSpec

LIVENESS: Final = "liveness"
"""A name that the health service knows: this process answers, whatever it can or cannot serve.

What restarts a process asks for this one. A replica that is cut off from the ledger takes no calls
for a while; to start it again would not bring the ledger back, and could not end well before.
"""

_HEADROOM_BYTES: Final = 64 * 1024
"""Of a message over the data in it: an answer at the limit still passes gRPC's own check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve.

    Attributes:
        address: "host:port", port 0 for a free one, or "unix:path".
        insecure: clear text is wanted even where other machines can reach it.
        concurrent_rpcs_max: calls at once; more are answered RESOURCE_EXHAUSTED.
        keepalive_s: how often an idle connection is probed.
        watch_interval_s: how often WatchJob looks at its job.
    """

    address: str = "127.0.0.1:50051"
    tls: TlsSettings | None = None
    insecure: bool = False
    limits: LimitSettings = field(default_factory=LimitSettings)
    concurrent_rpcs_max: int = 2000
    keepalive_s: float = 60.0
    watch_interval_s: float = 0.5
    telemetry: Telemetry = field(default_factory=NoTelemetry)
    new_id: NewId = new_request_id


class NativeServer:
    """The native front, over one data plane and one control plane (either may be left out)."""

    def __init__(
        self,
        options: ServeOptions,
        *,
        collections: Mapping[str, CollectionSpec],
        data_plane: DataPlane | None = None,
        control_plane: ControlPlane | None = None,
    ) -> None:
        self._options = options
        self._collections = collections
        self._data_plane = data_plane
        self._control_plane = control_plane
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        self._stopping = asyncio.Event()
        self._services: tuple[str, ...] = ()
        self._server: grpc.aio.Server | None = None
        self.port = 0
        """The port in use once started; 0 for a unix socket."""

    async def start(self) -> None:
        """Listen. Health answers NOT_SERVING until `set_serving`, for all but LIVENESS.

        Raises:
            Rejected: the address is taken, not allowed without TLS, or the TLS files are wrong.
        """
        options = self._options
        check_address(options.address, tls=options.tls, insecure=options.insecure)
        server = grpc.aio.server(
            options=_channel_options(options),
            maximum_concurrent_rpcs=options.concurrent_rpcs_max,
        )
        self._add_services(server)
        self.port = self._bind(server)
        await self.set_serving(False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        self._server = server

    async def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new calls, let those under way end within `grace_s`, then cancel them.

        Safe to call twice, and without a start.
        """
        self._stopping.set()
        server, self._server = self._server, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            await server.stop(grace_s)

    async def wait(self) -> None:
        """Return when the server has stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()

    async def set_serving(self, serving: bool) -> None:
        """Tell health checks whether the services, each and as a whole, take calls."""
        state = health_pb2.HealthCheckResponse
        status = state.SERVING if serving else state.NOT_SERVING
        for name in (*self._services, ""):
            await self._health.set(name, status)

    def _add_services(self, server: grpc.aio.Server) -> None:
        options = self._options
        pipeline = Pipeline(
            answer_bytes_max=options.limits.message_bytes_max,
            telemetry=options.telemetry,
            new_id=options.new_id,
        )
        handlers = []
        if self._data_plane is not None:
            data = StorageService(self._data_plane, self._collections, options.limits)
            handlers.append(pipeline.handlers(storage.SERVICE, data.methods()))
            self._services += (storage.SERVICE,)
        if self._control_plane is not None:
            operations = ControlService(
                self._control_plane,
                stopping=self._stopping,
                watch_interval_s=options.watch_interval_s,
            )
            patient = replace(pipeline, deadlines=control.DEADLINES)
            handlers.append(patient.handlers(control.SERVICE, operations.methods()))
            self._services += (control.SERVICE,)
        server.add_generic_rpc_handlers(tuple(handlers))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    def _bind(self, server: grpc.aio.Server) -> int:
        options = self._options
        try:
            if options.tls is None:
                port = server.add_insecure_port(options.address)
            else:
                port = server.add_secure_port(options.address, server_credentials(options.tls))
        except RuntimeError as error:
            raise _cannot_listen(options.address) from error
        if port == 0:
            raise _cannot_listen(options.address)
        return 0 if options.address.startswith("unix") else port


def _cannot_listen(address: str) -> Rejected:
    return Rejected(
        f"Cannot listen on {address}.",
        reason=Reason.FAILED_PRECONDITION,
        hint="Another process may have the port, or this machine may not have the address: correct"
        " listen.address.",
    )


def _channel_options(options: ServeOptions) -> list[tuple[str, int]]:
    keepalive_ms = round(options.keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", options.limits.message_bytes_max),
        ("grpc.max_send_message_length", options.limits.message_bytes_max + _HEADROOM_BYTES),
        # A second proxy on the same port is a mistake, not a way to share the load.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients behind load balancers ping too; up to once in ten seconds is no abuse.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
