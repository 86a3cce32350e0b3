"""A whole proxy, traced: one span for each store call, under the request, in the client's trace."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from crossfade.client import AsyncClient
from crossfade.client.control import ControlClient
from crossfade.client.control_types import Phase
from crossfade.storage.v1 import storage_pb2, storage_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from proxy.clock import SystemClock
from proxy.config.loader import load_text
from proxy.server.serve import running
from proxy.telemetry.setup import Telemetry, build_telemetry

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONFIG = {
    "migration": "docs",
    "preset": "doc-server",
    "listen": {"address": "127.0.0.1:0"},
    "old": {"engine": "memory"},
    "new": {"engine": "memory"},
    "ledger": {"engine": "memory"},
}


@dataclass(frozen=True)
class Proxy:
    """A running proxy whose spans a test can read."""

    address: str
    telemetry: Telemetry
    exporter: InMemorySpanExporter

    def spans(self) -> dict[str, list[ReadableSpan]]:
        provider = self.telemetry.tracing._provider
        assert provider is not None
        provider.force_flush()
        found: dict[str, list[ReadableSpan]] = {}
        for span in self.exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    config = load_text(json.dumps(CONFIG), "c.yaml", {})
    exporter = InMemorySpanExporter()
    telemetry = build_telemetry(
        config.settings.telemetry,
        migration="docs",
        metrics_address="127.0.0.1:0",
        exporter=exporter,
    )
    async with running(config, telemetry, SystemClock()) as address:
        async with ControlClient(address) as control:
            change = await control.change_phase(Phase.DUAL_WRITE, actor="test", reason="test")
            assert change.applied, change
        exporter.clear()
        yield Proxy(address, telemetry, exporter)
    await telemetry.close()


async def test_a_dual_write_is_one_trace_with_a_span_for_each_store_and_the_ledger(
    proxy: Proxy,
) -> None:
    async with grpc.aio.insecure_channel(proxy.address) as channel:
        stub = storage_pb2_grpc.StorageServiceStub(channel)
        request = storage_pb2.UpsertRequest(collection="sources")
        for part in ("rust", "serde"):
            request.record.key.parts.add(string_value=part)
        metadata = (("traceparent", PARENT), ("x-request-id", "req-1"))
        await stub.Upsert(request, metadata=metadata, timeout=5)
    spans = proxy.spans()
    (root,) = spans["crossfade.storage.v1.StorageService/Upsert"]
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == PARENT.split("-")[1]
    assert dict(root.attributes or {})["crossfade.request_id"] == "req-1"
    for name in ("old.apply", "new.apply", "ledger.append"):
        (span,) = spans[name]
        assert span.context is not None
        assert span.context.trace_id == root.context.trace_id, name
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id, name


async def test_a_read_is_one_trace_and_every_call_is_in_the_metrics(proxy: Proxy) -> None:
    async with AsyncClient(proxy.address) as client:
        await client.upsert("sources", ("rust", "serde"), {"version": "1"})
        await client.get("sources", ("rust", "serde"))
    spans = proxy.spans()
    (root,) = spans["crossfade.storage.v1.StorageService/Get"]
    (read,) = spans["old.get"]
    assert root.context is not None
    assert read.parent is not None
    assert read.parent.span_id == root.context.span_id
    address = proxy.telemetry.metrics_address

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    text = await asyncio.to_thread(fetch)
    ours = 'crossfade_migration="docs"'
    for expected in (
        f'crossfade_rpc_duration_seconds_count{{code="OK",{ours},method="Get"}} 1.0',
        f'crossfade_reads_total{{collection="sources",{ours},reason="routed",store="old"}} 1.0',
        f"crossfade_intents_appended_total{{{ours}}} 1.0",
        f'crossfade_writes_total{{collection="sources",{ours},outcome="both"}} 1.0',
        f"crossfade_phase{{{ours},phase=",
    ):
        assert expected in text
