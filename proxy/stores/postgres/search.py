"""Searches: by an exact scan, or by the index and then the full vectors once more; or by words."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from proxy.layouts import IndexSpec
from proxy.model import Metric
from proxy.query import Hit, SearchMode, SearchQuery, SearchResult
from proxy.stores.fusion import hybrid
from proxy.stores.modes import require_keyword_search, require_vector_search
from proxy.stores.postgres.adapt import PackedVector
from proxy.stores.postgres.conditions import Params, where
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.indexes import index_ready
from proxy.stores.postgres.keyword import keyword_search
from proxy.stores.postgres.rows import Selection, select
from proxy.stores.postgres.table import Table

_OPERATORS = {Metric.COSINE: "<=>", Metric.DOT: "<#>", Metric.L2: "<->"}
_REMEMBERED_MAX = 256
_REMEMBERED_S = 30.0
_READY_S = 5.0
_EF_SEARCH_MAX = 1000


@dataclass(slots=True)
class SearchMemory:
    """What searches remember for a while: how many rows a filter leaves, which index is ready.

    It belongs to one store; its entries are bounded in number and in age.
    """

    rows: OrderedDict[tuple[object, ...], tuple[float, int]]
    ready: dict[str, tuple[float, bool]]

    @classmethod
    def empty(cls) -> SearchMemory:
        """Return a memory of nothing."""
        return cls(OrderedDict(), {})

    def forget_index(self, collection: str) -> None:
        """Look again at the next search."""
        self.ready.pop(collection, None)


async def search(
    connection: Connection, table: Table, query: SearchQuery, memory: SearchMemory, store: str
) -> SearchResult:
    """Return the best records in the query's mode, best first, ties by key ascending."""
    if query.mode is SearchMode.KEYWORD:
        return await keyword_search(connection, table, query, store)
    if query.mode is SearchMode.HYBRID:
        require_keyword_search(query, table.spec, store)
        return await hybrid(query, lambda leg: search(connection, table, leg, memory, store))
    return await _nearest(connection, table, query, memory, store)


async def _nearest(
    connection: Connection, table: Table, query: SearchQuery, memory: SearchMemory, store: str
) -> SearchResult:
    """Return the nearest records.

    The index serves if it is ready and the filter leaves more rows than are worth scanning; a
    filtered index search that comes back short is answered again by a scan.
    """
    metric = require_vector_search(query, table.spec, store)
    index = table.layout.index
    indexed = (
        index is not None
        and query.exact is not True
        and await _ready(connection, table, index, memory)
        and (query.exact is False or await _worth_it(connection, table, query, index, memory))
    )
    if indexed and index is not None:
        hits = await _indexed(connection, table, query, metric, index)
        if len(hits) >= query.limit or query.filter is None or query.exact is False:
            return SearchResult(hits=tuple(hits), metric=metric, indexed=True)
    hits = await _exact(connection, table, query, metric)
    return SearchResult(hits=tuple(hits), metric=metric, indexed=False)


async def _ready(
    connection: Connection, table: Table, index: IndexSpec, memory: SearchMemory
) -> bool:
    now = time.monotonic()
    known = memory.ready.get(table.name)
    if known is not None and now - known[0] < _READY_S:
        return known[1]
    ready = await index_ready(connection, table, index)
    memory.ready[table.name] = (now, ready)
    return ready


async def _worth_it(
    connection: Connection,
    table: Table,
    query: SearchQuery,
    index: IndexSpec,
    memory: SearchMemory,
) -> bool:
    """True if the filter leaves more rows than an exact scan should read."""
    params = Params()
    condition = where(table, query.filter, params)
    bound = index.exact_rows_max + 1
    shape = (table.name, condition, repr(params))
    now = time.monotonic()
    known = memory.rows.get(shape)
    if known is None or now - known[0] > _REMEMBERED_S:
        statement = (
            "SELECT count(*) FROM (SELECT 1 FROM"
            f" {table.relation}{condition} LIMIT {params.add(bound)}::int8) AS some_"
        )
        cursor = await connection.execute(statement, params, prepare=True, binary=True)
        row = await cursor.fetchone()
        known = (now, row[0] if row else 0)
        memory.rows[shape] = known
        while len(memory.rows) > _REMEMBERED_MAX:
            memory.rows.popitem(last=False)
    return known[1] >= bound


