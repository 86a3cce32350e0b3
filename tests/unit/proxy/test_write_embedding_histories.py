"""Random histories of texts: whatever two replicas interleave, no vector is of another text."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from proxy.config.settings import WriteSettings
from proxy.errors import CrossfadeError, Unavailable
from proxy.ledger.types import Phase
from proxy.model import Record, Value, Write, WriteOp
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


async def client(rigs: list[Rig], rng: random.Random, count: int, doubted: set[Any]) -> None:
    for _ in range(count):
        rig, batch = rng.choice(rigs), [write(rng) for _ in range(rng.choice((1, 1, 1, 3)))]
        try:
            items = await rig.plane.batch(batch, atomic=rng.random() < 0.3, context=context())
        except CrossfadeError as error:
            if "not yet right" in str(error):
                doubted.update(item.key for item in batch)
            continue
        for asked_for, item in zip(batch, items, strict=True):
            if item.error is not None and "not yet right" in str(item.error):
                doubted.add(asked_for.key)


def expected(record: Record, model: str, dim: int) -> bytes | None:
    text = text_of(record.fields)
    return vector_of(model, text, dim) if text else None


@pytest.mark.parametrize("overlay", ["", TWO_SPACES], ids=["one-space", "two-spaces"])
@pytest.mark.parametrize("seed", range(12))
async def test_every_vector_is_of_the_text_beside_it_or_somebody_was_told(
    seed: int, overlay: str
) -> None:
    rng = random.Random(seed)
    print("seed", seed)

    async def pause() -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)

    stores: dict[str, Any] = {
        name: Wandering(store, pause) for name, store in faulty_stores(schemas(overlay)).items()
    }
    embedder, specs = Moody(rng, pause), config(overlay).collections
    doubted: set[Any] = set()
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
                group.create_task(client([first, second], rng, WRITES // 4, doubted))
        dirty = await first.dirty(COLLECTION) | await second.dirty(COLLECTION)
        for number in range(KEYS):
            old = await first.stored("old", key(number), COLLECTION)
            new = await first.stored("new", key(number), COLLECTION)
            if old is not None and old.key not in doubted:
                assert old.vector == expected(old, MODEL, DIM), "the primary's vector"
            if key(number) in dirty:
                continue
            assert (old is None) == (new is None)
            if old is None or new is None:
                continue
            assert dict(old.fields) == dict(new.fields)
            wanted = (OTHER_MODEL, OTHER_DIM) if overlay else (MODEL, DIM)
            if old.key not in doubted:
                assert new.vector == expected(new, *wanted), "the secondary's vector"
