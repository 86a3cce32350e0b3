"""Where the time of a search goes, layer by layer: driver, adapter, transport, and the rest."""

from __future__ import annotations

from collections.abc import Sequence

from crossfade.storage.v1 import storage_pb2 as pb

from proxy.demo.doc_server.corpus import Question
from proxy.query import SearchQuery
from proxy.stores.postgres import PostgresStore
from tests.bench.direct import Direct
from tests.bench.echo import empty_calls
from tests.bench.sampling import in_turns
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
        request, answer = await _sizes(adapter, questions[0])
        async with (
            client_of(proxy) as client,
            Direct(dsn, schema) as direct,
            empty_calls(world.household, request_bytes=request, answer_bytes=answer) as empty,
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
