"""Searches by words: LanceDB's full-text indexes where they can answer, else a scan of the texts.

The words are parsed as for every store (`proxy.words`). A word may be in any of the keyword
fields. Words of the language that mean nothing (the, of) are left out of a query, as PostgreSQL
does, unless it has no others. LanceDB cannot say "everything but", nor index a packed field: those
searches read the texts and compare words as they are written, in a thread, one search of a table
at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import lancedb
from lancedb.query import BooleanQuery, MatchQuery, Occur, PhraseQuery

from proxy.canonical import key_sort_text
from proxy.model import CollectionSpec, Key, KeywordSpec, Metric, Record
from proxy.query import Hit, Projection, Scoring, SearchQuery, SearchResult
from proxy.stores.lancedb.indexes import LANGUAGES, is_indexed, tokenizer, word_columns
from proxy.stores.lancedb.rows import Selection, select
from proxy.stores.lancedb.scan import Scan, batches, decide, needed, prepare
from proxy.stores.lancedb.sql import keys_in
from proxy.stores.lancedb.table import OpenTable, Table
from proxy.stores.memory_rows import project
from proxy.stores.memory_words import Best, Counts, Text, read_text
from proxy.stores.modes import require_keyword_search
from proxy.words import AllOf, AnyOf, Phrase, Without, Word, Words, parse

# Their defaults are those of pydantic dataclasses, which a type checker does not see.
_MATCH: Final[Any] = MatchQuery
_PHRASE: Final[Any] = PhraseQuery
_SPARE: Final = 32
_GROWTH: Final = 8
_CLOSE: Final = 1e-5
_SCANNED_ROWS: Final = 128
"""Rows whose texts are in memory at once, while a search reads them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """A search by words made ready."""

    query: SearchQuery
    keyword: KeywordSpec
    scan: Scan
    words: Any


async def search_words(opened: OpenTable, query: SearchQuery, store: str) -> SearchResult:
    """Return the records that match the words, by BM25, ties by key ascending."""
    table = opened.table
    keyword = require_keyword_search(query, table.spec, store)
    tree = parse(query.text)
    hits: Sequence[Hit] = ()
    if tree is not None:
        words = None
        if await is_indexed(opened, keyword):
            words = _compile(table, keyword, without_stop_words(tree, keyword))
        if words is None:
            hits = await _scanned(opened, query, keyword, tree)
        else:
            scan = prepare(table, query.filter)
            ask = _Ask(query=query, keyword=keyword, scan=scan, words=words)
            hits = await _ranked(opened.handle, ask)
    metric = table.spec.vector.metric if table.spec.vector is not None else Metric.COSINE
    return SearchResult(hits=tuple(hits), metric=metric, scoring=Scoring.BM25)


def without_stop_words(tree: Words, keyword: KeywordSpec) -> Words:
    """Return the tree without the words that mean nothing, unless nothing would be left."""
    if keyword.language not in LANGUAGES:
        return tree
    return _meaningful(tree, keyword) or tree


def _meaningful(tree: Words, keyword: KeywordSpec) -> Any:
    if isinstance(tree, Word):
        told = lancedb.tokenize(tree.word, remove_stop_words=True, **tokenizer(keyword))
        return tree if told else None
    if isinstance(tree, Without):
        return tree if _meaningful(tree.part, keyword) is not None else None
    if isinstance(tree, Phrase):
        return tree
    parts = [made for part in tree.parts if (made := _meaningful(part, keyword)) is not None]
    if len(parts) < 2:
        return parts[0] if parts else None
    return type(tree)(parts=tuple(parts))


def _compile(table: Table, keyword: KeywordSpec, tree: Words) -> Any:
    """Return the tree as LanceDB's full-text query, None if it has no such form."""
    columns = word_columns(table, keyword)
    assert columns is not None  # noqa: S101  # there are indexes on them
    if isinstance(tree, Without):
        return None
    if isinstance(tree, AnyOf):
        parts = [_compile(table, keyword, part) for part in tree.parts]
        if any(part is None for part in parts):
            return None
        return BooleanQuery([(Occur.SHOULD, part) for part in parts])
    if isinstance(tree, AllOf):
        if all(isinstance(part, Without) for part in tree.parts):
            return None
        return BooleanQuery([_clause(columns, part) for part in tree.parts])
    return _leaf(columns, tree)


