"""Every live client of the work items' demo, with its share of the traffic."""

from __future__ import annotations

import random

from proxy.demo.options import Pace
from proxy.demo.scenario import Client
from proxy.demo.traffic import Pacer, Traffic
from proxy.demo.work_items.corpus import Corpus
from proxy.demo.work_items.plan import Plan
from proxy.demo.work_items.readers import Reader, Searcher
from proxy.demo.work_items.writers import HotWriter, ItemWriter

_READERS = 2
_SEARCHERS = 3
_HOT_WRITERS = 2
_HOT_SHARE = 0.15


def staff(traffic: Traffic, corpus: Corpus, plan: Plan, pace: Pace) -> list[Client]:
    """Return every client of a run, not yet running."""
    own = Pacer(per_s=pace.writes_per_s * (1 - _HOT_SHARE))
    hot = Pacer(per_s=pace.writes_per_s * _HOT_SHARE)
    reads, searches = Pacer(per_s=pace.reads_per_s), Pacer(per_s=pace.searches_per_s)
    writers: list[Client] = [
        ItemWriter(
            name=f"writer {number}",
            traffic=traffic,
            pacer=own,
            rng=_own(traffic),
            fresh=list(fresh),
            present={item.key: item for item in owned},
        ).run()
        for number, (fresh, owned) in enumerate(zip(plan.fresh, plan.owned, strict=True))
    ]
    fighters: list[Client] = [
        HotWriter(
            name=f"hot writer {number}",
            traffic=traffic,
            pacer=hot,
            rng=_own(traffic),
            keys=plan.hot,
            samples=corpus.live[:100],
        ).run()
        for number in range(_HOT_WRITERS)
    ]
    readers: list[Client] = [
        Reader(traffic=traffic, pacer=reads, rng=_own(traffic), quiet=plan.quiet).run()
        for _ in range(_READERS)
    ]
    searchers: list[Client] = [
        Searcher(
            traffic=traffic,
            pacer=searches,
            rng=_own(traffic),
            questions=corpus.questions,
            quiet=plan.quiet,
        ).run()
        for _ in range(_SEARCHERS)
    ]
    return [*writers, *fighters, *readers, *searchers]


def _own(traffic: Traffic) -> random.Random:
    """Return a source of chance for one client, so that its choices depend on nobody else's."""
    return random.Random(traffic.rng.randrange(2**32))  # noqa: S311 - repeatable, not secret
