"""Bad input and bad weather over a real socket: the right status, and nothing swallowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from unittest.mock import ANY

import grpc
import pytest
from crossfade.client import (
    AsyncClient,
    CallError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Upsert,
)
from crossfade.client.errors import from_rpc_error
from crossfade.client.transport import MESSAGE_BYTES_MAX
from crossfade.storage.v1 import storage_pb2 as pb

from proxy.dataplane import BatchItem, RequestContext, WriteAck
from proxy.errors import Ambiguous, Corrupt, Reason, Rejected, StaleEpoch
from proxy.errors import Unavailable as StoreDown
from proxy.fronts.native import errors, rpc
from proxy.fronts.native.context import Deadlines
from proxy.fronts.native.rpc import Pipeline, Reply, Unary
from tests.wire_fakes import FakeDataPlane
from tests.wire_server import OPTIONS, serving, target_of, with_limits

KEY = ("serde", "de")
SERVICE = "/crossfade.storage.v1.StorageService"


@pytest.fixture
async def plane() -> FakeDataPlane:
    """Return the data plane behind the client."""
    return FakeDataPlane()


@pytest.fixture
async def client(plane: FakeDataPlane) -> AsyncIterator[AsyncClient]:
    """Return a client that tries once."""
    async with serving(plane) as server, AsyncClient(target_of(server), retries=0) as client:
        yield client


async def raw_call(client: AsyncClient, method: str, data: bytes) -> bytes:
    """Call a method with bytes, past the client's own checks."""
    answer: bytes = await client._channel.unary_unary(method, None, None)(data)
    return answer


async def test_bad_input_is_invalid_argument_with_every_field_and_reaches_no_store(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.upsert(
            "documents", ("x" * 300,), {"nope": 1, "score": float("nan")}, vector=[1, 2]
        )
    assert {violation.field for violation in caught.value.violations} == {
        "record.key",
        "record.fields.nope",
        "record.fields.score",
        "record.fields.content",
        "record.vector",
    }
    assert caught.value.request_id
    with pytest.raises(InvalidArgument, match="expected one of documents, jobs, got 'nope'"):
        await client.search("nope", [1, 2, 3, 4])
    assert plane.seen == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Rejected("No.", reason=Reason.FAILED_PRECONDITION), ("FAILED_PRECONDITION", ANY)),
        (Rejected("Full.", reason=Reason.RESOURCE_EXHAUSTED), ("RESOURCE_EXHAUSTED", ANY)),
        (StoreDown("Down.", where="old"), ("UNAVAILABLE", "UNAVAILABLE")),
        (StaleEpoch("Moved."), ("UNAVAILABLE", "STALE_EPOCH")),
        (Ambiguous("Lost.", where="old"), ("UNAVAILABLE", "AMBIGUOUS")),
        (Ambiguous("Late.", where="old", timed_out=True), ("DEADLINE_EXCEEDED", "AMBIGUOUS")),
        (Corrupt("Row 7 cannot be decoded."), ("DATA_LOSS", "CORRUPT")),
        (ValueError("secret"), ("INTERNAL", "INTERNAL")),
    ],
)
async def test_an_error_of_the_data_plane_arrives_as_its_status(
    client: AsyncClient,
    plane: FakeDataPlane,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    expected: tuple[str, str],
) -> None:
    plane.fail = error
    with pytest.raises(CallError) as caught:
        await client.scoped(request_id="r-1").delete("documents", KEY)
    code = caught.value.code
    assert (code, caught.value.detail.reason) == expected
    assert caught.value.request_id == "r-1"
    logged = [
        (vars(line)["code"], vars(line)["request_id"], line.exc_info and line.exc_info[1])
        for line in caplog.records
        if line.name == "proxy.fronts.native.rpc"
    ]
    assert logged == ([(code, "r-1", error)] if code in ("DATA_LOSS", "INTERNAL") else [])


