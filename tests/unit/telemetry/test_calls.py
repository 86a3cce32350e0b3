"""Traces and metrics of calls: the front's hook, stores, intents, and the data plane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from proxy.clock import SystemClock
from proxy.config.settings import TelemetrySettings
from proxy.dataplane import BatchItem, DataPlane, Found, Got, RequestContext, Served, WriteAck
from proxy.errors import Ambiguous, Corrupt, Rejected, Unavailable
from proxy.fronts.native.telemetry import Telemetry as FrontHook
from proxy.ledger.base import IntentLog
from proxy.ledger.types import Intent, IntentDraft, Settlement
from proxy.model import Metric, Write, WriteOp
from proxy.query import And, KeyRange, ListQuery, Projection, SearchQuery, SearchResult
from proxy.stores.base import Store
from proxy.stores.memory import MemoryStore
from proxy.telemetry.instrument import InstrumentedStore
from proxy.telemetry.intents import InstrumentedIntents
from proxy.telemetry.logs import REQUEST_ID
from proxy.telemetry.observed import ObservedDataPlane
from proxy.telemetry.probe import outcome_of
from proxy.telemetry.setup import Telemetry, build_telemetry
from tests.doc_server import document, schemas, source

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONTEXT = RequestContext(request_id="r", targeting_key="t", deadline_s=1.0)


@dataclass(frozen=True)
class Bench:
    """Telemetry whose spans and samples a test can read."""

    telemetry: Telemetry
    exporter: InMemorySpanExporter

    def spans(self) -> Sequence[ReadableSpan]:
        provider = self.telemetry.tracing._provider
        assert provider is not None
        provider.force_flush()
        return self.exporter.get_finished_spans()

    def sample(self, name: str, **labels: str) -> float | None:
        labels["crossfade_migration"] = "docs"
        return self.telemetry.registry.get_sample_value(name, labels)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    exporter = InMemorySpanExporter()
    telemetry = build_telemetry(
        TelemetrySettings(), migration="docs", metrics_address="", exporter=exporter
    )
    yield Bench(telemetry, exporter)
    await telemetry.close()


@pytest.fixture
async def quiet() -> AsyncIterator[Telemetry]:
    telemetry = build_telemetry(TelemetrySettings(), migration="docs", metrics_address="")
    yield telemetry
    await telemetry.close()


def instrumented(telemetry: Telemetry) -> Store:
    inner = MemoryStore("old", schemas()["old"], SystemClock())
    return InstrumentedStore(inner, telemetry.tracing, telemetry.metrics)


async def test_a_store_call_is_a_child_of_the_request_and_the_request_of_the_client(
    bench: Bench,
) -> None:
    store = instrumented(bench.telemetry)
    hook: FrontHook = bench.telemetry.rpc
    metadata: list[tuple[str, str | bytes]] = [("x-other", b"\x00"), ("traceparent", PARENT)]
    with hook.start_rpc("/crossfade.storage.v1.StorageService/Upsert", "r-1", metadata) as call:
        assert REQUEST_ID.get() == "r-1"
        await store.apply([source()], atomic=False, deadline_s=1.0)
        task = asyncio.create_task(
            store.get("sources", [("rust", "serde")], vectors=False, deadline_s=1.0)
        )
        await asyncio.shield(task)
        call.ended("OK", None)
    assert REQUEST_ID.get() == ""
    apply, get, request = bench.spans()
    assert [apply.name, get.name] == ["old.apply", "old.get"]
    assert request.name == "crossfade.storage.v1.StorageService/Upsert"
    assert apply.parent is not None
    assert apply.parent.span_id == request.context.span_id
    assert get.parent is not None
    assert get.parent.span_id == request.context.span_id
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    assert dict(request.attributes or {})["crossfade.request_id"] == "r-1"
    assert dict(apply.attributes or {})["crossfade.collection"] == "sources"


async def test_a_call_without_a_parent_starts_a_trace_and_an_unsampled_one_makes_none(
    bench: Bench,
) -> None:
    store = instrumented(bench.telemetry)
    with bench.telemetry.rpc.start_rpc("/s/Get", "r", []) as call:
        call.ended("OK", None)
    unsampled = PARENT[:-1] + "0"
    with bench.telemetry.rpc.start_rpc("/s/Get", "r", [("traceparent", unsampled)]) as call:
        await store.ping(deadline_s=1.0)
        call.ended("OK", None)
    (only,) = bench.spans()
    assert only.parent is None


async def test_a_write_that_outlives_its_request_stays_in_its_trace_and_a_shared_call_does_not(
    bench: Bench,
) -> None:
    store = instrumented(bench.telemetry)
    inner = cast("IntentLog", FakeIntents())
    intents = InstrumentedIntents(inner, bench.telemetry.tracing, bench.telemetry.metrics)
    left = asyncio.Event()

    async def work() -> None:
        await left.wait()
        await store.ping(deadline_s=1.0)
        await intents.settle([])

    with bench.telemetry.rpc.start_rpc("/s/Put", "r", []) as call:
        task = asyncio.create_task(work())
        call.ended("OK", None)
    left.set()
    await task
    request, ping = bench.spans()
    assert ping.name == "old.ping"
    assert request.context is not None
    assert ping.parent is not None
    assert ping.parent.span_id == request.context.span_id


async def test_outside_a_request_a_store_call_makes_no_span_but_is_measured(bench: Bench) -> None:
    await instrumented(bench.telemetry).ping(deadline_s=1.0)
    assert bench.spans() == ()
    name = "crossfade_store_call_duration_seconds_count"
    assert bench.sample(name, store="old", operation="ping", outcome="ok") == 1


async def test_calls_are_counted_by_code_and_a_client_that_left_is_cancelled(bench: Bench) -> None:
    rpc = bench.telemetry.rpc
    with rpc.start_rpc("/s/Get", "r", []) as call:
        call.ended("NOT_FOUND", Rejected("no such record"))
    with pytest.raises(asyncio.CancelledError), rpc.start_rpc("/s/Get", "r", []):
        raise asyncio.CancelledError
    with pytest.raises(KeyError), rpc.start_rpc("/s/Get", "r", []):
        raise KeyError("defect")
    name = "crossfade_rpc_duration_seconds_count"
    for code in ("NOT_FOUND", "CANCELLED", "UNKNOWN"):
        assert bench.sample(name, method="Get", code=code) == 1
    refused, gone, _ = bench.spans()
    assert refused.status.description == "no such record"
    assert dict(gone.attributes or {})["rpc.grpc.status_code"] == "CANCELLED"


async def test_a_defect_is_logged_with_its_error_and_a_clients_mistake_is_not(
    quiet: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    with quiet.rpc.start_rpc("/s/Get", "r", []) as call:
        call.ended("INVALID_ARGUMENT", Rejected("wrong"))
    assert caplog.records == []
    with quiet.rpc.start_rpc("/s/Get", "r", []) as call:
        call.ended("INTERNAL", ValueError("defect"))
    (line,) = caplog.records
    assert line.exc_info is not None
    assert "Get failed with INTERNAL" in line.getMessage()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Rejected("x"), "rejected"),
        (Unavailable("x"), "unavailable"),
        (Ambiguous("x"), "ambiguous"),
        (Corrupt("x"), "corrupt"),
        (asyncio.CancelledError(), "cancelled"),
        (RuntimeError("x"), "error"),
    ],
)
async def test_a_failed_store_call_passes_its_error_on_and_is_named(
    bench: Bench, error: BaseException, outcome: str
) -> None:
    class Failing(MemoryStore):
        async def ping(self, *, deadline_s: float) -> None:
            raise error

    inner = Failing("new", schemas()["new"], SystemClock())
    store = InstrumentedStore(inner, bench.telemetry.tracing, bench.telemetry.metrics)
    with bench.telemetry.rpc.start_rpc("/s/Get", "r", []), pytest.raises(type(error)):
        await store.ping(deadline_s=1.0)
    with pytest.raises(type(error)):
        await store.ping(deadline_s=1.0)
    name = "crossfade_store_call_duration_seconds_count"
    assert bench.sample(name, store="new", operation="ping", outcome=outcome) == 2
    assert outcome_of(error) == outcome
    assert not bench.spans()[0].status.is_ok


async def test_an_instrumented_store_answers_exactly_as_the_store_does(quiet: Telemetry) -> None:
    store = instrumented(quiet)
    await store.open()
    await store.apply([source(), document("a"), document("b", number=2)], atomic=True, deadline_s=1)
    query = ListQuery(collection="documents")
    keys = [("rust", "serde", "a"), ("rust", "serde", "b")]
    order = await store.key_order("documents")
    assert [item.key for item in await store.list_records(query, deadline_s=1)] == keys
    assert await store.list_keys(query, deadline_s=1) == keys
    every = KeyRange()
    assert await store.range_keys("documents", every, order=order, deadline_s=1) == keys
    digests = await store.key_digests(
        "documents", every, fields=["content"], order=order, deadline_s=1
    )
    whole = await store.digest("documents", every, fields=["content"], order=order, deadline_s=1)
    assert (whole.rows, whole.sum) == (2, sum(item.digest for item in digests) % 2**128)
    async with store.page("documents", every, limit=9, order=order, deadline_s=1) as page:
        assert list(page.keys) == keys
    assert await store.split("documents", rows_per_range=9, order=order)
    assert await store.row_estimate("documents") == 2
    assert await store.next_ids("documents", "original_id", 1)
    found = await store.search(
        SearchQuery(collection="documents", vector=document("a").vector), deadline_s=1
    )
    assert found.hits[0].record.key == keys[0]
    assert await store.check() == []
    await store.align_sequences()
    assert store.stats()["records"] == 3
    (record,) = (await store.get("documents", keys[:1], vectors=True, deadline_s=1)).values()
    assert await store.unconvertible(record) == ""
    await store.close()


class FakeIntents:
    """An intent log that says yes to everything."""

    async def append(
        self, drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        return [
            Intent(
                seq=at,
                collection=draft.collection,
                key=draft.key,
                snapshot="",
                replica_id=replica_id,
                earlier={} if draft.idempotency_key else None,
            )
            for at, draft in enumerate(drafts)
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Do nothing."""


