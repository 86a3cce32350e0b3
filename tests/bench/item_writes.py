"""Upserts into LanceDB: many single ones in flight, and batches, against raw merge_inserts."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lancedb
import pyarrow as pa
from crossfade.client import AsyncClient, FieldValue

from proxy.errors import CrossfadeError
from proxy.model import Applied, Write
from proxy.stores.base import Store
from tests.bench.figures import Figure, Results, faster, median
from tests.bench.item_world import TABLE, ItemWorld
from tests.bench.items import SEED, Vectors, physical, write_of
from tests.bench.sampling import quiet
from tests.bench.sizes import Sizes
from tests.work_items import COLLECTION

PART = "7 lancedb and embeddings"
IN_FLIGHT = 64
BATCH = 1000
_LOADED = 5_000
_SINGLES_MIN = 15.0
_ROWS_PER_S_MIN = 5_000.0
_DEADLINE_S = 60.0


class Raw:
    """A table like the store's own, written without Crossfade."""

    def __init__(self, table: Any, schema: Any) -> None:
        self._table, self._schema = table, schema

    @staticmethod
    async def like(folder: Path, ours: Path) -> Raw:
        """Make an empty table in `folder` with the store's schema, which declares the key too."""
        template = await (await lancedb.connect_async(str(ours))).open_table(TABLE)
        schema = await template.schema()
        table = await (await lancedb.connect_async(str(folder))).create_table(TABLE, schema=schema)
        return Raw(table, schema)

    async def merge(self, writes: list[Write]) -> None:
        """Upsert rows by one merge_insert."""
        rows = pa.Table.from_pylist([physical(write) for write in writes], schema=self._schema)
        merge = self._table.merge_insert("id").when_matched_update_all()
        await merge.when_not_matched_insert_all().execute(rows)

    async def optimize(self) -> None:
        """Tidy up, so that what was written before slows nothing."""
        await self._table.optimize()


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Which items are written: half of them are there already."""

    rng: random.Random
    there: int

    def draw(self) -> Iterator[int]:
        """Yield numbers without an end."""
        while True:
            yield self.rng.randrange(2 * self.there)


async def upsert_all(store: Store, writes: list[Write]) -> None:
    """Apply writes as one call.

    Raises:
        CrossfadeError: one of them was not stored.
    """
    results = await store.apply(writes, atomic=False, deadline_s=_DEADLINE_S)
    wrong = [result for result in results if result.applied is not Applied.DONE]
    if wrong:
        raise CrossfadeError(f"{len(wrong)} upserts were not stored: {wrong[0]}")


async def in_flight(calls: int, call: Callable[[int], Awaitable[object]], *, most: int) -> float:
    """Make calls 0, 1, ... with `most` of them under way; return the seconds it took."""
    numbers = iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    with quiet():
        began_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(most):
                group.create_task(worker())
        return time.perf_counter() - began_s


async def load(store: Store, rows: int, vectors: Vectors) -> None:
    """Fill a store with the first items."""
    for first in range(0, rows, BATCH):
        numbers = range(first, min(rows, first + BATCH))
        await upsert_all(store, [write_of(number, vectors) for number in numbers])


async def measure_store(items: ItemWorld, sizes: Sizes, results: Results) -> None:
    """Measure the store adapter in this process, beside raw merge_inserts, in turns."""
    vectors = Vectors.make()
    store = await items.store("writes")
    try:
        raw = await Raw.like(items.folder("raw"), items.folder("writes"))
        loaded = min(_LOADED, sizes.items)
        await load(store, loaded, vectors)
        for first in range(0, loaded, BATCH):
            numbers = range(first, min(loaded, first + BATCH))
            await raw.merge([write_of(number, vectors) for number in numbers])
        draw = Numbers(rng=random.Random(SEED), there=loaded).draw()
        await _singles(store, raw, draw, vectors, sizes=sizes, results=results)
        await _batches(store, raw, draw, vectors, sizes=sizes, results=results)
    finally:
        await store.close()


async def _singles(
    store: Store,
    raw: Raw,
    draw: Iterator[int],
    vectors: Vectors,
    *,
    sizes: Sizes,
    results: Results,
) -> None:
    ours, theirs = [], []
    for _ in range(sizes.rounds):
        some = [write_of(next(draw), vectors) for _ in range(sizes.raw_singles // sizes.rounds)]
        many = [write_of(next(draw), vectors) for _ in range(sizes.singles // sizes.rounds)]

        async def one_raw(number: int, some: list[Write] = some) -> None:
            await raw.merge([some[number]])

        async def one(number: int, many: list[Write] = many) -> None:
            await upsert_all(store, [many[number]])

        await raw.optimize()
        theirs.append(len(some) / await in_flight(len(some), one_raw, most=1))
        ours.append(len(many) / await in_flight(len(many), one, most=IN_FLIGHT))
    results.notes["single upserts a second, by round"] = {
        "store, 64 in flight": [round(rate) for rate in ours],
        "merge_insert a record": [round(rate, 1) for rate in theirs],
    }
    results.figures.append(
        faster(
            f"single upserts, {IN_FLIGHT} in flight, by the store",
            median(ours),
            median(theirs),
            part=PART,
            unit="rows/s",
            direct_name="merge_insert a record",
            goal=_SINGLES_MIN,
        )
    )


async def _batches(
    store: Store,
    raw: Raw,
    draw: Iterator[int],
    vectors: Vectors,
    *,
    sizes: Sizes,
    results: Results,
) -> None:
    size = min(BATCH, sizes.batched)
    batches = [
        [write_of(number, vectors) for number in dict.fromkeys(itertools.islice(draw, size))]
        for _ in range(max(1, sizes.batched // size))
    ]
    rows = sum(map(len, batches))
    ours_s = await in_flight(
        len(batches), lambda number: upsert_all(store, batches[number]), most=1
    )
    theirs_s = await in_flight(len(batches), lambda number: raw.merge(batches[number]), most=1)
    rate = rows / ours_s
    results.figures.append(
        Figure(
            part=PART,
            name=f"upserts in batches of {size:,}, given vectors, by the store",
            unit="rows/s",
            ours=rate,
            direct=rows / theirs_s,
            direct_name="merge_insert a batch",
            compared=f"{theirs_s / ours_s:.2f}x",
            goal=f"at least {_ROWS_PER_S_MIN:,.0f} rows/s",
            met=rate >= _ROWS_PER_S_MIN,
        )
    )


async def measure_proxy(
    client: AsyncClient, phase: str, sizes: Sizes, results: Results, direct: float
) -> None:
    """Measure single upserts through the proxy; `direct` is the rate of raw merge_inserts."""
    vectors = Vectors.make()
    draw = Numbers(rng=random.Random(SEED), there=max(1, sizes.items // 10)).draw()
    writes = [write_of(next(draw), vectors) for _ in range(sizes.proxied)]

    async def one(number: int) -> None:
        write = writes[number]
        fields = cast("Mapping[str, FieldValue]", write.fields)
        await client.upsert(COLLECTION, write.key, fields, vector=write.vector)

    await in_flight(min(IN_FLIGHT, len(writes)), one, most=IN_FLIGHT)
    rate = len(writes) / await in_flight(len(writes), one, most=IN_FLIGHT)
    results.figures.append(
        faster(
            f"single upserts, {IN_FLIGHT} in flight, proxy in {phase}",
            rate,
            direct,
            part=PART,
            unit="rows/s",
            direct_name="merge_insert a record",
            goal=0.0,
        )
    )


def raw_rate(results: Results) -> float:
    """Return the rate of raw merge_inserts, one record each, that this run has measured."""
    found = next(item for item in results.figures if item.part == PART and item.direct)
    return found.direct or 0.0
