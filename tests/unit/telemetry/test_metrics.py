"""Metrics: the catalogue and what is really exported agree; the endpoint starts, serves, stops."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import threading
import urllib.request
from typing import cast

import pytest
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from proxy.clock import SystemClock
from proxy.config.settings import TelemetrySettings
from proxy.controlplane import ControlPlane, Status, StoreHealth
from proxy.errors import ConfigInvalid, Unavailable
from proxy.ledger.types import Job, JobKind, JobState, Phase, Replica, Routing
from proxy.stores.memory import MemoryStore
from proxy.telemetry.catalogue import CATALOGUE, Kind
from proxy.telemetry.gauges import GaugePoller, report_status
from proxy.telemetry.jobs import JobMetrics
from proxy.telemetry.setup import Telemetry, build_telemetry
from proxy.telemetry.traces import build_tracing
from tests.doc_server import schemas

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def job(number: int, state: JobState, **summary: float) -> Job:
    return Job(
        job_id=number,
        kind=JobKind.BACKFILL,
        state=state,
        wanted=JobState.RUNNING,
        epoch=2,
        params={},
        summary={**summary, "stage": "copy", "ok": True},
        owner="o",
        owner_alive=True,
        created_at=NOW,
    )


def health(name: str, role: str, *, up: bool) -> StoreHealth:
    breaker = "closed" if up else "open"
    return StoreHealth(name=name, role=role, engine="memory", healthy=up, breaker=breaker)


def status(dirty: dict[str, int] | None = None) -> Status:
    return Status(
        migration="docs",
        routing=Routing(epoch=5, phase=Phase.RAMP, primary="old", percent=25.0),
        stores=[health("old", "primary", up=True), health("new", "secondary", up=False)],
        replicas=[
            Replica(replica_id="a", acked_epoch=5, alive=True, lease_left_s=5, started_at=NOW),
            Replica(replica_id="b", acked_epoch=4, alive=True, lease_left_s=5, started_at=NOW),
            Replica(replica_id="c", acked_epoch=1, alive=False, lease_left_s=0, started_at=NOW),
        ],
        unsettled=7,
        dirty=dirty if dirty is not None else {"documents": 3},
        jobs=[
            job(1, JobState.DONE, rows=1, rows_total=1),
            job(2, JobState.RUNNING, rows=50, rows_total=200),
        ],
        indexes=[],
        dead_letters=2,
        flags={},
    )


def fetched(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def everything_reported(telemetry: Telemetry) -> None:
    metrics = telemetry.metrics
    metrics.rpc("Get", "OK", 0.001)
    metrics.store_call("old", "get", "ok", 0.001)
    metrics.ledger_call("append", "ok", 0.001)
    metrics.appended(1)
    metrics.settled(clean=1, dirty=1)
    metrics.write("documents", "both")
    metrics.read("documents", "old", "routed")
    metrics.shadow("compared")
    metrics.flag_error("GENERAL")
    metrics.batch("backfill", "documents", rows=10, size=100, seconds=0.5)
    metrics.pool("old", {"size": 2})
    metrics.embedder({"texts_waiting": 3, "up": 1})
    report_status(status(), metrics)


async def test_the_endpoint_exports_every_metric_of_the_catalogue_and_no_other() -> None:
    telemetry = build_telemetry(
        TelemetrySettings(), migration="docs", metrics_address="127.0.0.1:0"
    )
    everything_reported(telemetry)
    text = await asyncio.to_thread(fetched, telemetry.metrics_address)
    shown = {line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")}
    expected = {name for spec in CATALOGUE for name in spec.series}
    assert shown - {"target_info"} == expected
    for spec in CATALOGUE:
        assert f"# HELP {spec.prometheus.removesuffix('_total')}" in text
        line = next(line for line in text.splitlines() if line.startswith(f"{spec.series[0]}{{"))
        assert all(f'{label}="' in line for label in spec.labels)
    await telemetry.close()
    await telemetry.close()
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(fetched, telemetry.metrics_address)


async def test_a_status_sets_the_gauges_and_a_collection_that_is_clean_goes_to_zero() -> None:
    telemetry = build_telemetry(TelemetrySettings(), migration="docs", metrics_address="")

    def value(name: str, **labels: str) -> float | None:
        return telemetry.registry.get_sample_value(name, {**labels, "crossfade_migration": "docs"})

    report_status(status(), telemetry.metrics)
    assert value("crossfade_traffic_percent") == 25.0
    assert value("crossfade_epoch") == 5
    assert value("crossfade_phase", phase="ramp") == 1
    assert value("crossfade_phase", phase="shadow") == 0
    assert value("crossfade_ledger_unsettled") == 7
    assert value("crossfade_ledger_dirty", collection="documents") == 3
    assert value("crossfade_breaker_open", store="new") == 1
    assert value("crossfade_store_up", store="new") == 0
    assert value("crossfade_store_up", store="old") == 1
    assert value("crossfade_store_primary", store="old") == 1
    assert value("crossfade_store_primary", store="new") == 0
    assert value("crossfade_replicas", state="alive") == 2
    assert value("crossfade_replicas", state="behind") == 1
    assert value("crossfade_job_progress", kind="backfill") == 0.25
    assert value("crossfade_job_state", kind="backfill", state="running") == 1
    assert value("crossfade_job_rows", kind="backfill", count="rows_total") == 200
    report_status(status(dirty={}), telemetry.metrics)
    assert value("crossfade_ledger_dirty", collection="documents") == 0
    await telemetry.close()


class FlakyControl:
    """A control plane whose ledger is away for the first two questions."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = asyncio.Event()

    async def status(self) -> Status:
        self.asked += 1
        if self.asked <= 2:
            raise Unavailable("the ledger is away", where="ledger")
        self.answered.set()
        return status()


