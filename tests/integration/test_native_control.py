"""The control service and its client, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from crossfade.client import InvalidArgument, NotFound, Unavailable
from crossfade.client.control import ControlClient
from crossfade.client.control_types import JobAction, JobKind, JobState, Phase
from crossfade.control.v1 import control_pb2 as pb
from crossfade.control.v1 import control_pb2_grpc

from proxy.errors import Rejected
from proxy.errors import Unavailable as Down
from proxy.ledger.types import JobKind as ModelKind
from proxy.ledger.types import JobState as ModelState
from proxy.ledger.types import Phase as ModelPhase
from tests.wire_fakes import NOON, FakeControlPlane
from tests.wire_server import serving, target_of


@pytest.fixture
async def plane() -> FakeControlPlane:
    """Return the control plane behind the client."""
    return FakeControlPlane()


@pytest.fixture
async def client(plane: FakeControlPlane) -> AsyncIterator[ControlClient]:
    """Return a client of a server over the fake control plane."""
    async with (
        serving(control_plane=plane) as server,
        ControlClient(target_of(server), retries=1) as client,
    ):
        yield client


async def test_the_status_arrives_whole(client: ControlClient) -> None:
    status = await client.status()
    assert (status.migration, status.routing.phase) == ("docs", Phase.RAMP)
    assert (status.routing.epoch, status.routing.traffic_percent) == (3, 25.0)
    assert (status.stores[0].name, status.stores[0].breaker) == ("old", "closed")
    assert (status.replicas[0].lease_left_s, status.replicas[0].started_at) == (7.5, NOON)
    assert (status.unsettled, status.dirty, status.dead_letters) == (2, {"documents": 4}, 1)
    assert (status.indexes[0].exists, status.indexes[0].ready) == (True, False)
    assert status.flags == {"full_verify_needed": True}
    assert status.next_steps == ["crossfade verify"]
    job = status.jobs[0]
    assert (job.kind, job.state, job.wanted) == (
        JobKind.VERIFY,
        JobState.RUNNING,
        JobState.REQUESTED,
    )
    assert (job.params, job.summary) == ({"collections": ["documents"]}, {"rows": 10, "rate": 1.5})
    assert (job.started_at, job.finished_at, job.state.ended) == (NOON, None, False)


async def test_a_refused_step_is_an_answer_with_its_preconditions(
    client: ControlClient, plane: FakeControlPlane
) -> None:
    change = await client.change_phase(Phase.NEW_PRIMARY, actor="ann", dry_run=True)
    assert not change.applied
    assert (change.preconditions[0].name, change.preconditions[0].remedy) == ("dirty", "repair")
    forced = await client.change_phase(Phase.NEW_PRIMARY, actor="ann", reason="must", force=True)
    assert (forced.applied, forced.stall_ms) == (True, 12.5)
    assert plane.asked == [
        ("change_phase", ModelPhase.NEW_PRIMARY, True, False, "ann", ""),
        ("change_phase", ModelPhase.NEW_PRIMARY, False, True, "ann", "must"),
    ]


async def test_traffic_is_set(client: ControlClient) -> None:
    change = await client.set_traffic(12.5, actor="ann")
    assert (change.applied, change.routing.traffic_percent) == (True, 12.5)


@pytest.mark.parametrize("percent", [-1.0, 100.1, float("nan"), float("inf")])
async def test_a_share_that_is_none_is_refused(client: ControlClient, percent: float) -> None:
    with pytest.raises(InvalidArgument, match="traffic_percent: expected 0 to 100"):
        await client.set_traffic(percent, actor="ann")


async def test_a_command_says_who_asks_and_a_forced_one_why(
    client: ControlClient, plane: FakeControlPlane
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.change_phase(Phase.RAMP, actor=" ", force=True)
    assert [violation.field for violation in caught.value.violations] == ["actor", "reason"]
    with pytest.raises(InvalidArgument, match="actor"):
        await client.start_job(JobKind.REPAIR, {}, actor="")
    with pytest.raises(InvalidArgument, match="actor"):
        await client.control_job(7, JobAction.PAUSE, actor="x" * 1001)
    with pytest.raises(InvalidArgument, match="reason"):
        await client.set_traffic(1, actor="ann", reason="x" * 1001)
    assert plane.asked == []


async def test_a_job_is_started_and_controlled(
    client: ControlClient, plane: FakeControlPlane
) -> None:
    job = await client.start_job(JobKind.BACKFILL, {"dry_run": True}, actor="ann")
    assert (job.kind, job.state, job.started_at) == (JobKind.BACKFILL, JobState.REQUESTED, None)
    for action in JobAction:
        await client.control_job(7, action, actor="ann")
    assert plane.asked == [
        ("start_job", ModelKind.BACKFILL, {"dry_run": True}, "ann"),
        ("want_job", 7, ModelState.PAUSED, "ann"),
        ("want_job", 7, ModelState.REQUESTED, "ann"),
        ("want_job", 7, ModelState.CANCELLED, "ann"),
    ]


async def test_jobs_are_read(client: ControlClient) -> None:
    assert (await client.job(7)).owner == "runner-1"
    assert [job.job_id for job in await client.jobs()] == [7]
    with pytest.raises(NotFound, match="There is no job 8"):
        await client.job(8)


async def test_reports_and_logs_are_read(client: ControlClient, plane: FakeControlPlane) -> None:
    assert await client.shadow_report() == {"queries": 3, "overlap": 0.99}
    event = (await client.events(limit=5, after=41))[0]
    assert (event.event_id, event.at, event.detail) == (42, NOON, {"to": "ramp"})
    dirty = (await client.dirty_keys("documents"))[0]
    assert (dirty.collection, dirty.key, dirty.since) == ("documents", ("a", 1), NOON)
    letter = (await client.dead_letters())[0]
    assert (letter.key, letter.reason, letter.job_id) == (("a", "b"), "too long", 7)
    assert plane.asked[1:] == [
        ("events", 5, 41),
        ("dirty_keys", "documents", 100),
        ("dead_letters", 100),
    ]


async def test_limits_are_bounded(client: ControlClient) -> None:
    for limit in (-1, 1001):
        for call in (
            client.events(limit=limit),
            client.dirty_keys("documents", limit=limit),
            client.dead_letters(limit=limit),
        ):
            with pytest.raises(InvalidArgument, match="limit: expected 1 to 1000"):
                await call


async def test_what_no_client_of_ours_sends_is_refused_as_well(plane: FakeControlPlane) -> None:
    async with (
        serving(control_plane=plane) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        stub = control_pb2_grpc.ControlServiceStub(channel)
        for call, where in (
            (stub.ChangePhase(pb.ChangePhaseRequest(actor="a")), "target"),
            (stub.StartJob(pb.StartJobRequest(actor="a")), "kind"),
            (stub.ControlJob(pb.ControlJobRequest(actor="a", job_id=7)), "action"),
            (stub.StartJob(job_request("{")), "params_json"),
            (stub.StartJob(job_request("[1]")), "params_json"),
            (stub.StartJob(job_request('{"a": NaN}')), "params_json"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=where) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await stub.StartJob(job_request(""))
    assert plane.asked == [("start_job", ModelKind.VERIFY, {}, "a")]


def job_request(params_json: str) -> pb.StartJobRequest:
    """Return a request with these parameters."""
    return pb.StartJobRequest(actor="a", kind=pb.JOB_KIND_VERIFY, params_json=params_json)


# ---------------------------------------------------------------- watching


async def test_a_watched_job_is_told_at_each_change_until_it_has_ended(
    client: ControlClient, plane: FakeControlPlane
) -> None:
    running = [ModelState.RUNNING] * 3
    plane.states = [ModelState.REQUESTED, *running, ModelState.PAUSED, ModelState.DONE]
    states = [job.state async for job in client.watch_job(7)]
    assert states == [JobState.REQUESTED, JobState.RUNNING, JobState.PAUSED, JobState.DONE]


async def test_watching_a_job_that_is_not_there_is_not_found(client: ControlClient) -> None:
    with pytest.raises(NotFound):
        await anext(aiter(client.watch_job(8)))


async def test_a_watch_outlives_a_ledger_that_is_down_for_a_moment(
    client: ControlClient, plane: FakeControlPlane
) -> None:
    watch = aiter(client.watch_job(7))
    assert (await anext(watch)).state is JobState.RUNNING
    plane.fail = Down("Down.", where="ledger")
    plane.states = [ModelState.RUNNING, ModelState.DONE]
    assert (await anext(watch)).state is JobState.DONE


async def test_a_watch_ends_at_once_when_the_server_stops(plane: FakeControlPlane) -> None:
    async with (
        serving(control_plane=plane) as server,
        ControlClient(target_of(server), retries=0) as client,
    ):
        watch = aiter(client.watch_job(7))
        await anext(watch)
        async with asyncio.timeout(5):
            await server.stop(60)  # the watch does not use the grace up
        with pytest.raises(Unavailable, match="Watch the job at another"):
            await anext(watch)


async def test_a_watcher_that_goes_away_stops_the_watch(plane: FakeControlPlane) -> None:
    plane.hang_after = 1  # the first look is answered
    async with serving(control_plane=plane) as server:
        async with grpc.aio.insecure_channel(target_of(server)) as channel:
            stub = control_pb2_grpc.ControlServiceStub(channel)
            call = stub.WatchJob(pb.WatchJobRequest(job_id=7))
            first = await call.read()
            assert isinstance(first, pb.Job)
            assert first.job_id == 7
            async with asyncio.timeout(5):
                while len(plane.asked) < 2:
                    await asyncio.sleep(0)
            assert plane.given_up == 0
            call.cancel()
        async with asyncio.timeout(5):
            while not plane.given_up:
                await asyncio.sleep(0)
        assert (plane.given_up, len(plane.asked)) == (1, 2), "nobody looks at the job any more"
        async with asyncio.timeout(5):
            await server.stop(60)


async def test_an_error_of_the_control_plane_arrives_as_its_status(
    client: ControlClient, plane: FakeControlPlane
) -> None:
    plane.fail = Rejected("Not now.")
    with pytest.raises(InvalidArgument, match="Not now"):
        await client.status()
    plane.fail = Down("Down.", where="ledger")
    with pytest.raises(Unavailable):  # a command is not tried twice
        await client.change_phase(Phase.RAMP, actor="ann")
    assert len(plane.asked) == 2
