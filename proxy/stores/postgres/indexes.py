"""The nearest-neighbour index: is it there, is it ready, and building it beside live writes."""

from __future__ import annotations

import logging

import psycopg

from proxy.errors import Reason, Rejected
from proxy.layouts import IndexSpec
from proxy.model import Metric
from proxy.stores.base import IndexState
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.reads import row_estimate
from proxy.stores.postgres.table import Table, identifier

_log = logging.getLogger(__name__)

_OPERATOR_CLASS = {Metric.COSINE: "cosine_ops", Metric.DOT: "ip_ops", Metric.L2: "l2_ops"}
_STATE = """
SELECT i.indisvalid AND i.indisready, pg_get_indexdef(i.indexrelid),
       (SELECT format('%s, block %s of %s, row %s of %s', p.phase, p.blocks_done, p.blocks_total,
                      p.tuples_done, p.tuples_total)
        FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid LIMIT 1)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1::int8::oid AND c.relname = $2
"""
_MEMORY = """
SELECT set_config('maintenance_work_mem', greatest(
    pg_size_bytes(current_setting('maintenance_work_mem')), $1::int8)::text || 'B', false)
"""
_BUILD_MEMORY_MIN = 64 << 20
_BUILD_MEMORY_MAX = 2 << 30


async def index_ready(connection: Connection, table: Table, index: IndexSpec) -> bool:
    """True if the planner may use the index."""
    return (await index_state(connection, table, index)).ready


async def index_state(connection: Connection, table: Table, index: IndexSpec) -> IndexState:
    """Return the state of a table's index."""
    cursor = await connection.execute(_STATE, [table.info.oid, index.name], prepare=True)
    row = await cursor.fetchone()
    if row is None:
        return IndexState(
            collection=table.name, name=index.name, exists=False, ready=False, detail="not built"
        )
    ready, definition, progress = row
    fits = f"USING {index.method}" in definition and index.cast in definition
    detail = "" if ready else progress or "a build was interrupted; build it again"
    if ready and not fits:
        detail = f"another index has this name: {definition}"
    return IndexState(
        collection=table.name, name=index.name, exists=True, ready=ready and fits, detail=detail
    )


async def build_index(connection: Connection, table: Table, index: IndexSpec) -> None:
    """Build the index without blocking writes; a leftover of an interrupted build goes first.

    `connection` is one of its own: the build takes minutes and runs outside a transaction.

    Raises:
        Rejected: FAILED_PRECONDITION, somebody else is building it.
    """
    if (await index_state(connection, table, index)).ready:
        return
    cursor = await connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended($1, 0))",
        [f"crossfade index {table.relation} {index.name}"],
    )
    row = await cursor.fetchone()
    if not row or not row[0]:
        raise Rejected(
            f"Another session is building the index {index.name}.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Wait for it; `crossfade status` shows how far it is.",
        )
    state = await index_state(connection, table, index)
    if state.ready:
        return
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    # A table that was just loaded has no statistics yet; readers need them as much as the build.
    await connection.execute(f"ANALYZE {table.relation}")
    await connection.execute(_MEMORY, [await _memory_bytes(connection, table, index)])
    if state.exists:
        await _drop(connection, table, index)
    try:
        await connection.execute(_definition(table, index))
    except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory) as error:
        # A parallel build takes all its memory at once, as shared memory, of which containers
        # have little; one process takes its own, as it goes.
        _log.warning("building %s again without parallel workers: %s", index.name, error)
        await connection.execute("SET max_parallel_maintenance_workers = 0")
        await _drop(connection, table, index)
        await connection.execute(_definition(table, index))


async def _memory_bytes(connection: Connection, table: Table, index: IndexSpec) -> int:
    """Return what the graph needs to be built in memory, within limits."""
    rows = await row_estimate(connection, table)
    dim = table.spec.vector.dim if table.spec.vector is not None else 0
    width = 2 if index.cast == "halfvec" else 4
    needed = int(1.2 * rows * (dim * width + 24 * index.m + 128))
    return min(max(needed, _BUILD_MEMORY_MIN), _BUILD_MEMORY_MAX)


async def _drop(connection: Connection, table: Table, index: IndexSpec) -> None:
    """Drop what an interrupted build left behind."""
    schema = table.relation.rpartition(".")[0]
    name = f"{schema}.{identifier(index.name)}" if schema else identifier(index.name)
    await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def _definition(table: Table, index: IndexSpec) -> str:
    vector = table.spec.vector
    if vector is None:
        raise Rejected(f"{table.name} has no vector to index.")
    options = (
        f"m = {int(index.m)}, ef_construction = {int(index.ef_construction)}"
        if index.method == "hnsw"
        else f"lists = {max(10, table.info.rows // 1000)}"
    )
    return (
        f"CREATE INDEX CONCURRENTLY {identifier(index.name)} ON {table.relation}"
        f" USING {index.method} (({table.vector}::{index.cast}({vector.dim}))"
        f" {index.cast}_{_OPERATOR_CLASS[vector.metric]}) WITH ({options})"
    )
