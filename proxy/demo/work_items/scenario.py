"""The work items' demo: every part of its scenario, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.demo.checks import Contents
from proxy.demo.damage import Damage
from proxy.demo.options import DemoOptions, Pace, pace_of
from proxy.demo.oracle import Expectation, Oracle
from proxy.demo.scenario import Client, Profile, Stores
from proxy.demo.traffic import Traffic
from proxy.demo.work_items.contents import read_contents
from proxy.demo.work_items.corpus import Corpus, make_corpus
from proxy.demo.work_items.damage import inflict
from proxy.demo.work_items.fit import stale, without_sense
from proxy.demo.work_items.items import COLLECTION, image_of, text_of
from proxy.demo.work_items.load import create_table, embed, load_old
from proxy.demo.work_items.origin import find_origin
from proxy.demo.work_items.plan import Plan, make_plan
from proxy.demo.work_items.staff import staff
from proxy.model import JsonValue

_PROFILE = Profile(
    preset="work-items",
    title="live work items move from PostgreSQL to LanceDB",
    migration="work-items",
    databases={"old": "work_items", "ledger": "crossfade_ledger"},
    replicas_max=1,
    reconciler_inside=True,
)
_CHECKED_TEXTS = 200


def work_items(options: DemoOptions, seed: int) -> WorkItems:
    """Read or make the items and deal them out.

    Raises:
        Rejected: the corpus cannot be used.
    """
    pace = _pace(options)
    corpus = make_corpus(find_origin(options.corpus), pace, seed)
    plan = make_plan(corpus, seed=seed, writers=pace.writers)
    return WorkItems(profile=_PROFILE, pace=pace, corpus=corpus, plan=plan)


def _pace(options: DemoOptions) -> Pace:
    """Return the pace: texts are embedded by the cores that serve, so clients rush less."""
    if options.quick:
        return replace(
            pace_of(options),
            documents=600,
            live_documents=150,
            dwell_s=0.7,
            writes_per_s=20.0,
            reads_per_s=10.0,
            searches_per_s=12.0,
        )
    return replace(
        pace_of(options),
        documents=10_000,
        live_documents=1_000,
        # Another kind of engine: sooner with a text's meaning, later with words and lists. What its
        # users ask for, a p95 below 100 ms, is in the report.
        latency_ratio_max=5.0,
        # Two cores serve, embed, search twice and compare: longer at a pace that leaves them room.
        dwell_s=10.0,
        shadow_queries_min=60,
        writes_per_s=9.0,
        reads_per_s=4.0,
        searches_per_s=2.5,
    )


@dataclass(slots=True, kw_only=True)
class WorkItems:
    """The scenario of the preset work-items."""

    profile: Profile
    pace: Pace
    corpus: Corpus
    plan: Plan

    def about(self) -> Mapping[str, JsonValue]:
        """Return the report's account of the corpus."""
        return self.corpus.summary()

    def facts(self) -> Sequence[tuple[str, str]]:
        """Say what the corpus is."""
        corpus = self.corpus
        return (
            ("corpus", f"{len(corpus.items)} work items: {corpus.originals} and edits of them"),
            ("", f"{len(corpus.live)} more for live inserts; {corpus.source}"),
            ("vectors", f"all-MiniLM-L6-v2 of {len(corpus.texts)} distinct texts, 384 dimensions"),
        )

    async def load(self, stores: Stores) -> str:
        """Make the table and fill it; the vectors are computed now, each text once."""
        await asyncio.to_thread(create_table, stores.old)
        texts = self.corpus.texts
        began_s = time.monotonic()
        vectors, took_s = await embed(texts)
        opened_s = time.monotonic() - began_s - took_s
        by_text = dict(zip(texts, vectors, strict=True))
        await asyncio.to_thread(load_old, stores.old, self.corpus.items, by_text)
        return (
            f"{len(self.corpus.items)} rows; model loaded in {opened_s:.1f} s, "
            f"{len(texts)} texts embedded in {took_s:.1f} s"
        )

    def settings(self, stores: Stores) -> Mapping[str, JsonValue]:
        """Name both stores, and what the gate asks for."""
        return {
            "old": {"engine": "postgresql", "dsn": stores.old},
            "new": {"engine": "lancedb", "uri": stores.new},
            "shadow": {
                "gate_queries_min": self.pace.shadow_queries_min,
                "gate_latency_ratio_max": self.pace.latency_ratio_max,
                "sample": 0.5,
            },
        }

    def know(self, oracle: Oracle) -> None:
        """Tell what every owned item holds."""
        for owned in self.plan.owned:
            for item in owned:
                oracle.know(COLLECTION, item.key, image_of(item))

    def staff(self, traffic: Traffic) -> list[Client]:
        """Return the application's clients."""
        return staff(traffic, self.corpus, self.plan, self.pace)

    def inflict(self, stores: Stores, kinds: Sequence[str]) -> list[Damage]:
        """Spoil items of the old table that nobody writes."""
        return inflict(stores.old, kinds, [item.key for item in self.plan.quiet])

    async def examine(
        self, stores: Stores, expected: Sequence[Expectation]
    ) -> tuple[Contents, list[str]]:
        """Read both stores, and embed words that live clients wrote anew: the vectors must fit."""
        images = [image for one in expected for image in one.images if image is not None]
        written = dict.fromkeys(text_of(image) for image in images)
        texts = [text for text in written if text][-_CHECKED_TEXTS:]
        vectors, _ = await embed(texts)
        # Only now LanceDB comes into this process: its threads and a fork do not go together.
        contents = await asyncio.to_thread(read_contents, stores.old, stores.new)
        rows = contents.new[COLLECTION]
        anew = dict(zip(texts, vectors, strict=True))
        return contents, [
            *without_sense(rows, contents.vectors),
            *stale(rows, contents.vectors, anew),
        ]