async def test_intents_are_counted_by_how_they_were_settled(bench: Bench) -> None:
    inner = cast("IntentLog", FakeIntents())
    ledger: IntentLog = InstrumentedIntents(inner, bench.telemetry.tracing, bench.telemetry.metrics)
    drafts = [
        IntentDraft(collection="c", key=("a",), op="upsert"),
        IntentDraft(collection="c", key=("b",), op="upsert"),
        IntentDraft(collection="c", key=("c",), op="upsert", idempotency_key="again"),
    ]
    intents = await ledger.append(drafts, epoch=1, replica_id="r")
    await ledger.settle(
        [Settlement(intent=intents[0], clean=True), Settlement(intent=intents[1], clean=False)]
    )
    assert bench.sample("crossfade_intents_appended_total") == 2
    assert bench.sample("crossfade_intents_settled_total", outcome="clean") == 1
    assert bench.sample("crossfade_intents_settled_total", outcome="dirty") == 1
    name = "crossfade_ledger_call_duration_seconds_count"
    assert bench.sample(name, operation="append", outcome="ok") == 1


class FakePlane:
    """A data plane with prepared answers."""

    served = Served(store="new", role="secondary", reason="fallback")
    ack = WriteAck(key=("a",), secondary_pending=True)

    async def write(self, write: Write, context: RequestContext) -> WriteAck:
        return self.ack

    async def batch(
        self, writes: Sequence[Write], *, atomic: bool, context: RequestContext
    ) -> list[BatchItem]:
        return [
            BatchItem(ack=replace(self.ack, replayed=True)),
            BatchItem(error=Rejected("no")),
            BatchItem(ack=replace(self.ack, secondary_pending=False)),
        ]

    async def delete_where(self, *_: object, context: RequestContext) -> int:
        return 3

    async def get(self, *_: object) -> Got:
        return Got(records=[], served=replace(self.served, reason="fenced"))

    async def search(self, *_: object) -> Found:
        return Found(result=SearchResult(hits=(), metric=Metric.COSINE), served=self.served)


