"""Shadow reads over PostgreSQL and LanceDB: every mode, the same data, and what is excused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import ShadowSettings, StoreSettings
from proxy.dataplane import Reading
from proxy.embedding.queries import QueryEmbedder
from proxy.layouts import StoreSchema
from proxy.model import EmbeddingSpec, VectorSpec, Write
from proxy.query import SearchMode, SearchQuery
from proxy.stores.base import Store
from proxy.stores.postgres import PostgresStore
from shadow.gate import gate
from shadow.shadow_read import ShadowParts, ShadowReader
from shadow.stats import GroupStats, Stats
from tests.doc_server import (
    create_tables,
    delete,
    document,
    in_lance,
    schemas_with_words,
    source,
)
from tests.embedding import FakeEmbedder, vector_of
from tests.unit.shadow.support import ROUTING, FakeLedger

pytest.importorskip("lancedb", reason="needs crossfade[lancedb]")

MODEL, DIM = "small", 3072
NOUNS = ("kernel", "scheduler", "compiler", "borrow checker", "library", "parser")
VERBS = ("rewrites", "explains", "measures", "replaces", "documents")
TEXT = SearchQuery(collection="documents", mode=SearchMode.TEXT, text="kernel measures")
MODES = [
    TEXT,
    replace(TEXT, mode=SearchMode.KEYWORD),
    replace(TEXT, mode=SearchMode.KEYWORD, text='parser or "borrow checker" -library'),
    replace(TEXT, mode=SearchMode.HYBRID, alpha=0.4),
]
SETTINGS = ShadowSettings(gate_queries_min=1, noise_sample=1.0, gate_latency_slack_ms=1e6)


def embedded(schema: StoreSchema) -> StoreSchema:
    """Return a schema whose documents are embedded by their content."""
    embedding = EmbeddingSpec(model=MODEL, template="{content}", fields=("content",))
    spec = replace(schema.collections["documents"], vector=VectorSpec(dim=DIM, embedding=embedding))
    return replace(schema, collections={**schema.collections, "documents": spec})


def documents() -> list[Write]:
    """Return a source and documents that share many words."""
    texts = [f"The {a} {verb} the {b}" for a in NOUNS for verb in VERBS for b in NOUNS[:2]]
    return [source()] + [
        document(f"d{n:02}", number=n, content=text, packed=vector_of(MODEL, text, DIM))
        for n, text in enumerate(texts)
    ]


@dataclass
class Pair:
    """The two stores and the shadow reader over them."""

    stores: dict[str, Store]
    reader: ShadowReader

    async def compared(self, *queries: SearchQuery) -> Stats:
        """Serve queries from the old store and wait until they are compared."""
        embedder = QueryEmbedder(FakeEmbedder({MODEL: DIM}))
        for query in queries:
            ready = await embedder.for_store(query, self.stores["old"].schema, 5)
            found = await self.stores["old"].search(ready, deadline_s=10)
            assert found.hits
            self.reader.observe(
                Reading(
                    request_id=query.text,
                    query=query,
                    control_store="old",
                    candidate_store="new",
                    search=found,
                    records=[hit.record for hit in found.hits],
                    latency_ms=1.0,
                )
            )
        async with asyncio.timeout(60):
            await self.reader.idle()
        return self.reader.stats()


@pytest.fixture
async def pair(new_database: Callable[[], str], tmp_path: Path) -> AsyncIterator[Pair]:
    from proxy.stores.lancedb import LanceStore

    dsn, clock = new_database(), SystemClock()
    create_tables(dsn, "old")
    schemas = {side: embedded(schema) for side, schema in schemas_with_words().items()}
    place = StoreSettings(engine="lancedb", uri=str(tmp_path))
    stores: dict[str, Store] = {
        "old": PostgresStore("old", dsn, schemas["old"], pool_min=1, pool_max=3),
        "new": LanceStore("new", place, in_lance(schemas["new"]), clock),
    }
    for store in stores.values():
        await store.open()
        for result in await store.apply(documents(), atomic=False, deadline_s=30):
            assert result.applied.value == "done", result
    reader = ShadowReader(
        ShadowParts(
            stores=stores,
            ledger=FakeLedger(),
            routing=lambda: ROUTING,
            replica_id="replica-1",
            engines={"old": "postgresql", "new": "lancedb"},
            embedder=FakeEmbedder({MODEL: DIM}),
        ),
        SETTINGS,
    )
    await reader.start()
    yield Pair(stores=stores, reader=reader)
    await reader.close()
    for store in stores.values():
        await store.close()


def by_kind(stats: Stats) -> dict[str, GroupStats]:
    return {key.kind: group for key, group in stats.groups.items()}


async def test_texts_agree_in_full_and_words_differ_by_name_alone(pair: Pair) -> None:
    stats = await pair.compared(*MODES)
    groups = by_kind(stats)
    assert set(groups) == {"text search", "keyword search", "hybrid search"}
    text = groups["text search"]
    assert (text.queries, text.identical, dict(text.causes), dict(text.by_rank)) == (1, 1, {}, {})
    for kind in ("keyword search", "hybrid search"):
        group = groups[kind]
        assert set(group.causes) <= {"semantic"}, group.causes
        assert group.score_delta_max == 0
        (reason,) = group.by_rank
        assert reason == "words are ranked by ts_rank in one store and by bm25 in the other"
    assert sum(group.queries for group in groups.values()) == len(MODES)
    failed = [item for item in gate(stats, SETTINGS) if not item.passed]
    assert not failed


async def test_a_record_that_the_new_store_lost_fails_the_gate_in_every_mode(pair: Pair) -> None:
    found = await pair.stores["old"].search(
        replace(TEXT, mode=SearchMode.KEYWORD, limit=1), deadline_s=10
    )
    lost = found.hits[0].record.key
    await pair.stores["new"].apply([delete("documents", lost)], atomic=False, deadline_s=10)
    wide = [replace(query, limit=100) for query in MODES if query.text == TEXT.text]
    groups = by_kind(await pair.compared(*wide))
    assert {kind: group.causes.get("missing") for kind, group in groups.items()} == {
        "text search": 1,
        "keyword search": 1,
        "hybrid search": 1,
    }
