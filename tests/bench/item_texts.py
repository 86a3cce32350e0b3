"""Inserts of texts, embedded in the proxy, against the model alone; start and memory with it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from crossfade.client import AsyncClient, BatchItem, Insert, SearchMode
from crossfade.client.control_types import Phase

from proxy.demo.processes import Child
from proxy.errors import CrossfadeError
from tests.bench.encoder import bundled_model
from tests.bench.figures import Figure, Json, Results, below, faster, median
from tests.bench.item_world import ItemWorld, fill_old
from tests.bench.item_writes import IN_FLIGHT, PART, in_flight
from tests.bench.items import Text, item_id, texts
from tests.bench.profiling import digest
from tests.bench.sizes import Sizes
from tests.bench.world import (
    Serving,
    World,
    client_of,
    peak_mib,
    serving,
    to_phase,
)
from tests.work_items import COLLECTION

BATCH = 100
_BATCHES_IN_FLIGHT = 4
_TRIED = 128
_OF_ENCODE_MIN = 0.9
_TEXTS_PER_S_MIN = 100.0
_START_S_MAX = 10.0
_MIB_MAX = 1024.0
_ENCODE_S = 300.0


class Encoder:
    """The process that has the model alone."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def rate(self, whole: Sequence[str], batch: int) -> float:
        """Return texts a second."""
        line = json.dumps({"texts": list(whole), "batch": batch}) + "\n"
        if self._child.process.stdin is None:
            raise CrossfadeError("The encoder has no input.")
        self._child.process.stdin.write(line.encode())
        await self._child.process.stdin.drain()
        return len(whole) / float((await self.answer())["seconds"])

    async def answer(self) -> dict[str, Any]:
        """Return what it says next."""
        if self._child.process.stdout is None:
            raise CrossfadeError("The encoder has no output.")
        async with asyncio.timeout(_ENCODE_S):
            line = await self._child.process.stdout.readline()
        if not line:
            raise CrossfadeError("The encoder ended.", hint=self._child.tail())
        said: dict[str, Any] = json.loads(line)
        return said

    async def best_batch(
        self, whole: Sequence[str], sizes: Sequence[int]
    ) -> tuple[int, dict[int, float]]:
        """Return the batch size at which it is fastest, and the rate at each."""
        await self.rate(whole, sizes[-1])  # warms up
        rates = {size: await self.rate(whole, size) for size in sizes}
        return max(rates, key=lambda size: rates[size]), rates


