"""Searches by words: PostgreSQL's own full-text search over the fields of a collection."""

from __future__ import annotations

import re

from proxy.model import KeywordSpec, Metric
from proxy.query import Hit, Scoring, SearchQuery, SearchResult
from proxy.stores.modes import require_keyword_search
from proxy.stores.postgres.conditions import Params, where
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.rows import select
from proxy.stores.postgres.table import Table, literal

TEXT_CHARACTERS_MAX = 200_000
"""A tsvector holds 1 MB. Words behind this many characters are not found; a record with more
must be stored all the same, and an index on an expression that fails would refuse it."""

_MANY_MINUSES = re.compile(r"-{3,}")


def words_sql(table: Table, keyword: KeywordSpec) -> str:
    """Return the tsvector of a row: immutable, the same expression in a search and in an index."""
    parts = [f"coalesce({table.fields[name].value}, '')" for name in keyword.fields]
    text = " || ' ' || ".join(parts)
    return f"to_tsvector({_language(keyword)}, left({text}, {TEXT_CHARACTERS_MAX}))"


def _language(keyword: KeywordSpec) -> str:
    return f"{literal(keyword.language)}::regconfig"


async def keyword_search(
    connection: Connection, table: Table, query: SearchQuery, store: str
) -> SearchResult:
    """Return the records that match the words, by `ts_rank`, ties by key ascending.

    Raises:
        Rejected: the collection has no fields to search by words.
    """
    keyword = require_keyword_search(query, table.spec, store)
    selection = select(table, query.projection)
    params = Params([sendable(query.text)])
    words = words_sql(table, keyword)
    sought = f"websearch_to_tsquery({_language(keyword)}, $1::text)"
    condition = where(table, query.filter, params, f"{words} @@ {sought}")
    ties = "".join(f", {table.fields[name].ordered}" for name in table.key_columns)
    statement = (
        f"SELECT {selection.sql}, ts_rank({words}, {sought})::float8 AS rank_"
        f" FROM {table.relation}{condition} ORDER BY rank_ DESC{ties}"
        f" LIMIT {params.add(query.limit)}::int8"
    )
    cursor = await connection.execute(statement, params, prepare=True, binary=True)
    hits = tuple(
        Hit(record=selection.decode(row), distance=0.0, similarity=row[-1])
        for row in await cursor.fetchall()
    )
    vector = table.spec.vector
    metric = Metric.COSINE if vector is None else vector.metric
    return SearchResult(hits=hits, metric=metric, scoring=Scoring.TS_RANK)


def sendable(text: str) -> str:
    """Return the text as the server can take it, with the same meaning.

    It can hold neither NUL nor a lone surrogate; and each minus of a long run is one more level
    of a tree of negations, of which the server allows only so many.
    """
    text = text.encode(errors="replace").decode().replace("\0", " ")
    return _MANY_MINUSES.sub(lambda run: "-" * (2 - len(run[0]) % 2), text)
