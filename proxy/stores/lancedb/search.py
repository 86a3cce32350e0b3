"""Nearest neighbours: LanceDB finds the candidates, and they are ranked again in full here.

LanceDB computes in float32, calls the square of a distance L2 and one minus the product dot, and
breaks ties as it likes. So a few more candidates than asked for are read with their vectors, their
distances computed anew in float64, and ties put in key order. An index is used where it is built,
asked for, and worth it; below `IndexSpec.exact_rows_max` or `SCAN_ROWS` rows a scan is as fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from proxy.canonical import key_sort_text
from proxy.model import Key, Metric, Record
from proxy.query import Hit, Projection, SearchQuery, SearchResult
from proxy.stores.lancedb.rows import KEYS, select, vectors_of
from proxy.stores.lancedb.scan import Scan, decide, needed, prepare
from proxy.stores.lancedb.sql import all_of, keys_in
from proxy.stores.lancedb.table import Table
from proxy.stores.memory_rows import project, vector_distance
from proxy.stores.modes import require_vector_search

SCAN_ROWS: Final = 100_000
"""Below so many rows an exact scan is fast enough, and misses nothing."""

_METRICS: Final = {Metric.COSINE: "cosine", Metric.DOT: "dot", Metric.L2: "l2"}
_SPARE: Final = 16
_GROWTH: Final = 8
_CLOSE: Final = 1e-4
"""Two distances of float32 may be the same in full, if they differ by less (relatively)."""
_PROBES: Final = 64
"""So many partitions of an index are looked into, and more while there are too few hits."""
_REFINE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A search made ready: what is near to what, among which rows, and how it is looked for."""

    query: SearchQuery
    metric: Metric
    target: np.ndarray
    scan: Scan
    indexed: bool


async def search(
    handle: Any, table: Table, query: SearchQuery, store: str, *, has_index: bool
) -> SearchResult:
    """Return the nearest records, best first, ties by key ascending."""
    metric = require_vector_search(query, table.spec, store)
    target = np.frombuffer(query.vector or b"", dtype="<f4")
    scan = prepare(table, query.filter)
    indexed = has_index and query.exact is not True
    if indexed and query.exact is None:
        indexed = await handle.count_rows() >= SCAN_ROWS
    ask = Ask(query=query, metric=metric, target=target, scan=scan, indexed=indexed)
    hits = await _nearest(handle, ask)
    return SearchResult(hits=tuple(hits), metric=metric, indexed=indexed)


async def _nearest(handle: Any, ask: Ask) -> list[Hit]:
    """Ask for more candidates until those left out are certainly farther than the last hit."""
    limit = ask.query.limit
    size = limit + _SPARE
    while True:
        rows, complete = await _candidates(handle, ask, size)
        ranked = _ranked(ask, rows)
        if complete or _settled(ask, rows, ranked, limit):
            return _hits(ask, rows, ranked[:limit])
        if size >= limit + _SPARE * _GROWTH**2:
            return await _tied(handle, ask, ranked[limit - 1][0] if len(ranked) >= limit else None)
        size = limit + (size - limit) * _GROWTH


def _query(handle: Any, ask: Ask) -> Any:
    query = handle.query().nearest_to(ask.target).distance_type(_METRICS[ask.metric])
    query = query.column(ask.scan.table.vector)
    if ask.scan.sql is not None:
        query = query.where(ask.scan.sql)
    if ask.indexed:
        # Without an upper bound, for a filter may leave nothing in the nearest partitions.
        return query.maximum_nprobes(0).minimum_nprobes(_PROBES).refine_factor(_REFINE)
    return query.bypass_vector_index()


async def _candidates(handle: Any, ask: Ask, size: int) -> tuple[Any, bool]:
    """Return about `size` candidates, nearest first, and whether there are no others."""
    projection = Projection(fields=ask.query.projection.fields, vector=True)
    selection = needed(ask.scan, projection)
    query = _query(handle, ask).limit(size).select([*selection.names, "_distance"])
    rows = await query.to_arrow()
    complete = rows.num_rows < size
    if ask.scan.rest is not None:
        rows = rows.filter(decide(ask.scan, selection, rows))
    return rows, complete