async def test_polling_goes_on_through_an_outage_and_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry = build_telemetry(TelemetrySettings(), migration="docs", metrics_address="")
    control = FlakyControl()
    store = MemoryStore("old", schemas()["old"], SystemClock())
    poller = GaugePoller(
        cast("ControlPlane", control),
        {"old": store},
        telemetry.metrics,
        clock=SystemClock(),
        interval_s=0.001,
        shadow=lambda: {"observed": 5, "queued": 2},
    )
    task = asyncio.create_task(poller.run())
    async with asyncio.timeout(5):
        await control.answered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sum("gauges cannot be read" in line.message for line in caplog.records) == 1
    observed = {"outcome": "observed", "crossfade_migration": "docs"}
    assert telemetry.registry.get_sample_value("crossfade_shadow_reads_total", observed) == 5
    labels = {"store": "old", "state": "records", "crossfade_migration": "docs"}
    assert telemetry.registry.get_sample_value("crossfade_store_pool", labels) == 0
    await telemetry.close()


async def test_the_same_trouble_of_a_job_is_told_every_ten_seconds_and_another_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stepped(SystemClock):
        """A clock that stands where it is put."""

        at_s = 0.0

        def monotonic_s(self) -> float:
            return self.at_s

    clock = Stepped()
    telemetry = build_telemetry(TelemetrySettings(), migration="m", metrics_address="")
    observer = JobMetrics(telemetry.metrics, clock)
    for at_s in range(21):
        clock.at_s = float(at_s)
        observer.problem("repair", Unavailable("the ledger is away"))
    observer.problem("sweep", Unavailable("the ledger is away"))
    assert caplog.messages == ["repair: the ledger is away"] * 3 + ["sweep: the ledger is away"]
    await telemetry.close()


def test_an_address_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigInvalid, match=f"cannot listen on {address}") as caught:
            build_telemetry(TelemetrySettings(), migration="docs", metrics_address=address)
    assert "listen.metrics" in str(caught.value)


async def test_no_global_provider_is_set_and_no_thread_is_left() -> None:
    before = {thread.name for thread in threading.enumerate()}
    telemetry = build_telemetry(
        TelemetrySettings(),
        migration="docs",
        metrics_address="127.0.0.1:0",
        exporter=InMemorySpanExporter(),
    )
    assert type(otel_trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
    assert type(otel_metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider"
    await telemetry.close()
    left = {thread.name for thread in threading.enumerate()} - before
    assert not [name for name in left if not name.startswith("asyncio")]


def test_without_an_endpoint_tracing_is_off_and_with_one_it_is_on_and_stops_in_time() -> None:
    assert not build_tracing(TelemetrySettings(), resource={}).on
    unreachable = TelemetrySettings(otlp_endpoint="http://127.0.0.1:9")
    tracing = build_tracing(unreachable, resource={"service.name": "x"})
    assert tracing.on
    span = tracing.root("r", [], {})
    assert span is not None
    with span:
        pass
    tracing.close()


def test_names_and_labels_of_the_catalogue_are_well_formed() -> None:
    names = [spec.name for spec in CATALOGUE]
    assert len(set(names)) == len(names)
    for spec in CATALOGUE:
        assert spec.help.endswith(".")
        assert spec.name.startswith("crossfade.")
        assert spec.prometheus.endswith("_total") == (spec.kind is Kind.COUNTER)
