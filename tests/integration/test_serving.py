"""A whole proxy: what its health says without a lease, and a start after the old store is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import grpc
import psycopg
import pytest
from crossfade.client import AsyncClient
from crossfade.client import Unavailable as Refused
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxy.clock import SystemClock
from proxy.config.loader import Config, load_text
from proxy.errors import Unavailable
from proxy.ledger.types import EventDraft, Phase, Routing
from proxy.routing.member import Membership
from proxy.server.build import build_ledger
from proxy.server.serve import running
from proxy.telemetry.setup import Telemetry, build_telemetry
from tests.doc_server import create_tables

KEY = ("rust", "serde", "a")
MEMORY = {"engine": "memory"}


def configured(
    old: object = MEMORY, new: object = MEMORY, ledger: object = MEMORY, reads: object = None
) -> Config:
    text = {
        "migration": "docs",
        "preset": "doc-server",
        "listen": {"address": "127.0.0.1:0"},
        "old": old,
        "new": new,
        "ledger": ledger,
        "reads": reads or {},
        "writes": {"primary_deadline_s": 0.9, "secondary_deadline_s": 0.9},
    }
    return load_text(json.dumps(text), "c.yaml", {})


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    made = build_telemetry(
        configured().settings.telemetry, migration="docs", metrics_address="127.0.0.1:0"
    )
    yield made
    await made.close()


async def health(stub: health_pb2_grpc.HealthStub, wanted: int) -> None:
    """Wait until health says so; the stream tells each change."""
    async with asyncio.timeout(10):
        async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
            if answer.status == wanted:
                return
    raise AssertionError("the watch ended")


async def test_cut_off_from_the_ledger_a_proxy_refuses_reads_and_is_not_serving(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object, **__: object) -> Routing:
        raise Unavailable("The ledger is gone.", where="ledger")

    state = health_pb2.HealthCheckResponse
    config = configured(ledger={**MEMORY, "lease_s": 1.0}, reads={"lease_grace_s": 0.0})
    async with (
        running(config, telemetry, SystemClock()) as address,
        grpc.aio.insecure_channel(address) as channel,
        AsyncClient(address, retries=0) as client,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        await health(stub, state.SERVING)
        with monkeypatch.context() as patch:
            patch.setattr(Membership, "refresh", silent)
            await health(stub, state.NOT_SERVING)
            with pytest.raises(Refused, match="has not reached the ledger") as caught:
                await client.get("documents", KEY)
            assert caught.value.detail.metadata["where"] == "ledger"
        await health(stub, state.SERVING)
        assert await client.get("documents", KEY) is None


async def test_in_new_only_a_proxy_starts_although_the_old_tables_are_dropped(
    telemetry: Telemetry, new_database: Callable[[], str]
) -> None:
    dsns = {name: new_database() for name in ("old", "new", "ledger")}
    stores = {name: {"engine": "postgresql", "dsn": dsns[name]} for name in ("old", "new")}
    config = configured(**stores, ledger={"dsn": dsns["ledger"]})
    for name in ("old", "new"):
        create_tables(dsns[name], name)
    ledger = build_ledger(config.settings, SystemClock())
    await ledger.open()
    now = await ledger.routing()
    wanted = Routing(epoch=0, phase=Phase.NEW_ONLY, primary="new", percent=100.0)
    await ledger.change_routing(now.epoch, wanted, EventDraft(kind="phase", actor="test"))
    await ledger.close()
    with psycopg.connect(dsns["old"], autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
    async with (
        running(config, telemetry, SystemClock()) as address,
        AsyncClient(address) as client,
    ):
        await client.upsert("sources", KEY[:2], {})
        await client.upsert("documents", KEY, {"content": "still here"})
        found = await client.get("documents", KEY)
        assert found is not None
        assert found.fields["content"] == "still here"
