"""Part 2: upserts through the proxy against direct upserts into one store and into both."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from crossfade.client import AsyncClient

from proxy.demo.doc_server.corpus import Document
from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.types import IntentDraft, Settlement
from proxy.model import Key, Write, WriteOp
from tests.bench.direct import Direct
from tests.bench.echo import empty_calls
from tests.bench.figures import Figure, Results, Series
from tests.bench.sampling import Way, by_many, in_turns
from tests.bench.sizes import Sizes
from tests.bench.world import Serving, World, client_of, execute

PART = "2 upsert"
_DUAL_ADDED_MS_MAX = 1.0
_LEASE_S = 300.0
_FIRST_ID = 50_000_000
"""Serial ids of the directly written rows, far from those the proxy allocates."""

_REQUEST_BYTES = 14_000
_DIGEST = "0" * 32
_MARK = "bench::"
_CLEAN_UP = {
    "old": f"DELETE FROM doc_embeddings WHERE doc_path LIKE '{_MARK}%'",
    "new": f"DELETE FROM documents WHERE doc_path LIKE '{_MARK}%'",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is written: each way writes its own keys, half of the calls new ones."""

    documents: Sequence[Document]
    keys: int

    def key(self, way: str, number: int) -> Key:
        """Return the key of the n-th call; a key comes again once every other was written."""
        place = number % self.keys
        document = self.documents[place % len(self.documents)]
        return ("rust", document.crate, f"{_MARK}{way}/{place}/{document.path}"[:600])

    def fields(self, number: int) -> dict[str, str | int]:
        """Return what the application gives."""
        document = self.documents[number % len(self.documents)]
        return {
            "content": f"{document.content}\n\nRevision {number}.",
            "token_count": document.token_count or 0,
        }

    def vector(self, number: int) -> bytes | None:
        """Return the n-th vector."""
        return self.documents[number % len(self.documents)].vector

    def write(self, way: str, number: int) -> Write:
        """Return the write as the proxy would have resolved it."""
        return Write(
            op=WriteOp.UPSERT,
            collection="documents",
            key=self.key(way, number),
            fields={
                **self.fields(number),
                "created_at": dt.datetime.now(dt.UTC),
                "original_id": _FIRST_ID + sum(way.encode()) * 100_000 + number % self.keys,
            },
            vector=self.vector(number),
            keep=frozenset({"created_at", "original_id"}),
        )


