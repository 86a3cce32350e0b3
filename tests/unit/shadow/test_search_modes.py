"""Searches by text and by words in the shadow: strict where stores are alike, honest where not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.cli.output import Output
from proxy.cli.report import _show as show_report
from proxy.clock import SystemClock
from proxy.config.settings import ShadowSettings
from proxy.controlplane import Precondition
from proxy.dataplane import Reading
from proxy.embedding.queries import QueryEmbedder
from proxy.errors import Reason, Rejected, Unavailable
from proxy.layouts import StoreSchema
from proxy.model import EmbeddingSpec, KeywordSpec, Metric, Value, VectorSpec, Write, WriteOp
from proxy.query import Scoring, SearchMode, SearchQuery, SearchResult
from proxy.stores.memory import MemoryStore
from shadow.gate import gate
from shadow.rankers import Rankers
from shadow.report import build_report, render_shadow_report
from shadow.shadow_read import ShadowParts, ShadowReader
from shadow.stats import GroupStats, Stats
from tests.embedding import FakeEmbedder, vector_of
from tests.unit.shadow.support import ROUTING, FakeLedger, key, schema

DIMS = {"small": 16, "large": 40}
TEXTS = {
    "a": "borrow checker rules of the compiler",
    "b": "async runtime and its scheduler",
    "c": "borrow a book from the library",
    "d": "the scheduler of the kernel",
    "e": "rules of the road",
}
TEXT = SearchQuery(collection="documents", mode=SearchMode.TEXT, text="borrow rules", limit=3)
WORDS = replace(TEXT, mode=SearchMode.KEYWORD, text="borrow or scheduler or rules")
HYBRID = replace(WORDS, mode=SearchMode.HYBRID)
SETTINGS = ShadowSettings(noise_sample=1.0, gate_queries_min=1, gate_latency_slack_ms=1e6)


def searchable(side: str, model: str) -> StoreSchema:
    """Return a side's schema with words and with vectors of a model."""
    made = schema(side)
    embedding = EmbeddingSpec(model=model, template="{content}", fields=("content",))
    spec = replace(
        made.collections["documents"],
        vector=VectorSpec(dim=DIMS[model], metric=Metric.COSINE, embedding=embedding),
        keyword=KeywordSpec(fields=("content",)),
    )
    return replace(made, collections={"documents": spec})


class Quirky(MemoryStore):
    """A store whose searches can hide records or score in another way."""

    def __init__(self, name: str, model: str) -> None:
        super().__init__(name, searchable(name, model), SystemClock())
        self.model = model
        self.unseen: set[str] = set()
        self.factor = 1.0

    async def put(self, name: str, text: str) -> None:
        fields: dict[str, Value] = {"content": text, "size": 1, "extra": None}
        vector = vector_of(self.model, text, DIMS[self.model])
        write = Write(
            op=WriteOp.UPSERT,
            collection="documents",
            key=key(name),
            fields=fields,
            vector=vector,
        )
        await self.apply([write], atomic=False, deadline_s=1)

    async def drop(self, name: str) -> None:
        write = Write(op=WriteOp.DELETE, collection="documents", key=key(name))
        await self.apply([write], atomic=False, deadline_s=1)

    async def search(self, query: SearchQuery, *, deadline_s: float) -> SearchResult:
        wide = replace(query, limit=query.limit + len(self.unseen))
        found = await super().search(wide, deadline_s=deadline_s)
        seen = [hit for hit in found.hits if hit.record.key[1] not in self.unseen]
        hits = [replace(hit, similarity=hit.similarity * self.factor) for hit in seen]
        return replace(found, hits=tuple(hits[: query.limit]))


class Pair:
    """Two stores with the same documents, and a shadow reader over them."""

    def __init__(self, old: str, new: str, engines: Mapping[str, str] | None = None) -> None:
        self.old, self.new = Quirky("old", old), Quirky("new", new)
        self.embedder = FakeEmbedder(DIMS)
        self.reader = ShadowReader(
            ShadowParts(
                stores={"old": self.old, "new": self.new},
                ledger=FakeLedger(),
                routing=lambda: ROUTING,
                replica_id="replica-1",
                engines=engines or {},
                embedder=self.embedder,
            ),
            SETTINGS,
        )

    async def fill(self) -> Pair:
        for name, text in TEXTS.items():
            await self.old.put(name, text)
            await self.new.put(name, text)
        return self

    async def compared(self, query: SearchQuery) -> GroupStats:
        """Serve a query from the old store and compare it with the new one."""
        ready = await QueryEmbedder(FakeEmbedder(DIMS)).for_store(query, self.old.schema, 1)
        found = await self.old.search(ready, deadline_s=1)
        await self.reader.start()
        self.reader.observe(
            Reading(
                request_id="r",
                query=query,
                control_store="old",
                candidate_store="new",
                search=found,
                records=[hit.record for hit in found.hits],
                latency_ms=1.0,
            )
        )
        async with asyncio.timeout(10):
            await self.reader.idle()
        await self.reader.close()
        (group,) = self.reader.stats().groups.values()
        return group

    def judged(self) -> dict[str, Precondition]:
        return {item.name: item for item in gate(self.reader.stats(), SETTINGS)}


