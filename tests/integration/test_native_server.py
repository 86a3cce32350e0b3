"""The server as others meet it: TLS, loopback rule, health, reflection, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from crossfade.client import AsyncClient, CallError, Unavailable
from crossfade.storage.v1 import storage_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from proxy.config.settings import TlsSettings
from proxy.errors import Reason, Rejected
from proxy.fronts.native.serve import LIVENESS, NativeServer
from tests.wire_fakes import COLLECTIONS, FakeControlPlane, FakeDataPlane
from tests.wire_server import OPTIONS, serving, target_of

STORAGE = "crossfade.storage.v1.StorageService"
CONTROL = "crossfade.control.v1.ControlService"
KEY = ("a", "b")

# ---------------------------------------------------------------- TLS


@dataclass(frozen=True)
class Pki:
    """Files of a certificate authority, a server and a client."""

    folder: Path

    def path(self, name: str) -> str:
        """Return where a file lies."""
        return str(self.folder / name)

    def tls(self, *, mutual: bool = False) -> TlsSettings:
        """Return the server's settings."""
        client_ca = self.path("ca.pem") if mutual else ""
        return TlsSettings(
            certificate=self.path("server.pem"), key=self.path("server.key"), client_ca=client_ca
        )

    def credentials(self, *, mutual: bool = False) -> grpc.ChannelCredentials:
        """Return a client's credentials."""
        ca = (self.folder / "ca.pem").read_bytes()
        if not mutual:
            return grpc.ssl_channel_credentials(ca)
        key = (self.folder / "client.key").read_bytes()
        return grpc.ssl_channel_credentials(ca, key, (self.folder / "client.pem").read_bytes())


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Make a certificate authority with openssl, and a server's and a client's certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test ca"]
    openssl("req", "-x509", *curve, *ca)
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=x")
        signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.pem")
    return Pki(folder)


async def test_a_client_that_trusts_the_authority_is_served_over_tls(pki: Pki) -> None:
    async with serving(FakeDataPlane(), options=replace(OPTIONS, tls=pki.tls())) as server:
        async with AsyncClient(target_of(server), credentials=pki.credentials()) as client:
            assert await client.get("documents", KEY) is None
        async with AsyncClient(target_of(server), retries=0, timeout_s=5) as clear:
            with pytest.raises(CallError):
                await clear.get("documents", KEY)


async def test_mutual_tls_refuses_a_client_without_a_certificate(pki: Pki) -> None:
    options = replace(OPTIONS, tls=pki.tls(mutual=True))
    async with serving(FakeDataPlane(), options=options) as server:
        known = pki.credentials(mutual=True)
        async with AsyncClient(target_of(server), credentials=known) as client:
            assert await client.get("documents", KEY) is None
        stranger = pki.credentials()
        async with AsyncClient(target_of(server), credentials=stranger, retries=0) as client:
            with pytest.raises(Unavailable):
                await client.get("documents", KEY)


async def test_a_key_of_another_certificate_is_refused_at_the_start(pki: Pki) -> None:
    tls = pki.tls().model_copy(update={"key": pki.path("client.key")})
    server = NativeServer(replace(OPTIONS, tls=tls), collections=COLLECTIONS)
    with pytest.raises(Rejected, match="its own unencrypted key"):
        await server.start()


async def test_a_client_authority_that_is_no_pem_is_refused_at_the_start(pki: Pki) -> None:
    tls = pki.tls().model_copy(update={"client_ca": pki.path("san")})
    server = NativeServer(replace(OPTIONS, tls=tls), collections=COLLECTIONS)
    with pytest.raises(Rejected, match=r"listen\.tls\.client_ca"):
        await server.start()


# ---------------------------------------------------------------- where it listens


async def test_an_address_that_others_reach_is_refused_without_tls() -> None:
    options = replace(OPTIONS, address="0.0.0.0:0")
    server = NativeServer(options, collections=COLLECTIONS, data_plane=FakeDataPlane())
    with pytest.raises(Rejected) as caught:
        await server.start()
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    assert "--insecure" in caught.value.hint
    await server.stop()