def _clause(columns: Sequence[str], part: Word | Phrase | Without) -> tuple[Occur, Any]:
    if isinstance(part, Without):
        return Occur.MUST_NOT, _leaf(columns, part.part)
    return Occur.MUST, _leaf(columns, part)


def _leaf(columns: Sequence[str], leaf: Word | Phrase) -> Any:
    made = [
        _MATCH(leaf.word, name) if isinstance(leaf, Word) else _PHRASE(" ".join(leaf.words), name)
        for name in columns
    ]
    return made[0] if len(made) == 1 else BooleanQuery([(Occur.SHOULD, item) for item in made])


async def _ranked(handle: Any, ask: _Ask) -> list[Hit]:
    """Ask for more until no row that was not read can be as good as the last hit."""
    limit, size = ask.query.limit, ask.query.limit + _SPARE
    selection = needed(ask.scan, ask.query.projection)
    while True:
        query = handle.query()
        if ask.scan.sql is not None:
            query = query.where(ask.scan.sql)
        query = query.nearest_to_text(ask.words).limit(size)
        rows = await query.select([*selection.names, "_score"]).to_arrow()
        complete = rows.num_rows < size
        last = 0.0 if complete else float(rows.column("_score")[rows.num_rows - 1].as_py())
        if ask.scan.rest is not None:
            rows = rows.filter(decide(ask.scan, selection, rows))
        records = select(ask.scan.table, ask.query.projection).records(rows)
        found = sorted(
            zip(rows.column("_score").to_pylist(), records, strict=True),
            key=lambda item: (-item[0], key_sort_text(item[1].key)),
        )
        if complete or (len(found) >= limit and found[limit - 1][0] > last * (1 + _CLOSE)):
            return [_hit(ask.query, record, score) for score, record in found[:limit]]
        size *= _GROWTH


def _hit(query: SearchQuery, record: Record, score: float) -> Hit:
    return Hit(record=project(record, query.projection), distance=0.0, similarity=score)


async def _scanned(
    opened: OpenTable, query: SearchQuery, keyword: KeywordSpec, tree: Words
) -> list[Hit]:
    """Read the texts, a few at a time, and keep the best; the search's deadline ends it.

    Words are counted over the whole collection, as BM25 asks (searches for nothing but exclusions
    rank by nothing), and then looked for in the rows that the filter leaves.
    """
    table = opened.table
    async with opened.scanning:
        counts = Counts(tree)
        if counts.leaves:
            async for texts in _texts(opened, prepare(table, None), keyword):
                await asyncio.to_thread(lambda made: counts.add(made()), texts)
        best = Best(tree, counts, query.limit)
        async for texts in _texts(opened, prepare(table, query.filter), keyword):
            await asyncio.to_thread(lambda made: best.add(made()), texts)
    found = await _fetched(opened, [record.key for _, record in best.found], query.projection)
    return [
        _hit(query, found[record.key], score) for score, record in best.found if record.key in found
    ]


async def _texts(
    opened: OpenTable, scan: Scan, keyword: KeywordSpec
) -> AsyncIterator[Callable[[], Iterator[Text]]]:
    """Yield what reads the words of some rows: work for a thread."""
    spec = opened.table.spec
    selection = needed(scan, Projection(fields=keyword.fields))
    async for rows in batches(opened.handle, scan, selection, rows_max=_SCANNED_ROWS):
        yield partial(_read, selection, rows, spec, keyword)


def _read(
    selection: Selection, rows: Any, spec: CollectionSpec, keyword: KeywordSpec
) -> Iterator[Text]:
    for record in selection.records(rows):
        text = read_text(record, spec, keyword)
        yield Text(
            Record(collection=spec.name, key=record.key, fields={}), text.places, text.length
        )


async def _fetched(
    opened: OpenTable, keys: Sequence[Key], projection: Projection
) -> Mapping[Key, Record]:
    if not keys:
        return {}
    selection = select(opened.table, projection)
    query = opened.handle.query().where(keys_in(opened.table, keys)).select(selection.names)
    return {record.key: record for record in selection.records(await query.to_arrow())}
