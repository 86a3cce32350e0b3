"""The storage service and the asynchronous client, over a real socket: every call does its work."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from crossfade.client import (
    ALL,
    AlreadyExists,
    AsyncClient,
    Delete,
    F,
    Insert,
    InvalidArgument,
    Json,
    Metric,
    NotFound,
    Read,
    Scoring,
    SearchMode,
    Unimplemented,
    Update,
    Upsert,
)
from crossfade.client.types import FieldValue
from crossfade.storage.v1 import storage_pb2 as pb
from crossfade.storage.v1 import storage_pb2_grpc

from proxy import query as model
from proxy.model import WriteOp
from tests.wire_fakes import NOON, FakeDataPlane, packed
from tests.wire_server import serving, target_of

FIELDS: dict[str, FieldValue] = {
    "content": "Deserialize any data.",
    "kind": "api",
    "token_count": 5,
    "score": 0.25,
    "active": True,
    "tags": ["a", "b"],
    "metadata": {"crate_name": "serde", "ids": [1, 2**60]},
    "created_at": NOON,
}
KEY = ("serde", "de")


@pytest.fixture
async def plane() -> FakeDataPlane:
    """Return the data plane behind the client."""
    return FakeDataPlane()


@pytest.fixture
async def client(plane: FakeDataPlane) -> AsyncIterator[AsyncClient]:
    """Return a client of a server over the fake data plane."""
    async with (
        serving(plane) as server,
        AsyncClient(target_of(server), targeting_key="tenant-7") as client,
    ):
        yield client


async def test_a_record_of_every_type_is_read_as_it_was_written(client: AsyncClient) -> None:
    vector = np.array([0.1, -0.0, 3.5, 1e-40], dtype="<f4")
    ack = await client.insert("documents", KEY, FIELDS, vector=vector)
    assert (ack.key, ack.existed, ack.secondary_pending) == (KEY, False, False)
    record = await client.get("documents", KEY, Read(vector=True))
    assert record is not None
    assert record.fields == FIELDS
    assert record.vector is not None
    assert record.vector.tobytes() == vector.tobytes()
    assert record.served_by is not None
    assert (record.served_by.store, record.served_by.role) == ("old", "primary")


async def test_what_was_read_can_be_written_back_unchanged(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    fields = {**FIELDS, "metadata": Json(["no", "object"]), "kind": None}
    await client.upsert("documents", KEY, fields, vector=packed(1, 2, 3, 4))
    before = plane.records["documents", KEY]
    record = await client.get("documents", KEY, Read(vector=True))
    assert record is not None
    await client.upsert("documents", record.key, record.fields, vector=record.vector)
    assert plane.records["documents", KEY] == before


async def test_insert_fails_if_the_record_exists_and_upsert_does_not(client: AsyncClient) -> None:
    await client.insert("documents", KEY, FIELDS)
    with pytest.raises(AlreadyExists):
        await client.insert("documents", KEY, FIELDS)
    await client.upsert("documents", KEY, {"content": "new"})
    record = await client.get("documents", KEY)
    assert record is not None
    assert record.fields == {"content": "new"}


async def test_update_answers_with_the_whole_record_and_needs_one(client: AsyncClient) -> None:
    with pytest.raises(NotFound):
        await client.update("documents", KEY, {"kind": "guide"})
    await client.insert("documents", KEY, FIELDS, vector=packed(1, 2, 3, 4))
    ack = await client.update("documents", KEY, {"kind": "guide"})
    assert ack.record is not None
    assert ack.record.fields == {**FIELDS, "kind": "guide"}
    assert ack.record.vector is not None
    assert ack.record.vector.tolist() == [1, 2, 3, 4]
    cleared = await client.update("documents", KEY, clear_vector=True)
    assert cleared.record is not None
    assert cleared.record.vector is None


async def test_delete_says_whether_there_was_a_record(client: AsyncClient) -> None:
    await client.insert("documents", KEY, FIELDS)
    assert (await client.delete("documents", KEY)).existed
    assert not (await client.delete("documents", KEY)).existed


async def test_a_key_that_the_proxy_allocates_is_answered(client: AsyncClient) -> None:
    ack = await client.insert("jobs", None, {"status": "pending"})
    assert ack.key == (1,)
    record = await client.get("jobs", 1)
    assert record is not None
    assert record.key == (1,)


async def test_a_record_that_is_not_there_is_an_answer(client: AsyncClient) -> None:
    assert await client.get("documents", KEY) is None


async def test_batch_get_keeps_the_order_and_the_gaps(client: AsyncClient) -> None:
    for path in "ab":
        await client.insert("documents", ("serde", path), FIELDS)
    keys = [("serde", "b"), ("serde", "x"), ("serde", "a")]
    found = await client.batch_get("documents", keys, Read(fields=["kind"]))
    assert [record and record.key for record in found] == [("serde", "b"), None, ("serde", "a")]
    assert found[0] is not None
    assert found[0].fields == {"kind": "api"}


async def test_delete_where_takes_what_matches_and_all_only_when_told(client: AsyncClient) -> None:
    for source in ("serde", "serde", "tokio"):
        await client.upsert("documents", (source, source), FIELDS)
    await client.upsert("documents", ("serde", "b"), FIELDS)
    assert await client.delete_where("documents", F("source_name") == "serde") == 2
    assert await client.delete_where("documents", ALL) == 1


async def test_a_batch_gives_each_item_its_own_outcome(client: AsyncClient) -> None:
    await client.insert("documents", KEY, FIELDS)
    outcomes = await client.batch_write(
        [
            Insert("documents", KEY, FIELDS),
            Upsert("documents", ("serde", "b"), FIELDS, packed(1, 2, float("nan"), 4)),
            Update("documents", KEY, {"kind": "guide"}),
            Delete("documents", ("serde", "none")),
            Insert("jobs", None, {"status": "done"}),
        ]
    )
    assert isinstance(outcomes[0].error, AlreadyExists)
    assert isinstance(outcomes[1].error, InvalidArgument)
    assert outcomes[1].error.violations[0].field == "items[1].upsert.vector[2]"
    acks = [outcome.ack for outcome in outcomes[2:]]
    assert all(acks)
    assert acks[0] is not None
    assert acks[0].record is not None
    assert acks[0].record.fields["kind"] == "guide"
    assert acks[1] is not None
    assert not acks[1].existed


async def test_an_atomic_batch_with_a_wrong_item_never_reaches_the_data_plane(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    items = [Upsert("documents", KEY, FIELDS), Upsert("documents", KEY, {})]
    with pytest.raises(InvalidArgument, match=r"items\[1\]\.upsert\.fields\.content"):
        await client.batch_write(items, atomic=True)
    assert plane.seen == []


async def test_an_atomic_batch_fails_as_a_whole(client: AsyncClient) -> None:
    await client.insert("documents", KEY, FIELDS)
    with pytest.raises(AlreadyExists):
        await client.batch_write([Insert("documents", KEY, FIELDS)], atomic=True)


async def test_a_batch_whose_every_item_is_wrong_is_still_answered_item_by_item(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    outcomes = await client.batch_write([Delete("documents", "x"), Delete("nope", "x")])
    assert [type(outcome.error) for outcome in outcomes] == [InvalidArgument, InvalidArgument]
    assert plane.seen == []


async def fill(client: AsyncClient, count: int) -> list[str]:
    """Write documents and return their paths in order."""
    paths = [f"p{number:03}" for number in range(count)]
    for number, path in enumerate(paths):
        fields: dict[str, FieldValue] = {
            "content": path,
            "token_count": number,
            "kind": ("api", None)[number % 2],
        }
        await client.upsert("documents", ("serde", path), fields, vector=packed(number, 1, 0, 0))
    return paths


async def test_pages_follow_each_other_without_gap_or_repetition(client: AsyncClient) -> None:
    paths = await fill(client, 7)
    seen: list[str | int] = []
    token = ""
    for size in (3, 3, 1):
        page = await client.list("documents", limit=3, page_token=token, order_by=["source_name"])
        assert len(page.records) == size
        seen += [record.key[1] for record in page.records]
        token = page.next_page_token
    assert token == ""
    assert seen == paths


async def test_iterate_yields_every_record(client: AsyncClient) -> None:
    paths = await fill(client, 7)
    found = [record.key[1] async for record in client.iterate("documents", page_size=2)]
    assert found == paths


async def test_a_token_of_another_query_is_refused(client: AsyncClient) -> None:
    await fill(client, 3)
    page = await client.list("documents", limit=1)
    with pytest.raises(InvalidArgument) as caught:
        await client.list(
            "documents", limit=1, page_token=page.next_page_token, filter=F("kind") == "api"
        )
    assert caught.value.violations[0].field == "page_token"


async def test_a_list_can_skip_filter_and_choose_what_to_read(client: AsyncClient) -> None:
    await fill(client, 6)
    page = await client.list(
        "documents",
        filter=F("kind") == "api",
        offset=1,
        read=Read(fields=["token_count"], vector=True),
    )
    assert [record.fields for record in page.records] == [{"token_count": 2}, {"token_count": 4}]
    assert page.records[0].vector is not None
    assert page.served_by.reason == "routed"


async def test_counts_are_whole_or_by_value(client: AsyncClient) -> None:
    await fill(client, 5)
    whole = await client.count("documents", sum_field="token_count")
    assert (whole.total, len(whole.groups), whole.groups[0].value) == (5, 1, None)
    assert whole.groups[0].sum == 10.0
    by_kind = await client.count("documents", group_by="kind", sum_field="token_count")
    assert {group.value: (group.count, group.sum) for group in by_kind.groups} == {
        "api": (3, 6.0),
        None: (2, 4.0),
    }
    assert by_kind.total == 5


async def test_hits_carry_metric_distance_similarity_and_who_served_them(
    client: AsyncClient,
) -> None:
    await client.upsert("documents", ("serde", "x"), FIELDS, vector=[1, 0, 0, 0])
    await client.upsert("documents", ("serde", "y"), FIELDS, vector=[0, 1, 0, 0])
    await client.upsert("documents", ("serde", "z"), FIELDS)
    found = await client.search("documents", [1, 0, 0, 0], read=Read(fields=[]))
    assert [hit.record.key[1] for hit in found.hits] == ["x", "y"]
    assert (found.metric, found.indexed) == (Metric.COSINE, True)
    assert (found.hits[1].distance, found.hits[1].similarity) == (1.0, 0.0)
    assert (found.served_by.store, found.served_by.role) == ("new", "secondary")
    assert found.hits[0].record.fields == {}


async def test_a_mode_that_the_store_lacks_is_unimplemented_with_a_clear_message(
    client: AsyncClient,
) -> None:
    for mode in (SearchMode.TEXT, SearchMode.KEYWORD):
        with pytest.raises(Unimplemented, match=f"has no {mode.value} search"):
            await client.search_text("documents", "borrow", mode=mode)
    with pytest.raises(Unimplemented, match="has no hybrid search"):
        await client.search_hybrid("documents", "borrow", vector=[1, 0, 0, 0], alpha=0.5)


@pytest.mark.parametrize("scoring", list(Scoring))
async def test_a_search_says_what_its_hits_are_ranked_by(
    client: AsyncClient, plane: FakeDataPlane, scoring: Scoring
) -> None:
    plane.scoring = model.Scoring(scoring.value)
    assert (await client.search("documents", [1, 0, 0, 0])).scoring is scoring


async def test_what_is_searched_for_says_how(client: AsyncClient, plane: FakeDataPlane) -> None:
    vector = [1.0, 0.0, 0.0, 0.0]
    await client.search("documents", vector)
    for ask in (
        client.search("documents", text="borrow", mode=SearchMode.KEYWORD),
        client.search("documents", text="borrow", limit=3),
        client.search("documents", vector, text="borrow", alpha=0.2, exact=True),
        client.search_hybrid("documents", "borrow", vector=vector, alpha=0.4, limit=2),
    ):
        with pytest.raises(Unimplemented):
            await ask
    asked = [query for query in plane.seen if isinstance(query, model.SearchQuery)]
    assert [(query.mode.value, query.text, query.limit, query.alpha) for query in asked] == [
        ("vector", "", 10, 0.7),
        ("keyword", "borrow", 10, 0.7),
        ("text", "borrow", 3, 0.7),
        ("hybrid", "borrow", 10, 0.2),
        ("hybrid", "borrow", 2, 0.4),
    ]
    assert (asked[3].exact, asked[3].vector) == (True, packed(*vector))


async def test_what_the_caller_says_of_itself_reaches_the_data_plane(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    scoped = client.scoped(
        targeting_key="tenant-8", request_id="r-1", attributes={"plan": "gold"}, timeout_s=3
    )
    await scoped.upsert("documents", KEY, FIELDS, idempotency_key="i-1")
    context = plane.contexts[0]
    assert (context.targeting_key, context.request_id) == ("tenant-8", "r-1")
    assert context.attributes == {"plan": "gold"}
    assert context.idempotency_key == "i-1"
    assert 2 < context.deadline_s < 3.1  # gRPC rounds what it sends up
    await client.get("documents", KEY)
    assert plane.contexts[1].targeting_key == "tenant-7"
    assert plane.contexts[1].idempotency_key == ""


async def test_every_write_has_an_idempotency_key_of_its_own(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    for _ in range(2):
        await client.upsert("documents", KEY, FIELDS)
    keys = [context.idempotency_key for context in plane.contexts]
    assert len(set(keys)) == 2
    assert all(keys)
    again = await client.upsert("documents", KEY, FIELDS, idempotency_key=keys[0])
    assert again.replayed


async def test_trailing_metadata_tells_the_request_id_and_a_pending_secondary(
    plane: FakeDataPlane,
) -> None:
    plane.pending = True
    request = pb.DeleteRequest(collection="jobs")
    request.key.parts.add().int_value = 1
    batch = pb.BatchWriteRequest(
        items=[pb.WriteItem(collection="jobs", delete=request.key)], atomic=True
    )
    async with (
        serving(plane) as server,
        grpc.aio.insecure_channel(target_of(server)) as channel,
    ):
        stub = storage_pb2_grpc.StorageServiceStub(channel)
        for begin in (lambda: stub.Delete(request), lambda: stub.BatchWrite(batch)):
            call = begin()
            await call
            trailing = dict(list(await call.trailing_metadata()))
            assert trailing["crossfade-secondary-pending"] == "1"
            assert trailing["x-request-id"] == plane.contexts[-1].request_id
        plane.pending = False
        call = stub.Delete(request, metadata=(("x-request-id", "mine"),))
        assert (await call).secondary_pending is False
        assert dict(list(await call.trailing_metadata())) == {"x-request-id": "mine"}
    assert plane.contexts[-1].deadline_s == 10.0  # the call had none of its own


async def test_the_data_plane_gets_the_vector_as_the_bytes_that_came(
    client: AsyncClient, plane: FakeDataPlane
) -> None:
    vector = packed(1, 2, 3, 4)
    await client.upsert("documents", KEY, FIELDS, vector=vector)
    write = plane.seen[0]
    assert getattr(write, "op", None) is WriteOp.UPSERT
    assert getattr(write, "vector", None) == vector