async def test_an_address_that_others_reach_is_served_in_clear_text_if_one_insists() -> None:
    options = replace(OPTIONS, address="0.0.0.0:0", insecure=True)
    async with (
        serving(FakeDataPlane(), options=options) as server,
        AsyncClient(target_of(server)) as client,
    ):
        assert await client.get("documents", KEY) is None


async def test_a_port_that_is_taken_is_refused_and_not_shared() -> None:
    async with serving(FakeDataPlane()) as first:
        options = replace(OPTIONS, address=target_of(first))
        second = NativeServer(options, collections=COLLECTIONS, data_plane=FakeDataPlane())
        with pytest.raises(Rejected, match=f"Cannot listen on {target_of(first)}"):
            await second.start()


async def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    options = replace(OPTIONS, address=address)
    async with serving(FakeDataPlane(), options=options) as server:
        assert server.port == 0
        async with AsyncClient(address) as client:
            assert await client.get("documents", KEY) is None


# ---------------------------------------------------------------- health and reflection


async def test_health_is_told_for_each_service_and_the_whole() -> None:
    status = health_pb2.HealthCheckResponse
    async with (
        serving(FakeDataPlane(), FakeControlPlane()) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        async def health(service: str) -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            return int(answer.status)

        for name in ("", STORAGE, CONTROL):
            assert await health(name) == status.SERVING
        await server.set_serving(False)
        for name in ("", STORAGE, CONTROL):
            assert await health(name) == status.NOT_SERVING
        assert await health(LIVENESS) == status.SERVING  # or it would be started again
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health("nope")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_server_that_was_just_started_is_not_serving_yet() -> None:
    server = NativeServer(OPTIONS, collections=COLLECTIONS, data_plane=FakeDataPlane())
    await server.start()
    try:
        async with grpc.aio.insecure_channel(target_of(server)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        await server.stop(0)


async def test_reflection_lists_the_services_and_describes_them() -> None:
    request = reflection_pb2.ServerReflectionRequest
    async with (
        serving(FakeDataPlane(), FakeControlPlane()) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        questions: Sequence[reflection_pb2.ServerReflectionRequest] = (
            request(list_services=""),
            request(file_containing_symbol=STORAGE),
        )
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(questions))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names >= {STORAGE, CONTROL, "grpc.health.v1.Health"}
    data = answers[1].file_descriptor_response.file_descriptor_proto[0]
    assert FileDescriptorProto.FromString(data).package == storage_pb2.DESCRIPTOR.package


# ---------------------------------------------------------------- stopping


async def wait_until_not_serving(channel: grpc.aio.Channel) -> None:
    """Return when health says NOT_SERVING, or when nobody answers any more."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return


async def test_calls_under_way_end_well_within_the_grace_and_new_ones_are_refused() -> None:
    plane = FakeDataPlane(gate=asyncio.Event())
    async with (
        serving(plane) as server,
        AsyncClient(target_of(server), retries=0) as client,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        under_way = asyncio.create_task(client.get("documents", KEY))
        await plane.entered.wait()
        stopping = asyncio.create_task(server.stop(10))
        await wait_until_not_serving(channel)
        with pytest.raises(Unavailable):
            await client.get("documents", KEY)
        assert plane.gate is not None
        plane.gate.set()
        assert await under_way is None
        await stopping
        await server.stop()


async def test_calls_that_outlast_the_grace_are_cancelled() -> None:
    plane = FakeDataPlane(gate=asyncio.Event())
    async with (
        serving(plane) as server,
        AsyncClient(target_of(server), retries=0) as client,
    ):
        call = asyncio.create_task(client.get("documents", KEY))
        await plane.entered.wait()
        await server.stop(0.01)
        with pytest.raises(CallError) as caught:
            await call
        assert caught.value.code in ("UNAVAILABLE", "CANCELLED")
        async with asyncio.timeout(5):
            await plane.cancelled.wait()


async def test_wait_returns_when_the_server_has_stopped() -> None:
    async with serving(FakeDataPlane()) as server:
        waiting = asyncio.create_task(server.wait())
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done(), "the server still runs"
        await server.stop(0)
        done, _ = await asyncio.wait({waiting}, timeout=5)
        assert done == {waiting}
        await waiting
        async with asyncio.timeout(5):
            await server.wait()