@asynccontextmanager
async def encoder(world: World, results: Results) -> AsyncIterator[Encoder]:
    """Run the encoder for the length of the context."""
    command = ["-m", "tests.bench.encoder", bundled_model()]
    child = await world.household.start("encoder", command, talk=True)
    try:
        found = Encoder(child)
        results.notes["encoder"] = await found.answer()
        yield found
    finally:
        await world.household.stop(child)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inserts:
    """Texts as inserts: each call takes new keys."""

    texts: Sequence[Text]
    numbers: itertools.count[int]

    def one(self, number: int) -> Insert:
        """Return the insert of a text, without a vector."""
        text = self.texts[number % len(self.texts)]
        fields = {"title": text.title, "description": text.description}
        return Insert(COLLECTION, (item_id(next(self.numbers)),), fields)

    async def singles(self, client: AsyncClient, count: int) -> float:
        """Insert texts, many calls under way; return texts a second."""

        async def call(number: int) -> None:
            item = self.one(number)
            await client.insert(COLLECTION, item.key, item.fields)

        return count / await in_flight(count, call, most=IN_FLIGHT)

    async def batches(self, client: AsyncClient, count: int) -> float:
        """Insert texts by the hundred; return texts a second."""
        size = min(BATCH, count)

        async def call(number: int) -> None:
            first = number * size
            items: list[BatchItem] = [
                self.one(place) for place in range(first, min(count, first + size))
            ]
            for outcome in await client.batch_write(items):
                if outcome.error is not None:
                    raise outcome.error

        calls = -(-count // size)
        return count / await in_flight(calls, call, most=_BATCHES_IN_FLIGHT)


async def measure(items: ItemWorld, sizes: Sizes, results: Results) -> None:
    """Start a proxy with the model, write texts through it in turns with the model alone."""
    fill_old(items.world.dsns.old, 0)
    world = items.stage("texts", embedding=True)
    starts = []
    for _ in range(sizes.rounds - 1):
        async with serving(world) as proxy:
            starts.append(proxy.start_s)
    async with serving(world) as proxy:
        starts.append(proxy.start_s)
        results.notes["starts_with_model_s"] = [round(value, 2) for value in starts]
        results.figures.append(
            below(PART, "from start to serving, with the model", "s", median(starts), _START_S_MAX)
        )
        await to_phase(proxy, Phase.DUAL_WRITE)
        async with client_of(proxy) as client, encoder(world, results) as raw:
            await _inserts(world, proxy, client, raw, sizes=sizes, results=results)
            await client.search_text(COLLECTION, "how to build it", mode=SearchMode.TEXT)
        _memory(proxy, results)


async def _inserts(
    world: World,
    proxy: Serving,
    client: AsyncClient,
    raw: Encoder,
    *,
    sizes: Sizes,
    results: Results,
) -> None:
    found = texts(sizes.texts)
    whole = [text.whole for text in found]
    inserts = Inserts(texts=found, numbers=itertools.count(1))
    await inserts.singles(client, min(IN_FLIGHT, sizes.texts))
    batch, rates = await raw.best_batch(whole[:_TRIED], sizes.encode_batches)
    encoded, singles, batches = [], [], []
    spent: dict[str, float] = {}
    for _ in range(sizes.rounds):
        encoded.append(await raw.rate(whole, batch))
        before = _cpu(world, proxy)
        singles.append(await inserts.singles(client, sizes.texts))
        for name, seconds in _cpu(world, proxy).items():
            spent[name] = spent.get(name, 0.0) + seconds - before.get(name, 0.0)
        batches.append(await inserts.batches(client, sizes.texts))
    written = sizes.texts * sizes.rounds
    results.notes["texts a second, by round"] = {
        "encode": [round(rate, 1) for rate in encoded],
        "encode_by_batch_size": {str(size): round(rate, 1) for size, rate in rates.items()},
        "singles": [round(rate, 1) for rate in singles],
        "batches": [round(rate, 1) for rate in batches],
        "characters": round(sum(map(len, whole)) / len(whole)),
    }
    results.notes["CPU ms a text, single inserts"] = {
        name: round(1000 * seconds / written, 2) for name, seconds in spent.items()
    }
    direct = f"encode, batches of {batch}"
    for name, ours in ((f"{IN_FLIGHT} in flight", singles), (f"batches of {BATCH}", batches)):
        results.figures += _compared(name, median(ours), median(encoded), direct)


def _compared(name: str, ours: float, encoded: float, direct: str) -> list[Figure]:
    return [
        faster(
            f"inserts of texts, {name}, proxy in dual_write",
            ours,
            encoded,
            part=PART,
            unit="texts/s",
            direct_name=direct,
            goal=_OF_ENCODE_MIN,
        ),
        Figure(
            part=PART,
            name=f"inserts of texts, {name}, alone",
            unit="texts/s",
            ours=ours,
            goal=f"more than {_TEXTS_PER_S_MIN:g} texts/s",
            met=ours > _TEXTS_PER_S_MIN,
        ),
    ]


def _cpu(world: World, proxy: Serving) -> dict[str, float]:
    """Return CPU seconds so far of those that take part."""
    workers = psutil.Process(proxy.child.process.pid).children(recursive=True)
    times = [one.cpu_times() for one in workers]
    own = psutil.Process().cpu_times()
    return {
        "proxy": proxy.cpu_seconds(),
        "embedder": sum(one.user + one.system for one in times),
        "PostgreSQL": world.backend_seconds(),
        "clients": own.user + own.system,
    }


def _memory(proxy: Serving, results: Results) -> None:
    """Take the peaks of the proxy and of the processes it has started."""
    pid = proxy.child.process.pid
    children = psutil.Process(pid).children(recursive=True)
    peaks = {"proxy": peak_mib(pid), "embedder": sum(peak_mib(one.pid) for one in children)}
    results.notes["memory_with_model_mib"] = {name: round(mib) for name, mib in peaks.items()}
    results.figures.append(
        below(PART, "proxy and embedder, peak", "MiB", sum(peaks.values()), _MIB_MAX)
    )


async def explain(items: ItemWorld, sizes: Sizes) -> Json:
    """Profile a proxy while it takes single texts."""
    world = items.stage("texts", embedding=True)
    file = world.scratch / "texts.prof"
    inserts = Inserts(texts=texts(sizes.texts), numbers=itertools.count(10_000_000))
    async with serving(world, profile=file) as proxy, client_of(proxy) as client:
        await inserts.singles(client, IN_FLIGHT)
        proxy.begin_profile()
        began_s = proxy.cpu_seconds()
        await inserts.singles(client, sizes.texts)
        spent_s = proxy.cpu_seconds() - began_s
    return {"own_cpu_s": round(spent_s, 3), **digest(file)}
