"""Full-text search in LanceDB finds what a scan finds, whatever was done to the table between."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lancedb
import pytest

from proxy.clock import SystemClock
from proxy.errors import Unavailable
from proxy.layouts import StoreSchema
from proxy.model import KeywordSpec, Write
from proxy.query import Compare, CompareOp, Projection, SearchMode, SearchQuery
from proxy.stores.lancedb import LanceStore, keyword
from proxy.stores.lancedb.indexes import build_word_indexes, is_indexed
from proxy.stores.lancedb.rows import Selection
from proxy.stores.memory import MemoryStore
from proxy.stores.memory_words import Text
from tests.lance import gone, item, lance, schema

WORDS = ("alpha", "beta", "gamma", "delta", "the", "of", "größe", "x1", "日本")
QUERIES = (
    "alpha",
    "alpha beta",
    '"alpha beta"',
    "alpha or gamma",
    "alpha -beta",
    "-alpha",
    "delta or -alpha",
    "beta gamma or delta alpha",
    '-"gamma delta" alpha',
    "größe or 日本",
    "the",
    "",
)


def with_words(language: str, *fields: str) -> StoreSchema:
    """Return the schema with items searched by words."""
    made = schema()
    spec = replace(made.collections["items"], keyword=KeywordSpec(fields=fields, language=language))
    return replace(made, collections={**made.collections, "items": spec})


def ask(text: str, limit: int = 1000) -> SearchQuery:
    return SearchQuery(
        collection="items",
        mode=SearchMode.KEYWORD,
        text=text,
        limit=limit,
        projection=Projection(fields=()),
    )


async def found(store: LanceStore | MemoryStore, query: SearchQuery) -> list[object]:
    result = await store.search(query, deadline_s=20)
    scores = [hit.similarity for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    return [hit.record.key[0] for hit in result.hits]


async def test_words_are_found_after_updates_deletes_and_optimising(tmp_path: Path) -> None:
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    rng = random.Random(seed)
    data = with_words("simple", "title", "shelf")
    store, memory = lance(tmp_path, data=data), MemoryStore("new", data, SystemClock())
    await store.open()
    upkeep = store.writers["items"].upkeep["items"]
    for round_ in range(6):
        writes: list[Write] = []
        for _ in range(25):
            key = f"k{rng.randrange(40)}"
            title = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(6)))
            writes.append(gone("items", key) if rng.random() < 0.3 else item(key, title=title))
        for side in (store, memory):
            await side.apply(writes, atomic=False, deadline_s=20)
        if round_ % 2:
            await upkeep.run()
            assert upkeep.failures == 0
        for text in QUERIES:
            for filter in (None, Compare(field="id", op=CompareOp.LT, value="k3")):
                query = replace(ask(text), filter=filter)
                expected = set(await found(memory, query))
                assert set(await found(store, query)) == expected, (text, seed)
                few = await found(store, replace(query, limit=3))
                assert len(few) == min(3, len(expected))
    await store.close()


async def test_words_of_a_language_match_by_their_stems_and_stop_words_ask_for_nothing(
    tmp_path: Path,
) -> None:
    store = lance(tmp_path, data=with_words("english", "title"))
    await store.open()
    titles = {"a": "the runner runs", "b": "running of bulls", "c": "a bull", "d": "the of"}
    writes = [item(key, title=title) for key, title in titles.items()]
    await store.apply(writes, atomic=False, deadline_s=20)
    for text, expected in (
        ("run", {"a", "b"}),
        ("the running", {"a", "b"}),
        ("bull of", {"b", "c"}),
        ('"running of bulls"', {"b"}),
        ("the of", {"d"}),
    ):
        assert set(await found(store, ask(text))) == expected, text
    await store.close()


async def test_equal_scores_are_ordered_by_key_wherever_the_limit_falls(tmp_path: Path) -> None:
    store = lance(tmp_path, data=with_words("english", "title"))
    await store.open()
    names = [f"k{number:04d}" for number in range(900)]
    shuffled = random.Random(3).sample(names, len(names))
    await store.apply([item(name, title="alpha") for name in shuffled], atomic=False, deadline_s=20)
    for limit in (1, 10, 100, 899, 1000):
        assert await found(store, ask("alpha", limit)) == names[:limit]
    await store.close()


async def test_an_older_table_is_searched_by_a_scan_until_its_index_is_built(
    tmp_path: Path,
) -> None:
    before = lance(tmp_path)
    await before.open()
    await before.apply([item("x", title="alpha beta")], atomic=False, deadline_s=20)
    await before.close()
    store = lance(tmp_path, data=with_words("english", "title"))
    await store.open()
    opened, by_title = store.database.table("items"), KeywordSpec(fields=("title",))
    assert not await is_indexed(opened, by_title)
    assert await found(store, ask("beta")) == ["x"]
    await store.build_index("items")
    assert await is_indexed(opened, by_title)
    assert await found(store, ask("beta")) == ["x"]
    await build_word_indexes(opened)
    packed = lance(tmp_path, data=with_words("english", "title", "colour"), read_only=True)
    await packed.open()
    assert await found(packed, ask("beta red")) == ["x"]
    await packed.close()
    await store.close()


async def test_a_table_left_half_made_is_finished_when_it_is_opened(tmp_path: Path) -> None:
    store = lance(tmp_path, data=with_words("english", "title"))
    await store.open()
    schema_made = store.database.table("items").table.schema
    await store.close()
    database = await lancedb.connect_async(str(tmp_path))
    await database.drop_table("item")
    await database.create_table("item", schema=schema_made)
    await store.open()
    assert await is_indexed(store.database.table("items"), KeywordSpec(fields=("title",)))
    await store.close()
    with pytest.raises(ValueError, match="already set"):
        await (await database.open_table("item")).set_unenforced_primary_key("id")


async def test_a_search_that_reads_the_texts_leaves_the_loop_alone_and_keeps_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = with_words("english", "title", "colour")
    store, memory = lance(tmp_path, data=data), MemoryStore("old", data, SystemClock())
    seed = random.Random().randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    writes = [
        item(f"k{at:03d}", title=" ".join(rng.choices(WORDS, k=rng.randrange(6))), count=at)
        for at in range(400)
    ]
    threads: list[int] = []
    waiting: list[int] = []

    def watched(selection: Selection, rows: Any, *others: Any) -> Iterator[Text]:
        threads.append(threading.get_ident())
        waiting.append(rows.num_rows)
        return read(selection, rows, *others)

    read = keyword._read
    monkeypatch.setattr(keyword, "_read", watched)
    one = Compare(field="count", op=CompareOp.EQ, value=7)
    for each in (store, memory):
        await each.open()
        await each.apply(writes, atomic=False, deadline_s=20)
    for text in (*QUERIES, "-nothing"):
        for asked in (ask(text, 10), replace(ask(text), filter=one)):
            mine = await store.search(asked, deadline_s=20)
            theirs = await memory.search(asked, deadline_s=20)
            assert [(hit.record.key, hit.similarity) for hit in mine.hits] == [
                (hit.record.key, hit.similarity) for hit in theirs.hits
            ], f"{text} seed {seed}"
    assert threads
    assert threading.get_ident() not in threads
    assert max(waiting) <= keyword._SCANNED_ROWS
    waiting.clear()
    await store.search(replace(ask("-nothing"), filter=one), deadline_s=20)
    assert sum(waiting) == 1
    await store.close()


async def test_a_search_that_reads_the_texts_ends_at_its_deadline(tmp_path: Path) -> None:
    store = lance(tmp_path, data=with_words("english", "title"))
    await store.open()
    await store.apply([item("x", title="alpha")], atomic=False, deadline_s=20)
    async with store.database.table("items").scanning:  # another one reads
        with pytest.raises(Unavailable, match=r"within 0\.05 s"):
            await store.search(ask("-nothing"), deadline_s=0.05)
    assert await found(store, ask("-nothing")) == ["x"]
    await store.close()


@pytest.mark.parametrize("text", ["\0", "\ud800", "(" * 5000, "a:b^2~*", "x" * 50_000, "+-|&!"])
async def test_no_text_is_an_error(tmp_path: Path, text: str) -> None:
    store = lance(tmp_path, data=with_words("english", "title"))
    await store.open()
    await store.apply([item("x", title="alpha")], atomic=False, deadline_s=20)
    assert await found(store, ask(text)) in ([], ["x"])
    await store.close()
