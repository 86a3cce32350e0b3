"""The process of the live clients: `python -m proxy.demo.clients ORDERS.json`.

It writes and reads through the proxies until its standard input says "stop" or closes, prints a
line of counts each second, and leaves its whole account (oracle, samples, problems) in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossfade.client import AsyncClient

from proxy.demo.corpus import Corpus, load_corpus
from proxy.demo.keepers import CrateKeeper, JobKeeper
from proxy.demo.options import DemoOptions, Pace, pace_of
from proxy.demo.plan import Plan, image_of, key_of, make_plan
from proxy.demo.readers import Reader, Searcher
from proxy.demo.traffic import Pacer, Traffic
from proxy.demo.writers import DocumentWriter, HotWriter

_READERS = 2
_SEARCHERS = 3
_HOT_WRITERS = 2
_KEEPER_SHARE = 0.2
_HOT_SHARE = 0.1
_REPORT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the clients are told: which proxies, which corpus, which seed, where to report."""

    addresses: Sequence[str]
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


def staff(traffic: Traffic, corpus: Corpus, plan: Plan, pace: Pace) -> list[Coroutine[None, None, None]]:
    """Return every client of a run, not yet running; what is loaded is known to the oracle."""
    rng = traffic.rng
    writes = Pacer(per_s=pace.writes_per_s * (1 - _KEEPER_SHARE - _HOT_SHARE))
    hot = Pacer(per_s=pace.writes_per_s * _HOT_SHARE)
    keeping = Pacer(per_s=pace.writes_per_s * _KEEPER_SHARE / 2)
    jobs = Pacer(per_s=pace.writes_per_s * _KEEPER_SHARE / 2)
    reads, searches = Pacer(per_s=pace.reads_per_s), Pacer(per_s=pace.searches_per_s)
    own = [random.Random(rng.randrange(2**32)) for _ in range(pace.writers + 16)]  # noqa: S311 - repeatable, not secret
    samples = [document for document in corpus.live if document.vector][:100]
    for owned in plan.owned:
        for document in owned:
            traffic.oracle.know("documents", key_of(document), image_of(document))
    crates = sorted({document.crate for document in plan.quiet if document.vector})
    clients = [
        DocumentWriter(
            name=f"writer {number}",
            traffic=traffic,
            pacer=writes,
            rng=own.pop(),
            fresh=list(plan.fresh[number]),
            present={key_of(document): document for document in plan.owned[number]},
        ).run()
        for number in range(pace.writers)
    ]
    clients += [
        HotWriter(
            name=f"hot writer {number}",
            traffic=traffic,
            pacer=hot,
            rng=own.pop(),
            keys=plan.hot,
            samples=samples,
        ).run()
        for number in range(_HOT_WRITERS)
    ]
    clients += [
        CrateKeeper(traffic=traffic, pacer=keeping, rng=own.pop(), samples=samples).run(),
        JobKeeper(traffic=traffic, pacer=jobs, rng=own.pop(), config_ids=plan.config_ids).run(),
    ]
    clients += [
        Reader(traffic=traffic, pacer=reads, rng=own.pop(), quiet=plan.quiet).run()
        for _ in range(_READERS)
    ]
    clients += [
        Searcher(
            traffic=traffic,
            pacer=searches,
            rng=own.pop(),
            questions=corpus.questions,
            crates=crates,
        ).run()
        for _ in range(_SEARCHERS)
    ]
    return clients


async def serve_orders(orders: Orders) -> None:
    """Run the clients until told to stop, then write the account."""
    options = DemoOptions(
        corpus=Path(orders.corpus) if orders.corpus else None, quick=orders.quick
    )
    pace = pace_of(options)
    corpus = load_corpus(options.corpus, pace)
    plan = make_plan(corpus, seed=orders.seed, writers=pace.writers)
    async with contextlib.AsyncExitStack() as stack:
        connected = [
            await stack.enter_async_context(AsyncClient(address)) for address in orders.addresses
        ]
        traffic = Traffic(clients=connected, rng=random.Random(orders.seed + 1))  # noqa: S311 - repeatable, not secret
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(_report(traffic))
            group.create_task(_await_stop(traffic, reporting))
            for client in staff(traffic, corpus, plan, pace):
                group.create_task(client)
    Path(orders.account).write_text(json.dumps(traffic.account()), encoding="utf-8")


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
