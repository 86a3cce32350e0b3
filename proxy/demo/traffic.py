"""Measured calls to the proxies on behalf of many live clients: oracle, samples and failures."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from crossfade.client import AsyncClient, CallError

from proxy.demo.oracle import Attempt, Image, Oracle, agrees
from proxy.demo.samples import Sample
from proxy.model import JsonValue, Key, encode_key

Answer = TypeVar("Answer")
Action: TypeAlias = Callable[[], Awaitable[None]]
Target = tuple[str, Key, Image]
"""A record a write is about: collection, key, and what it holds afterwards."""

_KEPT_MAX = 50
_BACKLOG_S = 0.5
_TENANTS = 200


@dataclass(slots=True)
class Pacer:
    """Spreads the requests of all its users evenly over time."""

    per_s: float
    _next_s: float = 0.0

    async def wait(self) -> None:
        """Return when the next request is due; a late one does not make a burst."""
        now_s = time.monotonic()
        self._next_s = max(self._next_s + 1.0 / self.per_s, now_s - _BACKLOG_S)
        if self._next_s > now_s:
            await asyncio.sleep(self._next_s - now_s)


@dataclass(slots=True)
class Traffic:
    """What all client tasks of one process share.

    Attributes:
        clients: one a proxy replica; each call picks one at random.
        problems: the first failures, as sentences; `failed` counts all of them.
        wrong: answers that broke a promise (a write not read back, hits out of order).
    """

    clients: Sequence[AsyncClient]
    rng: random.Random
    oracle: Oracle = field(default_factory=Oracle)
    samples: list[Sample] = field(default_factory=list)
    failed: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep_busy(
        self, pacer: Pacer, rng: random.Random, actions: Sequence[tuple[Action, int]]
    ) -> None:
        """Do one of the actions after the other, by their weights, until the traffic stops."""
        acts, weights = [action for action, _ in actions], [weight for _, weight in actions]
        while not self.stopping.is_set():
            await pacer.wait()
            await rng.choices(acts, weights)[0]()

    async def write(
        self,
        kind: str,
        targets: Sequence[Target],
        call: Callable[[AsyncClient], Awaitable[Answer]],
    ) -> Answer | None:
        """Write through a random replica and tell the oracle. Return None if it failed."""
        begun = self._begin(targets)
        try:
            answer = await self._measured(kind, call)
        except CallError as error:
            if len(targets) == 1 and not error.maybe_applied:
                for (collection, key, _), attempt in zip(targets, begun, strict=True):
                    self.oracle.refuse(collection, key, attempt)
            self.fail(f"{kind} of {_names(targets)}: {error}")
            return None
        now_s = time.monotonic()
        for (collection, key, _), attempt in zip(targets, begun, strict=True):
            self.oracle.acknowledge(collection, key, attempt, now_s)
        return answer

    async def create(
        self,
        kind: str,
        collection: str,
        image: Image,
        call: Callable[[AsyncClient], Awaitable[Key]],
    ) -> Key | None:
        """Write a record whose key the proxy allocates. Return the key, None if it failed."""
        start_s = time.monotonic()
        try:
            key = await self._measured(kind, call)
        except CallError as error:
            self.fail(f"{kind} into {collection}: {error}")
            return None
        attempt = self.oracle.begin(collection, key, image, start_s)
        self.oracle.acknowledge(collection, key, attempt, time.monotonic())
        return key

    async def read(
        self, kind: str, call: Callable[[AsyncClient], Awaitable[Answer]]
    ) -> Answer | None:
        """Read through a random replica. Return None if it failed."""
        try:
            return await self._measured(kind, call)
        except CallError as error:
            self.fail(f"{kind}: {error}")
            return None

    async def read_back(
        self, collection: str, key: Key, call: Callable[[AsyncClient], Awaitable[Image]]
    ) -> None:
        """Read a record through a random replica; it must be one that the writes allow (R1)."""
        with self.oracle.reading(collection, key) as allowed:
            try:
                found = await self._measured("get", call)
            except CallError as error:
                self.fail(f"get of {collection} {encode_key(key)}: {error}")
                return
        if not any(agrees(attempt.image, found) for attempt in allowed):
            wanted = [attempt.image for attempt in allowed]
            self.break_promise(
                f"{collection} {encode_key(key)} was read as {found}, written as {wanted}"
            )

    def fail(self, sentence: str) -> None:
        """Count a request that failed."""
        self.failed += 1
        self._keep(f"failed: {sentence}")

    def break_promise(self, sentence: str) -> None:
        """Count an answer that must not be."""
        self.wrong += 1
        self._keep(f"wrong: {sentence}")

    def account(self) -> dict[str, JsonValue]:
        """Return everything for the judge, as JSON."""
        return {
            "failed": self.failed,
            "wrong": self.wrong,
            "problems": list(self.problems),
            "oracle": self.oracle.dump(),
            "samples": [[item.kind, item.start_s, item.end_s, item.ok] for item in self.samples],
        }

    def _begin(self, targets: Sequence[Target]) -> list[Attempt]:
        now_s = time.monotonic()
        return [self.oracle.begin(*target, now_s) for target in targets]

    async def _measured(
        self, kind: str, call: Callable[[AsyncClient], Awaitable[Answer]]
    ) -> Answer:
        tenant = f"tenant-{self.rng.randrange(_TENANTS)}"
        client = self.rng.choice(self.clients).scoped(targeting_key=tenant)
        start_s = time.monotonic()
        passed = False
        try:
            answer = await call(client)
            passed = True
            return answer
        finally:
            self.samples.append(
                Sample(kind=kind, start_s=start_s, end_s=time.monotonic(), ok=passed)
            )

    def _keep(self, sentence: str) -> None:
        if len(self.problems) < _KEPT_MAX:
            self.problems.append(sentence)


def _names(targets: Sequence[Target]) -> str:
    shown = ", ".join(f"{collection} {encode_key(key)}" for collection, key, _ in targets[:3])
    return shown + (f" and {len(targets) - 3} more" if len(targets) > 3 else "")
