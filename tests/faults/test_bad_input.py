"""Bad requests to a real proxy over real databases: the right status, each field, no effect."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio
from crossfade.client import (
    AsyncClient,
    BatchItem,
    F,
    FieldValue,
    Filter,
    Insert,
    InvalidArgument,
    Upsert,
)
from crossfade.client.control_types import Phase
from crossfade.client.errors import CallError, ResourceExhausted

from tests.faults.harness.databases import DIM, fresh_databases, make_databases
from tests.faults.harness.databases import documents as stored_documents
from tests.faults.harness.scene import Replica, Scene, open_scene

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module")]
KEY = ("rust", "serde", "page")
MESSAGE_BYTES_MAX = 100_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    pg_admin: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Scene, Replica]]:
    """Return one proxy in dual_write for all tests of this file, with one source."""
    folder: Path = tmp_path_factory.mktemp("bad-input")
    with fresh_databases(pg_admin) as make:
        async with open_scene(folder, make_databases(make)) as scene:
            limits = {"message_bytes_max": MESSAGE_BYTES_MAX, "key_bytes_max": 64}
            replica = await scene.serve(over={"limits": limits})
            await scene.phase(replica, Phase.DUAL_WRITE)
            await replica.client.upsert("sources", ("rust", "serde"), {"version": "1.0"})
            yield scene, replica


def assert_nothing_stored(scene: Scene) -> None:
    """Neither store has a document, and the ledger knows of no write of one."""
    assert not stored_documents(scene.dbs.old, "old")
    assert not stored_documents(scene.dbs.new, "new")
    intents = "SELECT count(*) FROM crossfade.intents WHERE collection = 'documents'"
    assert scene.ask(intents) == [(0,)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_a_vector_that_is_no_number_is_refused(
    served: tuple[Scene, Replica], value: float
) -> None:
    scene, replica = served
    vector = np.ones(DIM, dtype=np.float32)
    vector[3] = value
    with pytest.raises(InvalidArgument) as caught:
        await replica.client.upsert("documents", KEY, {"content": "c"}, vector=vector)
    (violation,) = caught.value.violations
    assert violation.field == "record.vector[3]"
    assert "finite" in violation.description
    with pytest.raises(InvalidArgument):
        await replica.client.search("documents", vector)
    assert_nothing_stored(scene)


@pytest.mark.parametrize("dim", [0, DIM - 1, DIM + 1])
async def test_a_vector_of_another_length_is_refused_with_both_lengths(
    served: tuple[Scene, Replica], dim: int
) -> None:
    scene, replica = served
    vector = np.ones(dim, dtype=np.float32)
    with pytest.raises(InvalidArgument) as caught:
        await replica.client.insert("documents", KEY, {"content": "c"}, vector=vector)
    (violation,) = caught.value.violations
    assert str(DIM) in violation.description
    with pytest.raises(InvalidArgument):
        await replica.client.search("documents", vector)
    assert_nothing_stored(scene)


async def test_unknown_collections_and_fields_are_named_with_those_there_are(
    served: tuple[Scene, Replica],
) -> None:
    scene, replica = served
    with pytest.raises(InvalidArgument, match="sources") as caught:
        await replica.client.upsert("document", KEY, {"content": "c"})
    assert "documents" in caught.value.message
    with pytest.raises(InvalidArgument) as caught:
        await replica.client.upsert("documents", KEY, {"content": "c", "contents": 1, "x": 2})
    fields = {one.field for one in caught.value.violations}
    assert fields == {"record.fields.contents", "record.fields.x"}, "every problem at once"
    with pytest.raises(InvalidArgument):
        await replica.client.update("documents", KEY, {"token_count": "many"})
    assert_nothing_stored(scene)


async def test_an_over_long_key_is_refused_with_its_limit(served: tuple[Scene, Replica]) -> None:
    scene, replica = served
    with pytest.raises(InvalidArgument) as caught:
        await replica.client.upsert("documents", ("rust", "serde", "p" * 100), {"content": "c"})
    assert any("64" in one.description for one in caught.value.violations), caught.value.violations
    with pytest.raises(InvalidArgument):
        await replica.client.get("documents", ("rust", "serde"))
    assert_nothing_stored(scene)


@pytest.mark.parametrize(
    ("condition", "place"),
    [
        (F("nope") == 1, "filter"),
        (F("content") == 1, "filter"),
        (F("token_count").like("1%"), "filter"),
        (F("content").json("a") == "b", "filter"),
    ],
)
async def test_a_bad_filter_is_refused_and_deletes_nothing(
    served: tuple[Scene, Replica], condition: Filter, place: str
) -> None:
    _, replica = served
    for call in (
        replica.client.list("documents", filter=condition),
        replica.client.count("documents", filter=condition),
        replica.client.search("documents", np.ones(DIM), filter=condition),
        replica.client.delete_where("documents", condition),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await call
        assert caught.value.violations[0].field.startswith(place), caught.value.violations


async def test_a_filter_of_hostile_text_is_a_value_and_nothing_else(
    served: tuple[Scene, Replica],
) -> None:
    _, replica = served
    hostile = "'; DROP TABLE doc_embeddings; --"
    assert not (await replica.client.list("documents", filter=F("content") == hostile)).records
    like = F("content").like("%'; DROP TABLE documents; --\\")
    with pytest.raises(InvalidArgument):  # a pattern may not end in its escape
        await replica.client.list("documents", filter=like)
    assert (await replica.client.count("documents")).total == 0


async def test_an_oversized_message_is_refused_by_its_size(served: tuple[Scene, Replica]) -> None:
    scene, replica = served
    content = "x" * (MESSAGE_BYTES_MAX + 1)
    with pytest.raises(ResourceExhausted):
        await replica.client.upsert("documents", KEY, {"content": content})
    assert_nothing_stored(scene)
    assert await replica.client.get("documents", KEY) is None, "the connection lives on"


@pytest.mark.parametrize("token", ["nonsense", "AAAA", "x" * 5000])
async def test_a_bad_page_token_is_refused(served: tuple[Scene, Replica], token: str) -> None:
    _, replica = served
    with pytest.raises(InvalidArgument) as caught:
        await replica.client.list("documents", page_token=token)
    assert "page_token" in str([one.field for one in caught.value.violations]) + str(caught.value)


async def test_a_page_token_of_another_query_is_refused(served: tuple[Scene, Replica]) -> None:
    _, replica = served
    names = [f"other-{number}" for number in range(3)]
    for name in names:
        await replica.client.upsert("sources", ("rust", name), {})
    page = await replica.client.list("sources", limit=1)
    with pytest.raises(InvalidArgument):
        await replica.client.list(
            "sources", limit=1, page_token=page.next_page_token, order_by=["-version"]
        )


async def test_limits_and_offsets_out_of_range_are_refused(served: tuple[Scene, Replica]) -> None:
    _, replica = served
    for call in (
        replica.client.list("documents", limit=1001),
        replica.client.list("documents", offset=10_001),
        replica.client.search("documents", np.ones(DIM), limit=5000),
    ):
        with pytest.raises(CallError) as caught:
            await call
        assert caught.value.code in ("INVALID_ARGUMENT", "OUT_OF_RANGE")


async def test_one_bad_item_leaves_the_others_of_a_batch_alone_unless_it_is_atomic(
    served: tuple[Scene, Replica],
) -> None:
    scene, replica = served
    items: list[BatchItem] = [
        Insert("documents", ("rust", "serde", "good"), {"content": "c"}),
        Upsert("documents", ("rust", "serde", "bad"), {"content": "c"}, [math.nan] * DIM),
    ]
    with pytest.raises(InvalidArgument):
        await replica.client.batch_write(items, atomic=True)
    assert_nothing_stored(scene)
    outcomes = await replica.client.batch_write(items)
    assert [outcome.error is None for outcome in outcomes] == [True, False]
    assert len(stored_documents(scene.dbs.new, "new")) == 1
    await replica.client.delete("documents", ("rust", "serde", "good"))


async def test_a_value_that_no_store_can_hold_is_refused_and_both_stay_equal(
    served: tuple[Scene, Replica],
) -> None:
    scene, replica = served
    unfit: list[dict[str, FieldValue]] = [
        {"content": "null \x00 byte"},
        {"content": "c", "token_count": 2**40},
    ]
    for fields in unfit:
        with pytest.raises(CallError) as caught:
            await replica.client.upsert("documents", KEY, fields)
        assert caught.value.code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION"), caught.value
    await scene.settled()
    assert stored_documents(scene.dbs.old, "old") == stored_documents(scene.dbs.new, "new") == {}
    assert scene.dirty() == []


async def test_bytes_that_are_no_request_do_no_harm(served: tuple[Scene, Replica]) -> None:
    _, replica = served
    async with grpc.aio.insecure_channel(replica.target) as channel:
        upsert = channel.unary_unary("/crossfade.storage.v1.StorageService/Upsert", None, None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await upsert(b"\xff" * 100)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    async with AsyncClient(replica.target) as client:
        assert (await client.count("sources")).total >= 1
