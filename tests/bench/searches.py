"""Parts 1 and 6: search through the proxy against the same SQL, and the index against the scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossfade.client import AsyncClient

from proxy.demo.doc_server.corpus import Question
from proxy.errors import CrossfadeError
from proxy.query import SearchQuery
from proxy.stores.postgres.adapt import PackedVector
from tests.bench.direct import Direct
from tests.bench.figures import Figure, Results, Series, added, tail
from tests.bench.sampling import Way, by_many, in_turns
from tests.bench.sizes import Sizes
from tests.bench.world import Serving, World, client_of

PART = "1 search"
INDEX_PART = "6 index"
LIMIT = 10
COLLECTION = "documents"
_ADDED_MS_MAX = 0.6
_TAIL_MAX = 1.05
_SPEEDUP_MIN = 20.0
_RECALL_MIN = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is searched for, and how often."""

    questions: Sequence[Question]
    sizes: Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """One store's searches.

    Attributes:
        proxy, direct: latencies of one client.
        found: the ids of each question's hits through the proxy, best first.
    """

    proxy: Series
    direct: Series
    found: list[list[str]]


async def measure(world: World, proxy: Serving, store: str, ask: Ask, results: Results) -> Searched:
    """Search one store, through the proxy and directly, by one client and by several.

    Args:
        store: "old" (exact scan) or "new" (by the index); the proxy must read from it.
    """
    indexed = store == "new"
    config = world.config()
    name = f"{'index' if indexed else 'exact scan'} on {store}"
    questions, sizes = ask.questions, ask.sizes
    dsn = world.dsns.new if indexed else world.dsns.old
    schema = config.new if indexed else config.old
    async with client_of(proxy) as client, Direct(dsn, schema) as direct:
        found = [await _ids(client, question, store, indexed) for question in questions]
        ways = await ways_of(client, direct, questions)
        await _same_answers(ways, found)
        calls = sizes.near if indexed else sizes.scans
        began_s = proxy.cpu_seconds()
        alone = await in_turns(ways, calls=calls)
        spent_s = proxy.cpu_seconds() - began_s
        many = await by_many(ways, clients=sizes.clients, each=sizes.each)
    for label, series in ((f"{name}, 1 client", alone), (f"{name}, {sizes.clients}", many)):
        results.series[f"search {label}: proxy"] = series["proxy"]
        results.series[f"search {label}: direct"] = series["direct"]
    results.notes[f"proxy CPU ms a search, {name}"] = round(1000 * spent_s / calls, 3)
    results.figures += [
        added(PART, f"{name}, 1 client", alone["proxy"], alone["direct"], goal_ms=_ADDED_MS_MAX),
        tail(PART, f"{name}, 1 client", alone["proxy"], alone["direct"], goal=_TAIL_MAX),
        *_of_many(f"{name}, {sizes.clients} clients", many),
    ]
    return Searched(proxy=alone["proxy"], direct=alone["direct"], found=found)


def _of_many(name: str, series: dict[str, Series]) -> list[Figure]:
    ours, direct = series["proxy"], series["direct"]
    return [
        added(PART, name, ours, direct, goal_ms=_ADDED_MS_MAX),
        tail(PART, name, ours, direct, goal=_TAIL_MAX),
        Figure(
            part=PART,
            name=f"{name}, rate",
            unit="calls/s",
            ours=len(ours.seconds) / ours.wall_s,
            direct=len(direct.seconds) / direct.wall_s,
            direct_name="psycopg",
            compared=f"{direct.wall_s / ours.wall_s:.2f}x",
        ),
    ]


async def _ids(client: AsyncClient, question: Question, store: str, indexed: bool) -> list[str]:
    """Return the keys of a question's hits; the right store must have answered, and how."""
    answer = await client.search(COLLECTION, question.vector, limit=LIMIT)
    if answer.served_by.store != store or answer.indexed is not indexed:
        raise CrossfadeError(
            f"The {answer.served_by.store} store answered (indexed: {answer.indexed}) where"
            f" {store} (indexed: {indexed}) was to be measured."
        )
    return [str(hit.record.key) for hit in answer.hits]


async def ways_of(
    client: AsyncClient, direct: Direct, questions: Sequence[Question]
) -> dict[str, Way]:
    statement, first = await direct.search_statement(
        SearchQuery(collection=COLLECTION, vector=questions[0].vector, limit=LIMIT)
    )
    path_at = direct.key_width(COLLECTION) - 1

    async def through_proxy(number: int) -> list[str]:
        question = questions[number % len(questions)]
        answer = await client.search(COLLECTION, question.vector, limit=LIMIT)
        return [str(hit.record.key[-1]) for hit in answer.hits]

    async def directly(number: int) -> list[str]:
        question = questions[number % len(questions)]
        vector = PackedVector(question.vector)
        rows = await direct.run(statement, [vector, *first[1:]])
        return [str(row[path_at]) for row in rows]

    return {"proxy": through_proxy, "direct": directly}


async def _same_answers(ways: dict[str, Way], found: list[list[str]]) -> None:
    """Refuse to compare two ways that do not find the same."""
    for number in range(min(len(found), 20)):
        ours, theirs = [await way(number) for way in ways.values()]
        if ours != theirs:
            raise CrossfadeError(
                f"Question {number} finds {ours} through the proxy and {theirs} directly."
            )


def compare_index(exact: Searched, indexed: Searched, results: Results) -> None:
    """Compare the new store's index with the old store's scan, speed and recall."""
    wanted = sum(len(keys) for keys in exact.found)
    kept = sum(
        len(set(right).intersection(near))
        for right, near in zip(exact.found, indexed.found, strict=True)
    )
    recall = kept / wanted if wanted else 0.0
    ratio = exact.proxy.p50_ms / indexed.proxy.p50_ms
    results.figures += [
        Figure(
            part=INDEX_PART,
            name="halfvec HNSW on new, exact scan on old, p50",
            unit="ms",
            ours=indexed.proxy.p50_ms,
            direct=exact.proxy.p50_ms,
            direct_name="scan, same proxy",
            compared=f"{ratio:.1f}x faster",
            goal=f"at least {_SPEEDUP_MIN:g}x",
            met=ratio >= _SPEEDUP_MIN,
        ),
        Figure(
            part=INDEX_PART,
            name="the same two by psycopg, p50",
            unit="ms",
            ours=indexed.direct.p50_ms,
            direct=exact.direct.p50_ms,
            direct_name="scan, psycopg",
            compared=f"{exact.direct.p50_ms / indexed.direct.p50_ms:.1f}x faster",
        ),
        Figure(
            part=INDEX_PART,
            name=f"recall@{LIMIT} over {len(exact.found)} questions",
            unit="",
            ours=recall,
            compared=f"{kept} of {wanted}",
            goal=f"at least {_RECALL_MIN:g}",
            met=recall >= _RECALL_MIN,
        ),
    ]
