"""Telemetry hears of each call: its name, its request id, its parent and its outcome."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import grpc
import pytest
from crossfade.client import AsyncClient, Internal, InvalidArgument
from crossfade.client.control import ControlClient
from crossfade.storage.v1 import storage_pb2_grpc
from crossfade.storage.v1.storage_pb2 import GetRequest

from proxy.fronts.native.telemetry import Metadata, RpcSpan
from proxy.ledger.types import JobState
from tests.wire_fakes import FakeControlPlane, FakeDataPlane
from tests.wire_server import OPTIONS, serving, target_of


@dataclass
class Spans:
    """Keeps what it is told."""

    told: list[object] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def start_rpc(self, method: str, request_id: str, metadata: Metadata) -> Iterator[RpcSpan]:
        parent = [value for name, value in metadata if name == "traceparent"]
        self.told.append((method.rpartition("/")[2], request_id, *parent))
        try:
            yield self
        except asyncio.CancelledError:
            self.told.append("cancelled")
            raise
        finally:
            self.left.set()

    def ended(self, code: str, error: Exception | None) -> None:
        self.told.append((code, type(error)))


async def test_every_call_is_a_span_with_its_outcome() -> None:
    spans, plane = Spans(), FakeDataPlane()
    options = replace(OPTIONS, telemetry=spans, new_id=lambda: "made")
    async with (
        serving(plane, options=options) as server,
        AsyncClient(target_of(server), retries=0) as client,
    ):
        await client.get("documents", ("a", "b"))
        with pytest.raises(InvalidArgument):
            await client.scoped(request_id="mine").get("documents", "a")
        plane.fail = ValueError("x")
        with pytest.raises(Internal):
            await client.get("documents", ("a", "b"))
    assert spans.told[:2] == [("Get", "made"), ("OK", type(None))]
    assert spans.told[2] == ("Get", "mine")
    assert spans.told[3][0] == "INVALID_ARGUMENT"  # type: ignore[index]  # a pair
    assert spans.told[4:] == [("Get", "made"), ("INTERNAL", ValueError)]


async def test_a_remote_parent_is_handed_on() -> None:
    spans = Spans()
    options = replace(OPTIONS, telemetry=spans, new_id=lambda: "made")
    async with (
        serving(FakeDataPlane(), options=options) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        stub = storage_pb2_grpc.StorageServiceStub(channel)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.Get(GetRequest(), metadata=(("traceparent", "00-1-2-01"),))
    assert spans.told[0] == ("Get", "made", "00-1-2-01")


async def test_a_cancelled_call_leaves_its_span_by_the_cancellation() -> None:
    spans, plane = Spans(), FakeDataPlane(gate=asyncio.Event())
    options = replace(OPTIONS, telemetry=spans, new_id=lambda: "made")
    async with (
        serving(plane, options=options) as server,
        AsyncClient(target_of(server)) as client,
    ):
        call = asyncio.create_task(client.get("documents", ("a", "b")))
        await plane.entered.wait()
        call.cancel()
        async with asyncio.timeout(5):
            await spans.left.wait()
    assert spans.told == [("Get", "made"), "cancelled"]


async def test_a_stream_is_one_span() -> None:
    spans = Spans()
    control = FakeControlPlane(states=[JobState.RUNNING, JobState.DONE])
    options = replace(OPTIONS, telemetry=spans, new_id=lambda: "made")
    async with (
        serving(control_plane=control, options=options) as server,
        ControlClient(target_of(server)) as client,
    ):
        assert len([job async for job in client.watch_job(7)]) == 2
    assert spans.told == [("WatchJob", "made"), ("OK", type(None))]