async def test_a_defect_tells_the_caller_nothing_of_the_inside(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    plane.fail = ValueError("password=hunter2")
    with pytest.raises(Internal) as caught:
        await client.get("documents", KEY)
    assert "hunter2" not in repr(caught.value.__cause__)
    assert caught.value.request_id in caught.value.message


async def test_a_defect_in_one_item_of_a_batch_is_logged_and_told_for_that_item(
    client: AsyncClient,
    plane: FakeDataPlane,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def batch(*_: object, **__: object) -> list[BatchItem]:
        return [BatchItem(ack=WriteAck(key=KEY)), BatchItem(error=ValueError("secret"))]

    monkeypatch.setattr(plane, "batch", batch)
    item = Upsert("documents", KEY, {"content": "x"})
    outcomes = await client.batch_write([item, item])
    assert outcomes[0].ack is not None
    assert isinstance(outcomes[1].error, Internal)
    assert "secret" not in str(outcomes[1].error)
    assert [str(line.exc_info and line.exc_info[1]) for line in caplog.records] == ["secret"]


async def test_bytes_that_are_no_message_are_invalid_argument(client: AsyncClient) -> None:
    for raw in (b"\xff\xff", b"\x0a\x03\xff\xfe\xfd"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_call(client, f"{SERVICE}/Search", raw)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def framed(tag: bytes, data: bytes) -> bytes:
    """Return a length-delimited field as protobuf writes it."""
    size, varint = len(data), b""
    while size > 127:
        varint += bytes([size & 127 | 128])
        size >>= 7
    return tag + varint + bytes([size]) + data


async def test_a_filter_nested_beyond_reason_is_refused_and_breaks_nothing(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    raw = pb.Filter(is_null=pb.IsNull(field="kind")).SerializeToString()
    for _ in range(2000):
        raw = framed(b"\x4a", raw)  # Filter.negation, deeper than protobuf's own writer goes
    request = pb.CountRequest(collection="documents").SerializeToString() + framed(b"\x12", raw)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_call(client, f"{SERVICE}/Count", request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await client.count("documents")).total == 0


async def test_a_bad_header_is_named(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.scoped(targeting_key="x" * 200).get("documents", KEY)
    assert caught.value.violations[0].field == "metadata.crossfade-targeting-key"


async def test_an_unknown_call_is_unimplemented(client: AsyncClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_call(client, f"{SERVICE}/Nope", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_oversized_request_is_refused_by_its_size() -> None:
    options = with_limits(message_bytes_max=2**16)
    async with (
        serving(FakeDataPlane(), options=options) as server,
        AsyncClient(target_of(server)) as client,
    ):
        with pytest.raises(ResourceExhausted):
            await client.upsert("documents", KEY, {"content": "x" * 2**17})
        assert await client.get("documents", KEY) is None


async def test_an_oversized_answer_is_refused_with_what_to_do() -> None:
    options = with_limits(message_bytes_max=2**16)
    plane = FakeDataPlane()
    async with (
        serving(plane, options=options) as server,
        AsyncClient(target_of(server)) as client,
    ):
        for number in range(4):
            fields = {"content": "x" * 20_000}
            await client.upsert("documents", ("serde", str(number)), fields)
        with pytest.raises(ResourceExhausted, match="Ask for fewer records"):
            await client.list("documents")
        page = await client.list("documents", limit=3)
        assert len(page.records) == 3


async def test_an_answer_over_grpc_s_own_default_arrives(client: AsyncClient) -> None:
    for number in range(6):
        await client.upsert("documents", ("serde", str(number)), {"content": "x" * 2**20})
    assert len((await client.list("documents")).records) == 6
    assert MESSAGE_BYTES_MAX > 6 * 2**20


async def test_calls_beyond_the_bound_are_refused_and_the_others_end_well() -> None:
    plane = FakeDataPlane(gate=asyncio.Event())
    options = replace(OPTIONS, concurrent_rpcs_max=2)
    async with (
        serving(plane, options=options) as server,
        AsyncClient(target_of(server), retries=0) as client,
    ):
        calls = [asyncio.create_task(client.get("documents", KEY)) for _ in range(4)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert all(isinstance(call.exception(), ResourceExhausted) for call in done)
        assert plane.gate is not None
        plane.gate.set()
        assert [await call for call in waiting] == [None, None]


# ---------------------------------------------------------------- deadlines and cancellation


async def test_a_client_that_goes_away_cancels_the_handler(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    plane.gate = asyncio.Event()
    call = asyncio.create_task(client.upsert("documents", KEY, {"content": "x"}))
    await plane.entered.wait()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    async with asyncio.timeout(5):
        await plane.cancelled.wait()
    plane.gate = None
    assert await client.get("documents", KEY) is None


async def test_a_write_that_the_data_plane_shields_runs_to_its_end_without_the_client(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    """The front passes the cancellation on and waits for nobody: shielding works through it."""
    gate = asyncio.Event()
    entered = asyncio.Event()
    applied = asyncio.Event()
    plain = plane.write

    async def shielded(write: object, context: RequestContext) -> object:
        async def work() -> object:
            entered.set()
            await gate.wait()
            answer = await plain(write, context)  # type: ignore[arg-type]  # a write is a write
            applied.set()
            return answer

        return await asyncio.shield(asyncio.create_task(work()))

    plane.write = shielded  # type: ignore[assignment, method-assign]  # the fake of a fake
    call = asyncio.create_task(client.upsert("documents", KEY, {"content": "x"}))
    await entered.wait()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    assert await client.get("documents", KEY) is None
    gate.set()
    async with asyncio.timeout(5):
        await applied.wait()
    assert await client.get("documents", KEY) is not None


async def test_a_deadline_of_the_client_ends_the_call(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    plane.gate = asyncio.Event()
    with pytest.raises(DeadlineExceeded) as caught:
        await client.scoped(timeout_s=0.5).upsert("documents", KEY, {"content": "x"})
    assert caught.value.maybe_applied
    async with asyncio.timeout(5):
        await plane.cancelled.wait()


@pytest.mark.parametrize(("writes", "reason"), [(True, "AMBIGUOUS"), (False, "DEADLINE_EXCEEDED")])
async def test_a_data_plane_that_forgets_its_deadline_is_given_up(
    monkeypatch: pytest.MonkeyPatch, writes: bool, reason: str
) -> None:
    monkeypatch.setattr(rpc, "_GRACE_S", 0.01)

    async def forever(request: object, context: RequestContext) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    method = Unary(name="Hang", request=pb.GetRequest, handle=forever, writes=writes)
    pipeline = Pipeline(answer_bytes_max=100, deadlines=Deadlines(default_s=0.01, max_s=0.01))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((pipeline.handlers("x.Y", [method]),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw_call(client, "/x.Y/Hang", b"")
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert from_rpc_error(caught.value).detail.reason == reason
    finally:
        await server.stop(0)


# ---------------------------------------------------------------- retries of the client


@dataclass
class Flaky(FakeDataPlane):
    """Fails some times, then answers."""

    failures: list[Exception] = field(default_factory=list)

    async def _enter(self, context: RequestContext, asked: object) -> None:
        self.contexts.append(context)
        if self.failures:
            raise self.failures.pop(0)


async def test_unavailable_is_tried_again_with_the_same_idempotency_key() -> None:
    failures: list[Exception] = [StaleEpoch("Moved."), Ambiguous("Lost.")]
    plane = Flaky(failures=failures)
    async with serving(plane) as server, AsyncClient(target_of(server)) as client:
        await client.upsert("documents", KEY, {"content": "x"})
    keys = [context.idempotency_key for context in plane.contexts]
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_retries_are_bounded_and_the_last_error_is_raised() -> None:
    plane = Flaky(failures=[StaleEpoch(f"{number}") for number in range(9)])
    async with serving(plane) as server, AsyncClient(target_of(server), retries=2) as client:
        with pytest.raises(Unavailable, match="2"):
            await client.get("documents", KEY)
    assert len(plane.contexts) == 3


async def test_no_retry_begins_that_could_not_end_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(errors, "_RETRY_S", 60.0)
    plane = Flaky(failures=[StoreDown("Down.")] * 9)
    async with serving(plane) as server, AsyncClient(target_of(server), timeout_s=50) as client:
        with pytest.raises(Unavailable):
            await client.get("documents", KEY)
    assert len(plane.contexts) == 1


async def test_what_a_retry_cannot_help_is_not_tried_again() -> None:
    plane = Flaky(failures=[Rejected("No."), Ambiguous("Late.", timed_out=True), Corrupt("x")])
    async with serving(plane) as server, AsyncClient(target_of(server)) as client:
        for code in ("INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "DATA_LOSS"):
            with pytest.raises(CallError, match=code):
                await client.get("documents", KEY)
    assert len(plane.contexts) == 3


async def test_a_replica_that_stops_is_passed_over() -> None:
    first, second = FakeDataPlane(), FakeDataPlane()
    async with serving(second) as survivor, serving(first) as leaver:
        target = f"ipv4:{target_of(leaver)},{target_of(survivor)}"
        async with AsyncClient(target) as client:
            while not (first.contexts and second.contexts):  # both are in use
                await client.get("documents", KEY)
            await leaver.stop(0)
            served = len(second.contexts)
            for _ in range(20):
                await client.get("documents", KEY)
    assert len(second.contexts) == served + 20


async def test_a_proxy_that_is_not_there_is_unavailable(client: AsyncClient) -> None:
    async with AsyncClient("127.0.0.1:1", retries=1) as nobody:
        with pytest.raises(Unavailable) as caught:
            await nobody.get("documents", KEY)
    assert caught.value.request_id == ""
    assert caught.value.maybe_applied
