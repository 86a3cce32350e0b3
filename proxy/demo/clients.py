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
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossfade.client import AsyncClient

from proxy.demo.corpus import Corpus, Document, Question, load_corpus
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


def staff(
    traffic: Traffic, corpus: Corpus, plan: Plan, pace: Pace
) -> list[Coroutine[None, None, None]]:
    """Return every client of a run, not yet running."""
    samples = [document for document in corpus.live if document.vector][:100]
    crates = sorted({document.crate for document in plan.quiet if document.vector})
    writes = pace.writes_per_s
    return [
        *_document_writers(traffic, plan, writes * (1 - _KEEPER_SHARE - _HOT_SHARE)),
        *_hot_writers(traffic, plan, samples, writes * _HOT_SHARE),
        CrateKeeper(
            traffic=traffic,
            pacer=Pacer(per_s=writes * _KEEPER_SHARE / 2),
            rng=_own(traffic),
            samples=samples,
        ).run(),
        JobKeeper(
            traffic=traffic,
            pacer=Pacer(per_s=writes * _KEEPER_SHARE / 2),
            rng=_own(traffic),
            config_ids=plan.config_ids,
        ).run(),
        *_readers(traffic, plan, pace.reads_per_s),
        *_searchers(traffic, corpus.questions, crates, pace.searches_per_s),
    ]


def _own(traffic: Traffic) -> random.Random:
    """Return a source of chance for one client, so that its choices depend on nobody else's."""
    return random.Random(traffic.rng.randrange(2**32))  # noqa: S311 - repeatable, not secret


def _document_writers(
    traffic: Traffic, plan: Plan, per_s: float
) -> list[Coroutine[None, None, None]]:
    pacer = Pacer(per_s=per_s)
    return [
        DocumentWriter(
            name=f"writer {number}",
            traffic=traffic,
            pacer=pacer,
            rng=_own(traffic),
            fresh=list(fresh),
            present={key_of(document): document for document in owned},
        ).run()
        for number, (fresh, owned) in enumerate(zip(plan.fresh, plan.owned, strict=True))
    ]


def _hot_writers(
    traffic: Traffic, plan: Plan, samples: Sequence[Document], per_s: float
) -> list[Coroutine[None, None, None]]:
    pacer = Pacer(per_s=per_s)
    return [
        HotWriter(
            name=f"hot writer {number}",
            traffic=traffic,
            pacer=pacer,
            rng=_own(traffic),
            keys=plan.hot,
            samples=samples,
        ).run()
        for number in range(_HOT_WRITERS)
    ]


def _readers(traffic: Traffic, plan: Plan, per_s: float) -> list[Coroutine[None, None, None]]:
    pacer = Pacer(per_s=per_s)
    return [
        Reader(traffic=traffic, pacer=pacer, rng=_own(traffic), quiet=plan.quiet).run()
        for _ in range(_READERS)
    ]


def _searchers(
    traffic: Traffic, questions: Sequence[Question], crates: Sequence[str], per_s: float
) -> list[Coroutine[None, None, None]]:
    pacer = Pacer(per_s=per_s)
    return [
        Searcher(
            traffic=traffic, pacer=pacer, rng=_own(traffic), questions=questions, crates=crates
        ).run()
        for _ in range(_SEARCHERS)
    ]


async def serve_orders(orders: Orders) -> None:
    """Run the clients until told to stop, then write the account."""
    options = DemoOptions(corpus=Path(orders.corpus) if orders.corpus else None, quick=orders.quick)
    pace = pace_of(options)
    corpus = load_corpus(options.corpus, pace)
    plan = make_plan(corpus, seed=orders.seed, writers=pace.writers)
    async with contextlib.AsyncExitStack() as stack:
        connected = [
            await stack.enter_async_context(AsyncClient(address, retries=0))
            for address in orders.addresses
        ]
        traffic = Traffic(clients=connected, rng=random.Random(orders.seed + 1))  # noqa: S311 - repeatable, not secret
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(_report(traffic))
            group.create_task(_await_stop(traffic, reporting))
            for owned in plan.owned:
                for document in owned:
                    traffic.oracle.know("documents", key_of(document), image_of(document))
            for client in staff(traffic, corpus, plan, pace):
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