async def test_reads_are_counted_by_store_and_reason_and_writes_by_outcome(bench: Bench) -> None:
    plane: DataPlane = ObservedDataPlane(cast("DataPlane", FakePlane()), bench.telemetry.metrics)
    write = Write(op=WriteOp.DELETE, collection="c", key=("a",))
    await plane.write(write, CONTEXT)
    await plane.batch([write] * 3, atomic=False, context=CONTEXT)
    await plane.delete_where("c", And(parts=()), context=CONTEXT)
    await plane.get("c", [], Projection(), CONTEXT)
    await plane.search(SearchQuery(collection="c"), CONTEXT)
    for outcome, amount in (("pending", 1), ("replayed", 1), ("both", 4)):
        assert bench.sample("crossfade_writes_total", collection="c", outcome=outcome) == amount
    for reason in ("fenced", "fallback"):
        labels = {"collection": "c", "store": "new", "reason": reason}
        assert bench.sample("crossfade_reads_total", **labels) == 1


class Idle:
    """A store call that does nothing."""

    async def ping(self, *, deadline_s: float) -> None:
        """Return at once."""


async def test_an_instrumented_call_costs_little_when_it_is_not_sampled(quiet: Telemetry) -> None:
    inner = MemoryStore("old", schemas()["old"], SystemClock())
    wrapped = InstrumentedStore(inner, quiet.tracing, quiet.metrics)
    bare_us = await _cost_us(lambda: inner.ping(deadline_s=1.0))
    cost_us = await _cost_us(lambda: wrapped.ping(deadline_s=1.0)) - bare_us
    print(f"an instrumented store call costs {cost_us:.1f} us more")
    assert cost_us < 15


async def _cost_us(call: Callable[[], object]) -> float:
    rounds = 200
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(rounds):
            await call()  # type: ignore[misc]  # a coroutine each time
        best = min(best, time.perf_counter() - start)
    return best / rounds * 1e6
