"""The process of the live clients: `python -m proxy.demo.clients ORDERS.json`.

It writes and reads through the proxies until its standard input says "stop" or closes, prints a
line of counts each second, and leaves its whole account (oracle, samples, problems) in a file.
The clients never retry, so that every request a proxy fails is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossfade.client import AsyncClient

from proxy.demo.options import DemoOptions
from proxy.demo.scenarios import prepare
from proxy.demo.traffic import Traffic

_REPORT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the clients are told: which proxies, preset, corpus and seed, where to report."""

    addresses: Sequence[str]
    preset: str
    seed: int
    corpus: str
    quick: bool
    account: str

    def save(self, file: Path) -> None:
        """Write the orders for the process to read."""
        orders = {name: getattr(self, name) for name in self.__slots__}
        file.write_text(json.dumps(orders), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Orders:
        """Read what `save` wrote."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))


async def serve_orders(orders: Orders) -> None:
    """Run the clients until told to stop, then write the account."""
    options = DemoOptions(
        preset=orders.preset,
        corpus=Path(orders.corpus) if orders.corpus else None,
        quick=orders.quick,
    )
    scenario = prepare(options, orders.seed)
    async with contextlib.AsyncExitStack() as stack:
        connected = [
            await stack.enter_async_context(AsyncClient(address, retries=0))
            for address in orders.addresses
        ]
        traffic = Traffic(clients=connected, rng=random.Random(orders.seed + 1))  # noqa: S311 - repeatable, not secret
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(_report(traffic))
            group.create_task(_await_stop(traffic, reporting))
            scenario.know(traffic.oracle)
            for client in scenario.staff(traffic):
                group.create_task(client)
    text = json.dumps(traffic.account())
    await asyncio.to_thread(Path(orders.account).write_text, text, encoding="utf-8")


async def _report(traffic: Traffic) -> None:
    while True:
        writes = sum(item.write for item in traffic.samples)
        searches = sum(item.search for item in traffic.samples)
        counts = {
            "acknowledged": traffic.oracle.acknowledged,
            "writes": writes,
            "searches": searches,
            "reads": len(traffic.samples) - writes - searches,
            "failed": traffic.failed,
            "wrong": traffic.wrong,
        }
        print(json.dumps(counts), flush=True)
        await asyncio.sleep(_REPORT_S)


async def _await_stop(traffic: Traffic, reporting: asyncio.Task[None]) -> None:
    """Return, and let every client finish what it is doing, when the demo says so or is gone."""
    await asyncio.to_thread(sys.stdin.readline)
    traffic.stopping.set()
    reporting.cancel()


if __name__ == "__main__":
    asyncio.run(serve_orders(Orders.load(Path(sys.argv[1]))))