def _ranked(ask: Ask, rows: Any) -> list[tuple[float, Key, int]]:
    """Return (distance, key, row) in order, without those that have no distance."""
    if not rows.num_rows:
        return []
    table = ask.scan.table
    keys = select(table, KEYS).keys(rows)
    target = ask.target.astype(np.float64)
    found: list[tuple[float, Key, int]] = []
    for at, vector in enumerate(vectors_of(rows.column(table.vector))):
        distance = np.nan if vector is None else vector_distance(ask.metric, target, vector)
        if not np.isnan(distance):
            found.append((distance, keys[at], at))
    found.sort(key=lambda item: (item[0], key_sort_text(item[1])))
    return found


def _settled(ask: Ask, rows: Any, ranked: list[tuple[float, Key, int]], limit: int) -> bool:
    """True if no row that was not read can be among the first `limit`."""
    if len(ranked) < limit or not rows.num_rows:
        return False
    if ask.indexed:
        return True  # an index promises the nearest of what it probes, not ties
    last = raw_distance(ask.metric, float(rows.column("_distance")[rows.num_rows - 1].as_py()))
    kth = ranked[limit - 1][0]
    return last > kth + _CLOSE * max(1.0, abs(kth))


def raw_distance(metric: Metric, distance: float) -> float:
    """Return LanceDB's distance as Crossfade means it."""
    if metric is Metric.L2:
        return float(np.sqrt(max(distance, 0.0)))
    return distance - 1.0 if metric is Metric.DOT else distance


def _lance_distance(metric: Metric, distance: float) -> float:
    """Return a distance as LanceDB means it, a little more than less."""
    roomy = distance + _CLOSE * max(1.0, abs(distance))
    if metric is Metric.L2:
        return roomy * roomy
    return roomy + 1.0 if metric is Metric.DOT else roomy


async def _tied(handle: Any, ask: Ask, bound: float | None) -> list[Hit]:
    """Rank everything up to a distance: there are too many ties, or a filter leaves few rows.

    Only keys and vectors of the rows within the bound are read, in batches; what is kept is what
    can be a hit.
    """
    limit, table = ask.query.limit, ask.scan.table
    query = _query(handle, replace(ask, indexed=False)).limit(max(1, await handle.count_rows()))
    if bound is not None:
        query = query.distance_range(None, _lance_distance(ask.metric, bound))
    selection = needed(ask.scan, Projection(fields=(), vector=True))
    best: list[tuple[float, Key, int]] = []
    async for batch in await query.select([*selection.names, "_distance"]).to_batches():
        rows = batch
        if ask.scan.rest is not None:
            rows = rows.filter(decide(ask.scan, selection, rows))
        best = sorted([*best, *_ranked(ask, rows)], key=lambda i: (i[0], key_sort_text(i[1])))
        del best[limit:]
    if not best:
        return []
    fetched = select(table, ask.query.projection)
    condition = all_of([keys_in(table, [key for _, key, _ in best])])
    found = await handle.query().where(condition).select(fetched.names).to_arrow()
    records = {record.key: record for record in fetched.records(found)}
    return [_hit(ask, records[key], value) for value, key, _ in best if key in records]


def _hits(ask: Ask, rows: Any, ranked: list[tuple[float, Key, int]]) -> list[Hit]:
    taken = rows.take(pa.array([at for _, _, at in ranked], pa.int64()))
    selection = select(ask.scan.table, ask.query.projection)
    records = selection.records(taken)
    return [_hit(ask, record, item[0]) for record, item in zip(records, ranked, strict=True)]


def _hit(ask: Ask, record: Record, distance: float) -> Hit:
    return Hit(
        record=project(record, ask.query.projection),
        distance=distance,
        similarity=ask.metric.similarity(distance),
    )
