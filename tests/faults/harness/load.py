"""Clients that write and read everything at random through random replicas, and remember it all."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import crossfade.client as cf
from crossfade.client import AsyncClient, F, Read
from crossfade.client.errors import CallError

from tests.faults.harness.databases import Rows, vector_of
from tests.faults.harness.oracle import Key, Op, Oracle

_VERBS = {
    "upsert": 30,
    "insert": 14,
    "update": 20,
    "delete": 10,
    "batch": 8,
    "atomic_batch": 4,
    "delete_where": 2,
    "drop_source": 1,
    "make_source": 2,
    "get": 20,
    "batch_get": 6,
    "list": 3,
    "tally": 2,
    "search": 3,
}
Fields: TypeAlias = dict[str, cf.FieldValue]
_ALONE = 0.6
"""Share of writes that wait for other writes of their key; the rest overlap as they please."""

_PATIENCE_S = 0.02
"""After how long, on average, a client goes away that does."""


@dataclass
class Load:
    """Mixed load over a fixed set of keys.

    Attributes:
        live: returns clients of the replicas that serve now, by name; may be empty.
        collection: what is written; its fields and key are those of the doc server's documents.
        errors: status -> how often a call ended so.
        cancels: share of the calls whose client goes away at some random moment.
    """

    rng: random.Random
    live: Callable[[], dict[str, AsyncClient]]
    sources: Sequence[str]
    paths: Sequence[str]
    oracle: Oracle = field(default_factory=Oracle)
    errors: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    stopping: bool = False
    drop_sources: bool = True
    collection: str = "documents"
    cancels: float = 0.0
    cancelled: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._locks: dict[Key, asyncio.Lock] = {
            ("rust", source, path): asyncio.Lock() for source in self.sources for path in self.paths
        }

    @property
    def keys(self) -> list[Key]:
        """Every key that may be written."""
        return list(self._locks)

    async def run(self, workers: int) -> None:
        """Work until `stopping`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    def assert_nothing_lost(self, stored: Rows, *, seed: int) -> None:
        """Compare with the rows in the end: no acknowledged write is lost, no read was stale."""
        found = {key: (str(row[0]), row[1]) for key, row in stored.items()}
        problems = [*self.oracle.problems(found), *self.oracle.stale_reads()]
        assert not problems, f"seed {seed}: {len(problems)}\n" + "\n".join(problems[:5])

    async def _work(self) -> None:
        verbs, weights = list(_VERBS), list(_VERBS.values())
        while not self.stopping:
            live = self.live()
            if not live:
                await asyncio.sleep(0.02)
                continue
            name = self.rng.choice(sorted(live))
            (verb,) = self.rng.choices(verbs, weights)
            if verb == "drop_source" and not self.drop_sources:
                continue
            call: Callable[[AsyncClient, str], Awaitable[None]] = getattr(self, f"_{verb}")
            self.calls += 1
            calling = call(live[name].scoped(targeting_key=str(self.rng.random())), name)
            try:
                if self.rng.random() < self.cancels:
                    await self._cancelled_soon(calling)
                else:
                    await calling
            except CallError as error:
                self._count(error)

    async def _cancelled_soon(self, calling: Awaitable[None]) -> None:
        """Make a call as a client does that goes away in the middle of it, or just before."""
        task = asyncio.ensure_future(calling)
        timer = asyncio.get_running_loop().call_later(
            self.rng.expovariate(1 / _PATIENCE_S), task.cancel
        )
        try:
            await asyncio.wait({task})
        finally:
            timer.cancel()
            task.cancel()
        if task.cancelled():
            self.cancelled += 1
        else:
            task.result()

    def _count(self, error: CallError) -> None:
        name = f"{error.code} {error.detail.reason}"
        self.errors[name] = self.errors.get(name, 0) + 1

    def _key(self) -> Key:
        # A few keys are hot, so that writes of one key meet.
        keys = self.keys
        return self.rng.choice(keys[:10] if self.rng.random() < 0.3 else keys)

    def _token(self, verb: str) -> str:
        return f"{verb}-{next(self._numbers)}"

    async def _one(
        self,
        key: Key,
        token: str | None,
        tokens: int | None,
        send: Callable[[Op], Awaitable[object]],
    ) -> None:
        """Send one write of one key and note its outcome."""
        lock = self._locks[key] if self.rng.random() < _ALONE else None
        if lock is not None:
            await lock.acquire()
        try:
            op = self.oracle.began(key, token, tokens=tokens)
            with self.oracle.writing([op]):
                try:
                    await send(op)
                except CallError as error:
                    self._count(error)
                    raise
        finally:
            if lock is not None:
                lock.release()

    async def _upsert(self, client: AsyncClient, by: str) -> None:
        key, token, count = self._key(), self._token("upsert"), self.rng.randrange(1000)
        fields: Fields = {"content": token, "token_count": count}

        async def send(op: Op) -> None:
            await client.upsert(self.collection, key, fields, vector=vector_of(token))

        await self._one(key, token, count, send)

    async def _insert(self, client: AsyncClient, by: str) -> None:
        key, token, count = self._key(), self._token("insert"), self.rng.randrange(1000)
        fields: Fields = {"content": token, "token_count": count}

        async def send(op: Op) -> None:
            await client.insert(self.collection, key, fields, vector=vector_of(token))

        await self._one(key, token, count, send)

    async def _update(self, client: AsyncClient, by: str) -> None:
        key, token = self._key(), self._token("update")

        async def send(op: Op) -> None:
            ack = await client.update(self.collection, key, {"content": token})
            found = ack.record.fields["token_count"] if ack.record is not None else None
            op.tokens = found if isinstance(found, int) else None

        await self._one(key, token, None, send)

    async def _delete(self, client: AsyncClient, by: str) -> None:
        key = self._key()

        async def send(op: Op) -> None:
            await client.delete(self.collection, key)

        await self._one(key, None, None, send)

    async def _batch(self, client: AsyncClient, by: str) -> None:
        items, ops = self._items()
        with self.oracle.writing(ops):
            outcomes = await client.batch_write(items)
            for op, outcome in zip(ops, outcomes, strict=True):
                if outcome.error is None:
                    op.done()
                else:
                    self._count(outcome.error)
                    op.failed(outcome.error)

    async def _atomic_batch(self, client: AsyncClient, by: str) -> None:
        items, ops = self._items()
        with self.oracle.writing(ops):
            await client.batch_write(items, atomic=True)

    def _items(self) -> tuple[list[cf.BatchItem], list[Op]]:
        items: list[cf.BatchItem] = []
        ops: list[Op] = []
        for key in self.rng.sample(self.keys, self.rng.randrange(2, 6)):
            token, count = self._token("batch"), self.rng.randrange(1000)
            if self.rng.random() < 0.25:
                items.append(cf.Delete(self.collection, key))
                ops.append(self.oracle.began(key, None))
            else:
                fields: Fields = {"content": token, "token_count": count}
                items.append(cf.Upsert(self.collection, key, fields, vector_of(token)))
                ops.append(self.oracle.began(key, token, tokens=count))
        return items, ops

    async def _delete_where(self, client: AsyncClient, by: str) -> None:
        path = self.rng.choice(self.paths)
        keys = [key for key in self.keys if key[2] == path]
        ops = [self.oracle.began(key, None, sweeping=True) for key in keys]
        with self.oracle.writing(ops):
            await client.delete_where(self.collection, F("doc_path") == path)

    async def _drop_source(self, client: AsyncClient, by: str) -> None:
        source = self.rng.choice(self.sources)
        keys = [key for key in self.oracle.ops if key[1] == source]
        ops = [self.oracle.began(key, None, sweeping=True) for key in keys]
        with self.oracle.writing(ops):
            await client.delete("sources", ("rust", source))
        await self._restore(client, source)

    async def _make_source(self, client: AsyncClient, by: str) -> None:
        await self._restore(client, self.rng.choice(self.sources))

    async def _restore(self, client: AsyncClient, source: str) -> None:
        await client.upsert("sources", ("rust", source), {"version": self._token("v")})

    async def _get(self, client: AsyncClient, by: str) -> None:
        key, began_s = self._key(), time.monotonic()
        found = await client.get(self.collection, key)
        served = "" if found is None or found.served_by is None else str(found.served_by)
        fields = None if found is None else found.fields
        self.oracle.read(key, began_s, fields, f"{by} {served}")

    async def _batch_get(self, client: AsyncClient, by: str) -> None:
        keys, began_s = [self._key() for _ in range(5)], time.monotonic()
        found = await client.batch_get(self.collection, keys, Read(vector=True))
        for key, record in zip(keys, found, strict=True):
            self.oracle.read(key, began_s, None if record is None else record.fields, by)

    async def _list(self, client: AsyncClient, by: str) -> None:
        source = self.rng.choice(self.sources)
        await client.list(self.collection, filter=F("source_name") == source, limit=20)

    async def _tally(self, client: AsyncClient, by: str) -> None:
        await client.count(self.collection, group_by="source_name")

    async def _search(self, client: AsyncClient, by: str) -> None:
        await client.search(self.collection, vector_of(str(self.rng.random())), limit=5)