def _tie_order(table: Table) -> str:
    return "".join(f", {table.fields[name].ordered}" for name in table.key_columns)


async def _exact(
    connection: Connection, table: Table, query: SearchQuery, metric: Metric
) -> list[Hit]:
    selection = select(table, query.projection)
    params = Params([PackedVector(query.vector or b"")])
    condition = where(table, query.filter, params, f"{table.vector} IS NOT NULL")
    distance = f"({table.vector} {_OPERATORS[metric]} $1) AS distance_"
    source = f"FROM {table.relation}{condition}"
    if table.layout.index is not None and table.layout.index.cast == "vector":
        # An index on the same expression must not answer a search that is to be exact.
        source = f"FROM (SELECT * {source} OFFSET 0) AS all_"
    statement = (
        f"SELECT {selection.sql}, {distance} {source} ORDER BY distance_{_tie_order(table)}"
        f" LIMIT {params.add(query.limit)}::int8"
    )
    return await _hits(connection, selection, statement, params, metric)


async def _indexed(
    connection: Connection,
    table: Table,
    query: SearchQuery,
    metric: Metric,
    index: IndexSpec,
) -> list[Hit]:
    """Take more candidates than asked for from the index, then rank them by the full vectors."""
    selection = select(table, query.projection)
    candidates = query.limit * max(1, index.oversample)
    await _set_search(connection, index, candidates)
    params = Params([PackedVector(query.vector or b"")])
    condition = where(table, query.filter, params)
    dim = table.spec.vector.dim if table.spec.vector is not None else 0
    operator = _OPERATORS[metric]
    near = f"{table.vector}::{index.cast}({dim}) {operator} $1::{index.cast}({dim})"
    # The number of candidates is written out: for a parameter the planner of a prepared statement
    # assumes a tenth of the table, and then prefers a scan that is a hundred times slower.
    statement = (
        f"SELECT {selection.sql}, ({table.vector} {operator} $1) AS distance_ FROM"
        f" (SELECT * FROM {table.relation}{condition} ORDER BY {near}"
        f" LIMIT {int(candidates)}) AS near_"
        f" ORDER BY distance_{_tie_order(table)} LIMIT {params.add(query.limit)}::int8"
    )
    return await _hits(connection, selection, statement, params, metric)


async def _set_search(connection: Connection, index: IndexSpec, candidates: int) -> None:
    """Set how far the index searches; the connection remembers, so equal searches pay nothing.

    Strict iterative scans keep a filtered search from coming back short.
    """
    effort = min(max(index.ef_search, candidates), _EF_SEARCH_MAX)
    wanted = (effort, index.method)
    if connection.searching == wanted:
        return
    connection.searching = None
    if index.method == "hnsw":
        settings = {"hnsw.ef_search": str(effort), "hnsw.iterative_scan": "strict_order"}
    else:
        probes = str(max(1, effort // 10))
        settings = {"ivfflat.probes": probes, "ivfflat.iterative_scan": "relaxed_order"}
    # The planner counts pages, not the vectors that a scan must unpack and compare; with the
    # default for spinning disks it leaves the index alone up to some ten thousand rows.
    settings["random_page_cost"] = "1.1"
    for name, value in settings.items():
        await connection.execute("SELECT set_config($1, $2, false)", [name, value], prepare=True)
    connection.searching = wanted


async def _hits(
    connection: Connection,
    selection: Selection,
    statement: str,
    params: list[Any],
    metric: Metric,
) -> list[Hit]:
    cursor = await connection.execute(statement, params, prepare=True, binary=True)
    hits = []
    for row in await cursor.fetchall():
        distance = row[-1]
        if not math.isnan(distance):
            hits.append(
                Hit(
                    record=selection.decode(row),
                    distance=distance,
                    similarity=metric.similarity(distance),
                )
            )
    return hits
