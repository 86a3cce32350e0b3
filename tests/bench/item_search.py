"""Search in LanceDB after scattered upserts, against an optimised copy of the same table."""

from __future__ import annotations

import random
import shutil

import lancedb

from proxy.errors import CrossfadeError
from proxy.query import SearchQuery
from proxy.stores.base import Store
from tests.bench.figures import Figure, Results, Series
from tests.bench.item_world import TABLE, ItemWorld
from tests.bench.item_writes import IN_FLIGHT, PART, in_flight, load, upsert_all
from tests.bench.items import SEED, Vectors, write_of
from tests.bench.sampling import Way, in_turns
from tests.bench.sizes import Sizes
from tests.work_items import COLLECTION

_P95_MS_MAX = 100.0
_RATIO_MAX = 1.3
_LIMIT = 10
_DEADLINE_S = 60.0


async def measure(items: ItemWorld, sizes: Sizes, results: Results) -> None:
    """Fill a store, upsert all over it, and search it and its optimised copy in turns."""
    vectors, queries = Vectors.make(), Vectors.make(SEED + 1)
    store = await items.store("searched")
    try:
        await load(store, sizes.items, vectors)
        rng = random.Random(SEED)
        numbers = [rng.randrange(sizes.items) for _ in range(sizes.scattered)]

        async def one(number: int) -> None:
            item = numbers[number]
            await upsert_all(store, [write_of(item, vectors, notes=f"edit {number}")])

        spent_s = await in_flight(len(numbers), one, most=IN_FLIGHT)
        await _copy(items)
        copy = await items.store("optimised")
        try:
            ways = {"after": _way(store, queries), "optimised": _way(copy, queries)}
            await _same_answers(ways)
            series = await in_turns(ways, calls=sizes.item_searches)
        finally:
            await copy.close()
    finally:
        await store.close()
    results.notes["scattered upserts a second"] = round(len(numbers) / spent_s)
    for name, found in series.items():
        results.series[f"search of {sizes.items:,} items: {name}"] = found
    _report(series["after"], series["optimised"], sizes, results)


async def _copy(items: ItemWorld) -> None:
    """Copy the table as it lies and optimise the copy without Crossfade."""
    shutil.copytree(items.folder("searched"), items.folder("optimised"))
    database = await lancedb.connect_async(str(items.folder("optimised")))
    table = await database.open_table(TABLE)
    await table.optimize()


def _way(store: Store, queries: Vectors) -> Way:
    async def way(number: int) -> object:
        query = SearchQuery(collection=COLLECTION, vector=queries.of(number), limit=_LIMIT)
        found = await store.search(query, deadline_s=_DEADLINE_S)
        return [hit.record.key for hit in found.hits]

    return way


async def _same_answers(ways: dict[str, Way]) -> None:
    """Refuse to compare two tables that do not hold the same."""
    for number in range(5):
        ours, theirs = [await way(number) for way in ways.values()]
        if ours != theirs:
            raise CrossfadeError(f"Search {number} finds {ours}, in the copy {theirs}.")


def _report(after: Series, optimised: Series, sizes: Sizes, results: Results) -> None:
    ratio = after.p95_ms / optimised.p95_ms
    name = f"search of {sizes.items:,} rows after {sizes.scattered:,} upserts"
    results.figures += [
        Figure(
            part=PART,
            name=f"{name}, p95",
            unit="ms",
            ours=after.p95_ms,
            direct=optimised.p95_ms,
            direct_name="the copy, optimised",
            compared=f"{ratio:.2f}x",
            goal=f"at most {_RATIO_MAX:g}x",
            met=ratio <= _RATIO_MAX,
        ),
        Figure(
            part=PART,
            name=f"{name}, p95, alone",
            unit="ms",
            ours=after.p95_ms,
            goal=f"less than {_P95_MS_MAX:g} ms",
            met=after.p95_ms < _P95_MS_MAX,
        ),
    ]
