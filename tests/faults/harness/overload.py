"""Open-loop load: calls arrive at a rate, whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from crossfade.client import AsyncClient
from crossfade.client.errors import CallError

from tests.faults.harness.databases import vector_of

KEYS = 4000
"""Distinct keys that writes go to in turn, so that no write waits for another's key."""
_VECTOR = vector_of("load")

_NUMBER = re.compile(r"\d+(\.\d+)?")  # what differs from one call to the next


@dataclass
class Offered:
    """What became of the calls that were offered.

    Attributes:
        acknowledged_s: the latency of each acknowledged write.
        refused_s: of each that was told to slow down (RESOURCE_EXHAUSTED).
        failed_s: of each other one; `failed`: how often what was said of them.
    """

    rate: float
    for_s: float
    acknowledged_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    failed_s: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        """Calls that were made."""
        return len(self.acknowledged_s) + len(self.refused_s) + len(self.failed_s)

    @property
    def goodput(self) -> float:
        """Acknowledged writes a second."""
        return len(self.acknowledged_s) / self.for_s

    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def heard(told: Mapping[str, Any]) -> Offered:
        """Return what another process told."""
        return Offered(**{**told, "failed": Counter(told["failed"])})

    def __str__(self) -> str:
        return (
            f"offered {self.rate:.0f}/s: {self.goodput:.0f}/s acknowledged, p50"
            f" {_ms(self.acknowledged_s, 0.5)}, p99 {_ms(self.acknowledged_s, 0.99)};"
            f" {len(self.refused_s) / self.for_s:.0f}/s refused, p99 {_ms(self.refused_s, 0.99)};"
            f" failed {dict(self.failed)}"
        )


def _ms(values: list[float], share: float) -> str:
    if not values:
        return "-"
    return f"{sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1000:.0f} ms"


class Arrivals:
    """Writes to one proxy; keys go round."""

    def __init__(self, client: AsyncClient, *, timeout_s: float, first: int = 0) -> None:
        self._client = client.scoped(timeout_s=timeout_s)
        self._numbers = itertools.count(first)
        self.acknowledged: set[tuple[str, ...]] = set()

    async def capacity(self, *, for_s: float, workers: int) -> float:
        """Return writes a second of clients that wait for each answer."""
        offered = Offered(0.0, for_s)
        ends_s = time.monotonic() + for_s

        async def work() -> None:
            while time.monotonic() < ends_s:
                await self._write(offered)

        await asyncio.gather(*(work() for _ in range(workers)))
        assert not offered.failed, offered
        return offered.goodput

    async def offer(self, rate: float, *, for_s: float) -> Offered:
        """Offer writes at a rate, and return when the last one is answered."""
        offered = Offered(rate, for_s)
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            sent = 0
            while (passed_s := time.monotonic() - began_s) < for_s:
                for _ in range(int(passed_s * rate) - sent):
                    group.create_task(self._write(offered))
                    sent += 1
                await asyncio.sleep(0.005)
        return offered

    async def _write(self, offered: Offered) -> None:
        number = next(self._numbers)
        key = ("rust", "load", f"page-{number % KEYS}")
        began_s = time.monotonic()
        try:
            await self._client.upsert(
                "documents", key, {"content": f"write {number}"}, vector=_VECTOR
            )
        except CallError as error:
            if error.code == "RESOURCE_EXHAUSTED":
                offered.refused_s.append(time.monotonic() - began_s)
            else:
                offered.failed_s.append(time.monotonic() - began_s)
                said = _NUMBER.sub("n", error.message)[:70]
                offered.failed[f"{error.code}: {said}"] += 1
        else:
            offered.acknowledged_s.append(time.monotonic() - began_s)
            self.acknowledged.add(key)
