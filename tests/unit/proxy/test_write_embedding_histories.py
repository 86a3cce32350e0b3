"""Random histories of texts: whoever interleaves or dies, no vector is of another text."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from proxy.config.settings import WriteSettings
from proxy.errors import CrossfadeError, Unavailable
from proxy.ledger.types import Phase
from proxy.model import Applied, Record, Value, Write, WriteOp
from tests.embedding import FakeEmbedder, vector_of
from tests.rig import Rig, context, faulty_stores, replica
from tests.work_items import (
    COLLECTION,
    DIM,
    MODEL,
    OTHER_DIM,
    OTHER_MODEL,
    TWO_SPACES,
    asked,
    config,
    key,
    schemas,
    text_of,
)

KEYS = 2
WRITES = 40
SETTINGS = WriteSettings(late_write_s=0.01, breaker_failures=1000)


class Wandering:
    """A store whose calls take a random number of turns of the loop, before and after."""

    def __init__(self, inner: Any, pause: Callable[[], Any]) -> None:
        self._inner = inner
        self._pause = pause

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def apply(self, writes: Sequence[Write], **options: Any) -> Any:
        await self._pause()
        try:
            return await self._inner.apply(writes, **options)
        finally:
            await self._pause()

    async def get(self, *arguments: Any, **options: Any) -> Any:
        await self._pause()
        found = await self._inner.get(*arguments, **options)
        await self._pause()
        return found


class Moody(FakeEmbedder):
    """An embedder that takes its time and fails now and then."""

    def __init__(self, rng: random.Random, pause: Callable[[], Any]) -> None:
        super().__init__({MODEL: DIM, OTHER_MODEL: OTHER_DIM})
        self._rng = rng
        self._pause = pause

    async def documents(
        self, model: str, texts: Sequence[str], *, deadline_s: float
    ) -> list[bytes]:
        await self._pause()
        if self._rng.random() < 0.05:
            raise Unavailable("The embedder is down.", where="embedder")
        return await super().documents(model, texts, deadline_s=deadline_s)


def write(rng: random.Random) -> Write:
    """Draw a write of a part of the text, of all of it, of none of it, or a delete."""
    number, word = rng.randrange(KEYS), f"w{rng.randrange(1000)}"
    choices: list[dict[str, Value]] = [
        {"title": word},
        {"description": word},
        {"description": None},
        {"title": word, "description": f"{word}!"},
        {"title": "", "description": ""},
        {"status": word},
    ]
    fields = rng.choice(choices)
    op = rng.choices((WriteOp.PATCH, WriteOp.UPSERT, WriteOp.INSERT, WriteOp.DELETE), (8, 5, 2, 1))
    if op[0] is WriteOp.DELETE:
        return asked(WriteOp.DELETE, number)
    given = {"title": word, **fields} if op[0] is WriteOp.INSERT else fields
    return asked(op[0], number, **given)


async def client(rigs: list[Rig], rng: random.Random, count: int) -> None:
    for _ in range(count):
        rig, batch = rng.choice(rigs), [write(rng) for _ in range(rng.choice((1, 1, 1, 3)))]
        with suppress(CrossfadeError):
            await rig.plane.batch(batch, atomic=rng.random() < 0.3, context=context())


def expected(record: Record, model: str, dim: int) -> bytes | None:
    text = text_of(record.fields)
    return vector_of(model, text, dim) if text else None


class Watched:
    """The primary, looked at after every write: is each vector that of the text beside it?"""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.wrong: list[Record] = []
        self.changed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def apply(self, writes: Sequence[Write], **options: Any) -> Any:
        results = await self._inner.apply(writes, **options)
        self.changed += sum(result.applied is Applied.CHANGED for result in results)
        keys = [key(number) for number in range(KEYS)]
        found = await self._inner.get(COLLECTION, keys, vectors=True, deadline_s=5)
        self.wrong += [r for r in found.values() if r.vector != expected(r, MODEL, DIM)]
        return results


class Life:
    """What a replica does on its way; it may die at any step, and comes no further then."""

    def __init__(self, rng: random.Random, odds: float) -> None:
        self._rng = rng
        self._odds = odds
        self.died = asyncio.Event()
        self.buried = asyncio.Event()

    async def step(self) -> None:
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)
        if self._rng.random() < self._odds:
            self.died.set()
        if self.died.is_set():
            await self.buried.wait()
            raise Unavailable("This replica is dead.", where="proxy")

    async def client(self, rig: Rig, rng: random.Random, count: int) -> None:
        """Send writes until the replica dies."""
        works = asyncio.create_task(client([rig], rng, count))
        ends = asyncio.create_task(self.died.wait())
        await asyncio.wait((works, ends), return_when=asyncio.FIRST_COMPLETED)
        for task in (works, ends):
            task.cancel()
        await asyncio.gather(works, ends, return_exceptions=True)


@pytest.mark.parametrize("overlay", ["", TWO_SPACES], ids=["one-space", "two-spaces"])
@pytest.mark.parametrize("seed", range(20))
async def test_wherever_a_replica_dies_no_vector_of_another_text_is_on_the_primary(
    seed: int, overlay: str
) -> None:
    rng = random.Random(seed)
    print("seed", seed)
    inner: dict[str, Any] = dict(faulty_stores(schemas(overlay)))
    old = inner["old"] = Watched(inner["old"])
    specs = config(overlay).collections
    lives = [Life(rng, odds) for odds in (0.0, 0.01, 0.01, 0.03)]
    async with AsyncExitStack() as stack:
        rigs: list[Rig] = []
        for life in lives:
            stores: dict[str, Any] = {n: Wandering(s, life.step) for n, s in inner.items()}
            ledger = rigs[0].ledger if rigs else None
            embedder = Moody(rng, life.step)
            made = replica(ledger, stores, writes=SETTINGS, embedder=embedder, specs=specs)
            rigs.append(await stack.enter_async_context(made))
        await rigs[0].go(Phase.DUAL_WRITE)
        async with asyncio.TaskGroup() as group:
            for life, rig in zip(lives, rigs, strict=True):
                for _ in range(2):
                    group.create_task(life.client(rig, rng, WRITES // 4))
        for life in lives:
            life.buried.set()
        print("died", [life.died.is_set() for life in lives], "made anew", old.changed)
    assert old.wrong == []


@pytest.mark.parametrize("overlay", ["", TWO_SPACES], ids=["one-space", "two-spaces"])
@pytest.mark.parametrize("seed", range(12))
async def test_every_vector_is_of_the_text_beside_it(seed: int, overlay: str) -> None:
    rng = random.Random(seed)
    print("seed", seed)

    async def pause() -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)

    stores: dict[str, Any] = {
        name: Wandering(store, pause) for name, store in faulty_stores(schemas(overlay)).items()
    }
    embedder, specs = Moody(rng, pause), config(overlay).collections
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            replica(None, stores, writes=SETTINGS, embedder=embedder, specs=specs)
        )
        second = await stack.enter_async_context(
            replica(first.ledger, stores, writes=SETTINGS, embedder=embedder, specs=specs)
        )
        await first.go(Phase.DUAL_WRITE)
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(client([first, second], rng, WRITES // 4))
        dirty = await first.dirty(COLLECTION) | await second.dirty(COLLECTION)
        for number in range(KEYS):
            old = await first.stored("old", key(number), COLLECTION)
            new = await first.stored("new", key(number), COLLECTION)
            if old is not None:
                assert old.vector == expected(old, MODEL, DIM), "the primary's vector"
            if key(number) in dirty:
                continue
            assert (old is None) == (new is None)
            if old is None or new is None:
                continue
            assert dict(old.fields) == dict(new.fields)
            wanted = (OTHER_MODEL, OTHER_DIM) if overlay else (MODEL, DIM)
            assert new.vector == expected(new, *wanted), "the secondary's vector"