def load_of(documents: Sequence[Document], sizes: Sizes) -> Load:
    """Return the load: as many keys as half of the calls."""
    return Load(documents=documents, keys=max(1, sizes.writes // 2))


def through_proxy(client: AsyncClient, load: Load) -> Way:
    async def way(number: int) -> object:
        return await client.upsert(
            "documents",
            load.key("proxy", number),
            load.fields(number),
            vector=load.vector(number),
        )

    return way


def _directly(database: Direct, load: Load, name: str) -> Way:
    async def way(number: int) -> object:
        statement, parameters = database.upsert_statement(load.write(name, number))
        return await database.run(statement, parameters)

    return way


def _both(old: Way, new: Way) -> Way:
    async def way(number: int) -> object:
        return await asyncio.gather(old(number), new(number))

    return way


async def measure_one(
    world: World, proxy: Serving, load: Load, sizes: Sizes, results: Results
) -> None:
    """Measure phase old_only: one store, no ledger."""
    config = world.config()
    async with client_of(proxy) as client, Direct(world.dsns.old, config.old) as old:
        ways = {"proxy": through_proxy(client, load), "old": _directly(old, load, "old")}
        alone = await in_turns(ways, calls=sizes.writes)
        many = await by_many(ways, clients=sizes.clients, each=sizes.each)
    _keep(results, "old_only", alone, many, sizes)
    results.figures += [
        _plain("old_only, 1 client", alone["proxy"], alone["old"], "into old"),
        _plain(f"old_only, {sizes.clients} clients", many["proxy"], many["old"], "into old"),
    ]
    clean_up(world, "old")


async def measure_both(
    world: World, proxy: Serving, load: Load, sizes: Sizes, results: Results
) -> None:
    """Measure phase dual_write: both stores and the ledger, each beside its direct way."""
    config = world.config()
    async with (
        client_of(proxy) as client,
        Direct(world.dsns.old, config.old) as old,
        Direct(world.dsns.new, config.new) as new,
        _ledger_way(world, load) as ledger,
        empty_calls(world.household, request_bytes=_REQUEST_BYTES, answer_bytes=100) as empty,
    ):
        ways: dict[str, Way] = {
            "proxy": through_proxy(client, load),
            "old": _directly(old, load, "old"),
            "new": _directly(new, load, "new"),
            "both": _both(_directly(old, load, "both"), _directly(new, load, "both")),
            "ledger": ledger,
            "empty gRPC call": empty,
        }
        began_s = proxy.cpu_seconds()
        alone = await in_turns(ways, calls=sizes.writes)
        spent_s = proxy.cpu_seconds() - began_s
        pair = {name: ways[name] for name in ("proxy", "both")}
        many = await by_many(pair, clients=sizes.clients, each=sizes.each)
    _keep(results, "dual_write", alone, many, sizes)
    results.notes["proxy CPU ms a write in dual_write"] = round(1000 * spent_s / sizes.writes, 3)
    results.profiles["upsert in dual_write, step by step, p50 ms"] = _steps(alone)
    results.figures += [
        _plain("dual_write, 1 client", alone["proxy"], alone["both"], "into both"),
        _dual(alone),
        _plain(
            f"dual_write, {sizes.clients} clients",
            many["proxy"],
            many["both"],
            "into both",
        ),
    ]
    clean_up(world, "old", "new")


def clean_up(world: World, *stores: str) -> None:
    """Take away what was written, so that both stores hold the same again."""
    for name in stores:
        execute(world.dsns.old if name == "old" else world.dsns.new, _CLEAN_UP[name])


@asynccontextmanager
async def _ledger_way(world: World, load: Load) -> AsyncIterator[Way]:
    """Yield the append of one intent as a write does it: with the client's idempotency key.

    It is a replica of its own; what it appended is settled after the measurement.
    """
    settings = world.config().settings
    ledger = PostgresLedger(settings.ledger.dsn, settings.migration, pool_size_max=2)
    await ledger.open()
    settlements: list[Settlement] = []
    name = f"bench-{uuid.uuid4().hex}"
    try:
        routing = await ledger.register_replica(
            name, address="", lease_s=_LEASE_S, ledger_down="refuse"
        )
        await ledger.renew_replica(name, acked_epoch=routing.epoch, lease_s=_LEASE_S)

        async def append(number: int) -> object:
            draft = IntentDraft(collection="documents", key=load.key("ledger", number), op="upsert")
            intents = await ledger.append([draft], epoch=routing.epoch, replica_id=name)
            settlements.extend(Settlement(intent=intent, clean=True) for intent in intents)
            return intents

        yield append
        await ledger.settle(settlements)
        await ledger.release_replica(name)
    finally:
        await ledger.close()


def _keep(
    results: Results,
    phase: str,
    alone: dict[str, Series],
    many: dict[str, Series],
    sizes: Sizes,
) -> None:
    for name, series in alone.items():
        results.series[f"upsert in {phase}, 1 client: {name}"] = series
    for name, series in many.items():
        results.series[f"upsert in {phase}, {sizes.clients} clients: {name}"] = series


def _plain(name: str, ours: Series, direct: Series, direct_name: str) -> Figure:
    more_ms = ours.p50_ms - direct.p50_ms
    return Figure(
        part=PART,
        name=f"{name}, p50",
        unit="ms",
        ours=ours.p50_ms,
        direct=direct.p50_ms,
        direct_name=f"psycopg, {direct_name}",
        compared=f"{more_ms:+.2f} ms",
    )


def _steps(alone: dict[str, Series]) -> dict[str, float]:
    """Return what a dual write is made of, each measured alone; the rest is the proxy's work."""
    found = {name: round(series.p50_ms, 3) for name, series in alone.items()}
    parts = found["ledger"] + found["both"] + found["empty gRPC call"]
    return {**found, "proxy and client add": round(found["proxy"] - parts, 3)}


def _dual(alone: dict[str, Series]) -> Figure:
    """Compare a dual write with the slower of the two stores and the ledger's append."""
    slower_ms = max(alone["old"].p50_ms, alone["new"].p50_ms)
    floor_ms = slower_ms + alone["ledger"].p50_ms
    more_ms = alone["proxy"].p50_ms - floor_ms
    return Figure(
        part=PART,
        name="dual_write against slower store + ledger, p50",
        unit="ms",
        ours=alone["proxy"].p50_ms,
        direct=floor_ms,
        direct_name=f"{slower_ms:.2f} + {alone['ledger'].p50_ms:.2f}",
        compared=f"{more_ms:+.2f} ms",
        goal=f"adds at most {_DUAL_ADDED_MS_MAX:g} ms",
        met=more_ms <= _DUAL_ADDED_MS_MAX,
    )
