"""The two ledgers answer alike, whatever the history: random ones, asked of both step by step.

The simulation runs over the ledger in memory, so what it proves of the rules holds for the one in
PostgreSQL as far as the two agree.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from proxy.clock import SystemClock
from proxy.errors import CrossfadeError, Rejected, Unavailable
from proxy.ledger.base import Ledger
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.types import CopySnapshot, Intent, IntentDraft, Settlement
from proxy.model import JsonValue, Key

HISTORIES = 15
STEPS = 60
EPOCH = 1
COLLECTION = "documents"
KEYS: list[Key] = [("rust", "serde", name) for name in "abc"]
IDEMPOTENCY_KEYS = ("i1", "i2")
NO_ANSWER = "refused"

T = TypeVar("T")


class History:
    """Does the same to two ledgers, and asks both the same after each step."""

    def __init__(self, seed: int, ledgers: tuple[Ledger, Ledger]) -> None:
        self.told: list[str] = []
        self._seed = seed
        self._rng = random.Random(seed)
        self._ledgers = ledgers
        self._live: list[str] = []
        self._replicas = 0
        self._intents: list[tuple[Intent, Intent]] = []
        self._copies: list[tuple[CopySnapshot, CopySnapshot]] = []

    async def run(self) -> int:
        """Live through the history; return how many steps both ledgers answered alike."""
        alike = 0
        for _ in range(3):
            await self._register()
        often = [self._append, self._settle] * 5
        seldom = [self._begin, self._begin, self._finish, self._finish, self._abandon]
        rare = [self._kill, self._mark, self._prune, self._sweep, self._since]
        for _ in range(STEPS):
            await self._rng.choice([*often, *seldom, *rare])()
            await self._ask_everything()
            alike += 1
        return alike

    async def _both(self, ask: Callable[[int, Ledger], Awaitable[T]]) -> tuple[T | str, T | str]:
        answers: list[T | str] = []
        for number, ledger in enumerate(self._ledgers):
            try:
                answers.append(await ask(number, ledger))
            except (Rejected, Unavailable):
                answers.append(NO_ANSWER)  # Of two reasons each may name another.
            except CrossfadeError as error:
                answers.append(type(error).__name__)
        return answers[0], answers[1]

    async def _alike(self, ask: Callable[[int, Ledger], Awaitable[T]]) -> T | str:
        ours, theirs = await self._both(ask)
        assert ours == theirs, self.told
        return ours

    async def _ask_everything(self) -> None:
        await self._alike(lambda _, ledger: ledger.fenced(COLLECTION, KEYS))
        await self._alike(lambda _, ledger: ledger.unsettled())
        await self._alike(lambda _, ledger: ledger.dirty_counts())
        for idem in IDEMPOTENCY_KEYS:
            await self._alike(partial(_answered, idem=idem))
            await self._alike(partial(_recalled, idem=idem))

    async def _register(self) -> None:
        self._replicas += 1
        name = f"{self._seed}-{self._replicas}"
        for ledger in self._ledgers:
            await ledger.register_replica(name, address="", lease_s=600, ledger_down="refuse")
        self._live.append(name)

    async def _kill(self) -> None:
        if self._rng.random() < 0.6:
            return
        name = self._live.pop(self._rng.randrange(len(self._live)))
        self.told.append(f"kill {name}")
        await self._both(lambda _, ledger: ledger.release_replica(name))
        await self._sweep()
        await self._register()

    async def _sweep(self) -> None:
        self.told.append("sweep")
        await self._alike(lambda _, ledger: ledger.sweep())

    async def _prune(self) -> None:
        self.told.append("prune")
        await self._both(lambda _, ledger: ledger.prune())

    def _draft(self, key: Key, idem: str) -> IntentDraft:
        digest = f"other {key}" if self._rng.random() < 0.1 else f"d{idem}"
        return IntentDraft(
            collection=COLLECTION,
            key=key,
            op="upsert",
            idempotency_key=idem,
            request_digest=digest if idem else "",
        )

    async def _append(self) -> None:
        rng, replica = self._rng, self._rng.choice(self._live)
        keys = rng.choices(KEYS, k=rng.choice([1, 1, 2]))
        drafts = [self._draft(key, rng.choice(["", "", *IDEMPOTENCY_KEYS])) for key in keys]
        self.told.append(f"append by {replica}: {drafts}")
        ours, theirs = await self._both(
            lambda _, ledger: ledger.append(drafts, epoch=EPOCH, replica_id=replica)
        )
        if isinstance(ours, str) or isinstance(theirs, str):
            assert ours == theirs, self.told
            return
        assert _of_append(ours) == _of_append(theirs), self.told
        pairs = zip(ours, theirs, strict=True)
        self._intents += [pair for pair in pairs if pair[0].earlier is None]

    async def _settle(self) -> None:
        rng = self._rng
        chosen = rng.sample(self._intents, min(len(self._intents), rng.choice([1, 1, 2])))
        ends = [self._end(len(self.told)) for _ in chosen]
        for pair in chosen:  # Some are settled again later, as after an answer that was lost.
            if rng.random() < 0.8:
                self._intents.remove(pair)
        self.told.append(
            f"settle {[(pair[0], end) for pair, end in zip(chosen, ends, strict=True)]}"
        )
        await self._alike(
            lambda number, ledger: ledger.settle(
                [
                    Settlement(
                        intent=pair[number], clean=clean, reason="r", forget=undone, answer=told
                    )
                    for pair, (clean, undone, told) in zip(chosen, ends, strict=True)
                ]
            )
        )

    def _end(self, number: int) -> tuple[bool, bool, dict[str, JsonValue] | None]:
        """Return whether a write was clean, certainly undone, and what was answered."""
        undone = self._rng.random() < 0.2
        told: dict[str, JsonValue] | None = {"number": number}
        silent = undone or self._rng.random() < 0.3
        return self._rng.random() < 0.7, undone, None if silent else told

    async def _mark(self) -> None:
        key = self._rng.choice(KEYS)
        self.told.append(f"mark {key}")
        await self._both(lambda _, ledger: ledger.mark_dirty(COLLECTION, [key], reason="test"))

    async def _begin(self) -> None:
        if len(self._copies) == 3:
            return
        keys = self._rng.sample(KEYS, self._rng.randrange(4))
        self.told.append(f"begin a copy of {keys}")
        ours, theirs = await self._both(lambda _, ledger: ledger.begin_copy(COLLECTION, keys=keys))
        assert not isinstance(ours, str), self.told
        assert not isinstance(theirs, str), self.told
        assert ours.in_flight == theirs.in_flight, self.told
        assert ours.claimed == theirs.claimed, self.told
        self._copies.append((ours, theirs))

    def _take_copy(self) -> tuple[CopySnapshot, CopySnapshot] | None:
        if not self._copies:
            return None
        return self._copies.pop(self._rng.randrange(len(self._copies)))

    async def _since(self) -> None:
        if self._copies:
            copy = self._rng.choice(self._copies)
            self.told.append(f"settled since {copy[0]}")
            await self._alike(lambda number, ledger: ledger.settled_since(copy[number], KEYS))

    async def _finish(self) -> None:
        copy = self._take_copy()
        if copy is None:
            return
        touched = self._rng.sample(KEYS, self._rng.randrange(4))
        left_out = [key for key in KEYS if key not in touched and self._rng.random() < 0.3]
        self.told.append(f"finish {copy[0]}: {touched}, without {left_out}")
        await self._alike(
            lambda number, ledger: ledger.finish_copy(
                copy[number], touched=touched, left_out=left_out
            )
        )

    async def _abandon(self) -> None:
        copy = self._take_copy()
        if copy is None:
            return
        written = self._rng.sample(KEYS, self._rng.randrange(2))
        late_s = 1000.0 if self._rng.random() < 0.15 else 0.0
        self.told.append(f"abandon {copy[0]}: {written}, {late_s:g} s")
        await self._both(
            lambda number, ledger: ledger.abandon_copy(copy[number], written=written, late_s=late_s)
        )
        await self._alike(lambda number, ledger: ledger.settled_since(copy[number], KEYS))


async def _answered(_: int, ledger: Ledger, *, idem: str) -> Mapping[str, JsonValue] | None:
    return await ledger.answered(idem, f"d{idem}")


async def _recalled(_: int, ledger: Ledger, *, idem: str) -> Key | None:
    return await ledger.recall(idem)


def _of_append(intents: list[Intent]) -> list[tuple[object, ...]]:
    return [(one.key, one.earlier, one.resumed, one.seq > 0) for one in intents]


@asynccontextmanager
async def _ledgers(dsn: str, seed: int) -> AsyncIterator[tuple[Ledger, Ledger]]:
    memory, postgres = MemoryLedger(SystemClock()), PostgresLedger(dsn, f"m{seed}")
    await memory.open()
    await postgres.open()
    try:
        yield memory, postgres
    finally:
        await postgres.close()


async def test_the_ledgers_answer_alike_through_random_histories(
    new_database: Callable[[], str],
) -> None:
    first = int(os.environ.get("CROSSFADE_SEED") or random.randrange(2**32))
    dsn = new_database()
    for seed in range(first, first + HISTORIES):
        print(f"CROSSFADE_SEED={seed}")
        async with _ledgers(dsn, seed) as ledgers:
            assert await History(seed, ledgers).run() == STEPS