@pytest.mark.parametrize("query", [TEXT, WORDS, HYBRID])
async def test_stores_that_are_alike_agree_in_every_mode(query: SearchQuery) -> None:
    pair = await Pair("small", "small").fill()
    group = await pair.compared(query)
    assert (group.queries, group.identical, group.known) == (1, 1, {})
    assert group.noise.mean == 1.0
    assert all(item.passed for item in pair.judged().values())


@pytest.mark.parametrize("query", [TEXT, WORDS, HYBRID])
async def test_stores_that_are_alike_are_compared_strictly(query: SearchQuery) -> None:
    pair = await Pair("small", "small").fill()
    pair.new.unseen = {"a"}
    group = await pair.compared(query)
    assert group.causes["index_recall"] >= 1
    assert "semantic" not in group.causes
    assert not pair.judged()["shadow: overlap"].passed


async def test_a_text_search_that_scores_wrong_is_found_by_the_embedded_text() -> None:
    pair = await Pair("small", "small").fill()
    pair.new.factor = 1.01
    group = await pair.compared(TEXT)
    assert group.causes == {"vector": 3}
    assert group.score_delta_max > 0
    assert group.by_rank == {}


@pytest.mark.parametrize("query", [TEXT, HYBRID])
async def test_different_models_are_compared_by_rank_and_excused_by_name(
    query: SearchQuery,
) -> None:
    pair = await Pair("small", "large").fill()
    pair.new.unseen = {"a"}
    pair.new.factor = 7.0
    group = await pair.compared(query)
    assert set(group.causes) == {"semantic"}
    assert group.overlap.mean is not None
    assert group.overlap.mean < 1.0
    assert group.overlap_excused.mean == 1.0
    assert group.score_delta_max == 0
    (reason,) = group.known
    assert "different models (small of 16 dimensions, large of 40 dimensions)" in reason
    assert group.by_rank == {reason: 1}
    judged = pair.judged()
    assert all(item.passed for item in judged.values())
    assert reason in judged["shadow: overlap"].detail


async def test_each_store_is_asked_by_the_vector_of_its_own_model() -> None:
    pair = await Pair("small", "large").fill()
    await pair.compared(TEXT)
    models = [model for model, _ in pair.embedder.texts]
    assert models[0] == "large", "the candidate's"
    assert set(models) == {"small", "large"}, "and the control's, for the noise"
    assert {text for _, text in pair.embedder.texts} == {TEXT.text}


@pytest.mark.parametrize("query", [WORDS, HYBRID])
async def test_words_read_by_two_engines_are_a_known_difference(query: SearchQuery) -> None:
    pair = await Pair("small", "small", {"old": "postgresql", "new": "lancedb"}).fill()
    pair.new.unseen = {"a"}
    group = await pair.compared(query)
    assert set(group.causes) == {"semantic"}
    assert list(group.known) == ["words are read differently by postgresql and lancedb"]
    assert group.by_rank == {"words are read differently by postgresql and lancedb": 1}


@pytest.mark.parametrize("query", [TEXT, WORDS, HYBRID])
async def test_no_known_difference_excuses_a_record_that_is_missing_or_stale(
    query: SearchQuery,
) -> None:
    pair = await Pair("small", "large", {"old": "postgresql", "new": "lancedb"}).fill()
    await pair.new.drop("a")
    await pair.new.put("c", TEXTS["c"] + " today")
    group = await pair.compared(replace(query, limit=5))
    assert group.causes["missing"] == 1
    assert group.causes["stale"] == 1
    judged = pair.judged()
    assert not judged["shadow: no record missing"].passed
    assert not judged["shadow: no stale content"].passed


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("gone", where="embedder"),
        Rejected("full", reason=Reason.RESOURCE_EXHAUSTED),
    ],
)
async def test_an_embedder_without_time_is_no_failure_of_the_candidate(
    error: Unavailable | Rejected,
) -> None:
    pair = await Pair("small", "large").fill()
    pair.embedder.fail = error
    group = await pair.compared(TEXT)
    assert (group.queries, group.errors, group.inconclusive) == (0, {}, {"embedder": 1})


