"""Every live client of the doc server's demo, with its share of the traffic."""

from __future__ import annotations

import random
from collections.abc import Sequence

from proxy.demo.doc_server.corpus import Corpus, Document, Question
from proxy.demo.doc_server.keepers import CrateKeeper, JobKeeper
from proxy.demo.doc_server.plan import Plan, key_of
from proxy.demo.doc_server.readers import Reader, Searcher
from proxy.demo.doc_server.writers import DocumentWriter, HotWriter
from proxy.demo.options import Pace
from proxy.demo.scenario import Client
from proxy.demo.traffic import Pacer, Traffic

_READERS = 2
_SEARCHERS = 3
_HOT_WRITERS = 2
_KEEPER_SHARE = 0.2
_HOT_SHARE = 0.1


def staff(traffic: Traffic, corpus: Corpus, plan: Plan, pace: Pace) -> list[Client]:
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


def _document_writers(traffic: Traffic, plan: Plan, per_s: float) -> list[Client]:
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
) -> list[Client]:
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


def _readers(traffic: Traffic, plan: Plan, per_s: float) -> list[Client]:
    pacer = Pacer(per_s=per_s)
    return [
        Reader(traffic=traffic, pacer=pacer, rng=_own(traffic), quiet=plan.quiet).run()
        for _ in range(_READERS)
    ]


def _searchers(
    traffic: Traffic, questions: Sequence[Question], crates: Sequence[str], per_s: float
) -> list[Client]:
    pacer = Pacer(per_s=per_s)
    return [
        Searcher(
            traffic=traffic, pacer=pacer, rng=_own(traffic), questions=questions, crates=crates
        ).run()
        for _ in range(_SEARCHERS)
    ]
