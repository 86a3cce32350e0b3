"""Where the time of a search goes, layer by layer: driver, adapter, transport, and the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
from crossfade.client.transport import MESSAGE_BYTES_MAX, open_channel
from crossfade.storage.v1 import storage_pb2 as pb

from proxy.demo.corpus import Question
from proxy.demo.processes import ChildFailed
from proxy.query import SearchQuery
from proxy.stores.postgres import PostgresStore
from tests.bench.direct import Direct
from tests.bench.echo import METHOD, request_of
from tests.bench.sampling import Way, in_turns
from tests.bench.searches import COLLECTION, LIMIT, ways_of
from tests.bench.world import Serving, World, client_of

_DEADLINE_S = 60.0


async def search_layers(
    world: World, proxy: Serving, store: str, questions: Sequence[Question], calls: int
) -> dict[str, float]:
    """Time the same searches through more and more of the way; return medians in ms.

    `psycopg` is the driver alone, `adapter` the store adapter in this process, `proxy` the whole
    way; `empty gRPC call` goes to a process that does nothing, with messages of the same sizes.
    What is left of the whole after driver, adapter and empty call is the proxy's own work and the
    client's.
    """
    config = world.config()
    dsn = world.dsns.new if store == "new" else world.dsns.old
    schema = config.new if store == "new" else config.old
    adapter = PostgresStore(store, dsn, schema)
    await adapter.open()
    try:
        async with (
            client_of(proxy) as client,
            Direct(dsn, schema) as direct,
            _empty_calls(world, await _sizes(adapter, questions[0])) as empty,
        ):

            async def by_adapter(number: int) -> object:
                question = questions[number % len(questions)]
                query = SearchQuery(collection=COLLECTION, vector=question.vector, limit=LIMIT)
                return await adapter.search(query, deadline_s=_DEADLINE_S)

            ways = await ways_of(client, direct, questions)
            ways = {"psycopg": ways["direct"], "adapter": by_adapter, "proxy": ways["proxy"]}
            timed = await in_turns({**ways, "empty gRPC call": empty}, calls=calls)
    finally:
        await adapter.close()
    found = {name: round(series.p50_ms, 3) for name, series in timed.items()}
    spent = found["adapter"] + found["empty gRPC call"]
    found["adapter adds"] = round(found["adapter"] - found["psycopg"], 3)
    found["proxy and client add"] = round(found["proxy"] - spent, 3)
    return found


async def _sizes(adapter: PostgresStore, question: Question) -> tuple[int, int]:
    """Return about how many bytes the request and the answer of a search have."""
    request = pb.SearchRequest(collection=COLLECTION, vector=question.vector, limit=LIMIT)
    query = SearchQuery(collection=COLLECTION, vector=question.vector, limit=LIMIT)
    result = await adapter.search(query, deadline_s=_DEADLINE_S)
    texts = sum(len(str(value)) for hit in result.hits for value in hit.record.fields.values())
    return request.ByteSize(), texts


@asynccontextmanager
async def _empty_calls(world: World, sizes: tuple[int, int]) -> AsyncIterator[Way]:
    child = await world.household.start("echo", ["-m", "tests.bench.echo"], talk=True)
    try:
        if child.process.stdout is None:
            raise ChildFailed("The echo server has no output to read.")
        port = int(await child.process.stdout.readline())
        async with open_channel(f"127.0.0.1:{port}", None, MESSAGE_BYTES_MAX) as channel:
            yield _way(channel, request_of(*sizes))
    finally:
        await world.household.stop(child)


def _way(channel: grpc.aio.Channel, request: bytes) -> Way:
    method = channel.unary_unary(METHOD, None, None)

    async def call(number: int) -> object:
        return await method(request, timeout=_DEADLINE_S)

    return call
