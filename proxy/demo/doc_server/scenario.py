"""The doc server's demo: every part of its scenario, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.demo.checks import Contents
from proxy.demo.damage import Damage
from proxy.demo.doc_server.contents import read_contents
from proxy.demo.doc_server.corpus import Corpus, load_corpus
from proxy.demo.doc_server.damage import inflict
from proxy.demo.doc_server.load import create_schemas, load_old
from proxy.demo.doc_server.plan import Plan, image_of, key_of, make_plan
from proxy.demo.doc_server.staff import staff
from proxy.demo.options import DemoOptions, Pace, pace_of
from proxy.demo.oracle import Expectation, Oracle
from proxy.demo.scenario import Client, Profile, Stores
from proxy.demo.traffic import Traffic
from proxy.model import JsonValue

_PROFILE = Profile(
    preset="doc-server",
    title="a live document store moves to its new schema",
    migration="rust-docs",
    databases={"old": "rust_docs_vectors", "new": "docs", "ledger": "crossfade_ledger"},
)


def doc_server(options: DemoOptions, seed: int) -> DocServer:
    """Read the corpus and deal it out.

    Raises:
        Rejected: the corpus cannot be used.
    """
    pace = pace_of(options)
    corpus = load_corpus(options.corpus, pace)
    plan = make_plan(corpus, seed=seed, writers=pace.writers)
    return DocServer(profile=_PROFILE, pace=pace, corpus=corpus, plan=plan)


@dataclass(slots=True, kw_only=True)
class DocServer:
    """The scenario of the preset doc-server."""

    profile: Profile
    pace: Pace
    corpus: Corpus
    plan: Plan

    def about(self) -> Mapping[str, JsonValue]:
        """Return the report's account of the corpus."""
        return self.corpus.summary()

    def facts(self) -> Sequence[tuple[str, str]]:
        """Say what the corpus is."""
        summary = self.corpus.summary()
        return (
            ("corpus", f"{summary['documents']} documents of {summary['sources']} sources"),
            ("", f"{summary['live_documents']} more for live writes; {summary['source']}"),
            ("vectors", f"{self.corpus.vectors}, 3072 dimensions"),
        )

    async def load(self, stores: Stores) -> str:
        """Make both schemas and fill the old database."""
        await asyncio.to_thread(create_schemas, stores.old, stores.new)
        rows = await asyncio.to_thread(load_old, stores.old, self.corpus.documents)
        return f"{rows} rows"

    def settings(self, stores: Stores) -> Mapping[str, JsonValue]:
        """Name both databases, and what the gate asks for."""
        return {
            "old": {"engine": "postgresql", "dsn": stores.old},
            "new": {"engine": "postgresql", "dsn": stores.new},
            "shadow": {
                "gate_queries_min": self.pace.shadow_queries_min,
                "gate_latency_ratio_max": self.pace.latency_ratio_max,
            },
        }

    def know(self, oracle: Oracle) -> None:
        """Tell what every owned document holds."""
        for owned in self.plan.owned:
            for document in owned:
                oracle.know("documents", key_of(document), image_of(document))

    def staff(self, traffic: Traffic) -> list[Client]:
        """Return the application's clients."""
        return staff(traffic, self.corpus, self.plan, self.pace)

    def inflict(self, stores: Stores, kinds: Sequence[str]) -> list[Damage]:
        """Spoil documents of the old database that nobody writes."""
        return inflict(stores.old, kinds, [key_of(document) for document in self.plan.quiet])

    async def examine(
        self, stores: Stores, expected: Sequence[Expectation]
    ) -> tuple[Contents, list[str]]:
        """Read both databases. Whoever writes gives the vectors: the rows are all there is."""
        return await asyncio.to_thread(read_contents, stores.old, stores.new), []