async def test_a_search_that_the_candidate_cannot_do_fails_the_gate() -> None:
    pair = await Pair("small", "small").fill()
    spec = replace(pair.new.schema.collections["documents"], keyword=None)
    pair.new._tables["documents"].spec = spec
    group = await pair.compared(WORDS)
    assert group.errors == {"Rejected": 1}
    assert not pair.judged()["shadow: no errors"].passed


async def test_an_old_store_without_vectors_is_not_blamed_for_it_and_a_new_one_is() -> None:
    schemas = {"old": searchable("old", "small"), "new": searchable("new", "small")}
    bare = replace(schemas["old"].collections["documents"], vector=None)
    schemas["old"] = replace(schemas["old"], collections={"documents": bare})
    rankers = Rankers(old=schemas["old"], new=schemas["new"], words=(Scoring.BM25, Scoring.BM25))
    assert rankers.beyond(TEXT, "old") == "old_has_no_vectors"
    assert rankers.beyond(WORDS, "old") == ""
    assert rankers.beyond(replace(HYBRID, alpha=0.0), "old") == ""
    assert rankers.beyond(TEXT, "new") == ""


async def test_the_report_names_what_was_excused_and_what_was_compared_by_rank() -> None:
    pair = await Pair("small", "large").fill()
    pair.new.unseen = {"a"}
    group = await pair.compared(TEXT)
    stats = pair.reader.stats()
    report: dict[str, Any] = build_report(
        stats, SETTINGS, migration="m", generated_at=SystemClock().now()
    )
    assert report["total"]["known_differences"] == group.known
    assert report["total"]["by_rank"] == group.by_rank
    page = render_shadow_report(report)
    assert "different models" in page
    assert "Ranks alone were compared in 1 query" in page
    (sample,) = report["samples"]
    assert sample["query"] == "3 nearest in meaning to “borrow rules”"
    assert all(hit["score"] is None for hit in sample["control"]["hits"])


async def test_statistics_of_a_former_version_are_read() -> None:
    pair = await Pair("small", "large").fill()
    await pair.compared(TEXT)
    stats = pair.reader.stats()
    data: Any = stats.to_json()
    assert Stats.from_json(data) == stats
    for group in data["groups"]:
        del group["known"], group["by_rank"]
    (former,) = Stats.from_json(data).groups.values()
    assert (former.queries, former.known, former.by_rank) == (1, {}, {})


@pytest.mark.parametrize("mode", list(SearchMode))
def test_two_scorings_of_words_differ_in_the_modes_that_use_words(mode: SearchMode) -> None:
    rankers = Rankers(
        old=searchable("old", "small"),
        new=searchable("new", "small"),
        words=(Scoring.TS_RANK, Scoring.BM25),
    )
    query = replace(TEXT, mode=mode)
    by_words = mode in (SearchMode.KEYWORD, SearchMode.HYBRID)
    assert ("ranked by ts_rank" in rankers.differ(query)) is by_words
    assert bool(rankers.by_rank(query)) is by_words


def test_a_leg_without_a_share_makes_no_difference() -> None:
    rankers = Rankers(
        old=searchable("old", "small"),
        new=searchable("new", "large"),
        words=(Scoring.TS_RANK, Scoring.BM25),
    )
    assert "different models" not in rankers.differ(replace(HYBRID, alpha=0.0))
    assert "ranked by" not in rankers.differ(replace(HYBRID, alpha=1.0))
    both = rankers.differ(HYBRID)
    assert "different models" in both
    assert "ranked by ts_rank" in both


def test_equal_ranks_of_one_engine_are_compared_as_scores() -> None:
    same = Rankers(
        old=searchable("old", "small"),
        new=searchable("new", "small"),
        words=(Scoring.TS_RANK, Scoring.TS_RANK),
        engines=("postgresql", "postgresql"),
    )
    assert same.by_rank(WORDS) == ""
    assert same.by_rank(TEXT) == ""
    assert same.by_rank(HYBRID) == "a hybrid score is made of ranks"


async def test_the_command_line_names_what_was_excused(capsys: pytest.CaptureFixture[str]) -> None:
    pair = await Pair("small", "large").fill()
    pair.new.unseen = {"a"}
    await pair.compared(TEXT)
    report = build_report(
        pair.reader.stats(), SETTINGS, migration="m", generated_at=SystemClock().now()
    )
    show_report(report, Output())
    text = " ".join(capsys.readouterr().out.split())
    assert "known differences, excused" in text
    assert "ranks compared, not scores" in text
    assert text.count("different models (small of 16 dimensions") >= 2
