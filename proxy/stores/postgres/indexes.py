"""The indexes for searches: are they there, are they ready, building them beside live writes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from proxy.errors import Reason, Rejected
from proxy.layouts import IndexSpec, StoreSchema
from proxy.model import KeywordSpec, Metric
from proxy.stores.base import IndexState
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.keyword import words_sql
from proxy.stores.postgres.reads import row_estimate
from proxy.stores.postgres.table import Table, identifier, literal

_log = logging.getLogger(__name__)

_OPERATOR_CLASS = {Metric.COSINE: "cosine_ops", Metric.DOT: "ip_ops", Metric.L2: "l2_ops"}
_STATE = """
SELECT i.indisvalid AND i.indisready, pg_get_indexdef(i.indexrelid),
       (SELECT format('%s, block %s of %s, row %s of %s', p.phase, p.blocks_done, p.blocks_total,
                      p.tuples_done, p.tuples_total)
        FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid LIMIT 1),
       obj_description(i.indexrelid, 'pg_class')
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1::int8::oid AND c.relname = $2
"""
_MEMORY = """
SELECT set_config('maintenance_work_mem', greatest(
    pg_size_bytes(current_setting('maintenance_work_mem')), $1::int8)::text || 'B', false)
"""
_BUILD_MEMORY_MIN = 64 << 20
_BUILD_MEMORY_MAX = 2 << 30
_NAME_BYTES_MAX = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """An index as it should be.

    Attributes:
        definition: the statement that creates it.
        fits: texts that the definition of an index of this name has if it is the one wanted.
        mark: the comment of the index, "" for none: it tells an expression that has changed.
        optional: see `IndexState`.
    """

    name: str
    definition: str
    fits: tuple[str, ...]
    mark: str = ""
    optional: bool = False


def has_indexes(schema: StoreSchema, collection: str) -> bool:
    """True if a collection asks for an index."""
    keyword = schema.collections[collection].keyword
    return schema.layouts[collection].index is not None or keyword is not None


async def states(connection: Connection, table: Table) -> list[IndexState]:
    """Return the state of each index that a table should have."""
    return [await _state(connection, table, wanted) for wanted in _all_wanted(table)]


async def build(connection: Connection, table: Table) -> None:
    """Build what is missing without blocking writes; a leftover of an interrupted build goes first.

    `connection` is one of its own: a build takes minutes and runs outside a transaction.

    Raises:
        Rejected: FAILED_PRECONDITION, somebody else is building it.
    """
    for wanted in _all_wanted(table):
        await _build(connection, table, wanted)


def _all_wanted(table: Table) -> Sequence[_Wanted]:
    found = []
    if table.layout.index is not None:
        found.append(_nearest(table, table.layout.index))
    if table.spec.keyword is not None:
        found.append(_words(table, table.spec.keyword))
    return found


def _nearest(table: Table, index: IndexSpec) -> _Wanted:
    return _Wanted(
        name=index.name,
        definition=_definition(table, index),
        fits=(f"USING {index.method}", index.cast),
    )


def _words(table: Table, keyword: KeywordSpec) -> _Wanted:
    """Return the index of a table's words; two tables of one schema never share its name."""
    bare = table.layout.table.rpartition(".")[2]
    name = f"crossfade_{bare}_words"
    if len(name.encode()) > _NAME_BYTES_MAX:
        name = f"crossfade_{hashlib.sha256(bare.encode()).hexdigest()[:32]}_words"
    words = words_sql(table, keyword)
    digest = hashlib.sha256(words.encode()).hexdigest()[:32]
    return _Wanted(
        name=name,
        definition=(
            f"CREATE INDEX CONCURRENTLY {identifier(name)} ON {table.relation}"
            f" USING gin (({words}))"
        ),
        fits=("USING gin",),
        mark=f"crossfade {digest}",
        optional=True,
    )


async def index_ready(connection: Connection, table: Table, index: IndexSpec) -> bool:
    """True if the planner may use the nearest-neighbour index."""
    return (await _state(connection, table, _nearest(table, index))).ready


async def _state(connection: Connection, table: Table, wanted: _Wanted) -> IndexState:
    cursor = await connection.execute(_STATE, [table.info.oid, wanted.name], prepare=True)
    row = await cursor.fetchone()
    exists, ready, detail = row is not None, False, "not built"
    if row is not None:
        ready, definition, progress, mark = row
        detail = "" if ready else progress or "a build was interrupted; build it again"
        if ready and not all(part in definition for part in wanted.fits):
            ready, detail = False, f"another index has this name: {definition}"
        elif ready and wanted.mark and mark != wanted.mark:
            ready, detail = False, "built for other fields or another language; build it again"
    return IndexState(
        collection=table.name,
        name=wanted.name,
        exists=exists,
        ready=ready,
        detail=detail,
        optional=wanted.optional,
    )


async def _build(connection: Connection, table: Table, wanted: _Wanted) -> None:
    if (await _state(connection, table, wanted)).ready:
        return
    cursor = await connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended($1, 0))",
        [f"crossfade index {table.relation} {wanted.name}"],
    )
    row = await cursor.fetchone()
    if not row or not row[0]:
        raise Rejected(
            f"Another session is building the index {wanted.name}.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Wait for it; `crossfade status` shows how far it is.",
        )
    state = await _state(connection, table, wanted)
    if state.ready:
        return
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    # A table that was just loaded has no statistics yet; readers need them as much as the build.
    await connection.execute(f"ANALYZE {table.relation}")
    await connection.execute(_MEMORY, [await _memory_bytes(connection, table, wanted)])
    if state.exists:
        await _drop(connection, table, wanted)
    try:
        await connection.execute(wanted.definition)
    except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory) as error:
        # A parallel build takes all its memory at once, as shared memory, of which containers
        # have little; one process takes its own, as it goes.
        _log.warning("building %s again without parallel workers: %s", wanted.name, error)
        await connection.execute("SET max_parallel_maintenance_workers = 0")
        await _drop(connection, table, wanted)
        await connection.execute(wanted.definition)
    if wanted.mark:
        named = _qualified(table, wanted)
        await connection.execute(f"COMMENT ON INDEX {named} IS {literal(wanted.mark)}")


async def _memory_bytes(connection: Connection, table: Table, wanted: _Wanted) -> int:
    """Return what the index needs to be built in memory, within limits."""
    index = table.layout.index
    if index is None or wanted.name != index.name:
        return _BUILD_MEMORY_MIN
    rows = await row_estimate(connection, table)
    dim = table.spec.vector.dim if table.spec.vector is not None else 0
    width = 2 if index.cast == "halfvec" else 4
    needed = int(1.2 * rows * (dim * width + 24 * index.m + 128))
    return min(max(needed, _BUILD_MEMORY_MIN), _BUILD_MEMORY_MAX)


def _qualified(table: Table, wanted: _Wanted) -> str:
    """Return the index's name with the schema of its table, which is where it lives."""
    schema = table.relation.rpartition(".")[0]
    return f"{schema}.{identifier(wanted.name)}" if schema else identifier(wanted.name)


async def _drop(connection: Connection, table: Table, wanted: _Wanted) -> None:
    """Drop what an interrupted build left behind, or an index of what is searched no more."""
    await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_qualified(table, wanted)}")


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
