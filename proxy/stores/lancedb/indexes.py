"""The indexes of a table: IVF on the vector, B-tree on the key, full text on the keyword fields."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any, Final

from lancedb.index import FTS, BTree, IvfFlat, IvfPq

from proxy.layouts import IndexSpec
from proxy.model import FieldType, KeywordSpec, Metric
from proxy.stores.base import IndexState
from proxy.stores.lancedb.table import OpenTable, Table

_METRICS: Final[Mapping[Metric, Any]] = {
    Metric.COSINE: "cosine",
    Metric.DOT: "dot",
    Metric.L2: "l2",
}
_PQ_ROWS_MIN: Final = 4096
_PARTITIONS_MAX: Final = 4096
_KEY_INDEX: Final = "crossfade_key"
_WORDS_PREFIX: Final = "crossfade_words_"
LANGUAGES: Final = frozenset(
    (
        *("arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek"),
        *("hungarian", "italian", "norwegian", "portuguese", "romanian", "russian", "spanish"),
        *("swedish", "tamil", "turkish"),
    )
)
"""The languages whose words LanceDB stems; others are compared as they are written."""


async def vector_state(opened: OpenTable, index: IndexSpec) -> IndexState:
    """Return the state of the vector's index."""
    found = await find(opened, index.name)
    if found is None:
        return IndexState(
            collection=opened.table.spec.name, name=index.name, exists=False, ready=False
        )
    total, left = found.num_indexed_rows, found.num_unindexed_rows
    return IndexState(
        collection=opened.table.spec.name,
        name=index.name,
        exists=True,
        ready=True,
        detail=f"{found.index_type}, {total} rows indexed, {left} are scanned beside it",
    )


async def find(opened: OpenTable, name: str) -> Any:
    """Return LanceDB's description of an index, None if it is not there."""
    return next((item for item in await opened.handle.list_indices() if item.name == name), None)


async def build(opened: OpenTable, index: IndexSpec | None) -> None:
    """Build what is missing; the writer of the table calls this, so nothing writes beside it."""
    await _build_key(opened)
    await build_word_indexes(opened)
    if index is None or await find(opened, index.name) is not None:
        return
    spec = opened.table.spec
    assert spec.vector is not None  # noqa: S101  # the configuration gives only vectors an index
    rows = await opened.handle.count_rows(f"`{opened.table.vector}` IS NOT NULL")
    partitions = max(1, min(isqrt(rows), _PARTITIONS_MAX))
    metric = _METRICS[spec.vector.metric]
    # A product quantiser has nothing to learn from a few rows; they are indexed as they are.
    made = IvfPq if index.method == "ivf_pq" and rows >= _PQ_ROWS_MIN else IvfFlat
    config = made(distance_type=metric, num_partitions=partitions)
    await opened.handle.create_index(opened.table.vector, config=config, name=index.name)


async def _build_key(opened: OpenTable) -> None:
    """Index the last part of the key: it tells more rows apart than the others."""
    name = opened.table.key_columns[-1].name if opened.table.key_columns else ""
    if name and await find(opened, _KEY_INDEX) is None:
        await opened.handle.create_index(name, config=BTree(), name=_KEY_INDEX)


def word_columns(table: Table, keyword: KeywordSpec) -> tuple[str, ...] | None:
    """Return the columns that hold the words, None if a field has no text column of its own."""
    columns = [table.columns.get(name) for name in keyword.fields]
    if not all(column is not None and column.kind is FieldType.TEXT for column in columns):
        return None
    return tuple(column.name for column in columns if column is not None)


async def is_indexed(opened: OpenTable, keyword: KeywordSpec) -> bool:
    names = word_columns(opened.table, keyword)
    if names is None:
        return False
    there = {index.name for index in await opened.handle.list_indices()}
    return all(f"{_WORDS_PREFIX}{name}" in there for name in names)


async def build_word_indexes(opened: OpenTable) -> None:
    """Build the full-text indexes that are missing; nobody else writes the table meanwhile."""
    keyword = opened.table.spec.keyword
    names = word_columns(opened.table, keyword) if keyword is not None else None
    if keyword is None or names is None:
        return
    there = {index.name for index in await opened.handle.list_indices()}
    for name in names:
        if f"{_WORDS_PREFIX}{name}" not in there:
            config = FTS(with_position=True, remove_stop_words=False, **tokenizer(keyword))
            await opened.handle.create_index(name, config=config, name=f"{_WORDS_PREFIX}{name}")


def tokenizer(keyword: KeywordSpec) -> dict[str, Any]:
    """Return how texts become words; a language LanceDB does not know is not stemmed."""
    known = keyword.language in LANGUAGES
    language = keyword.language.capitalize() if known else "English"
    return {"language": language, "stem": known, "ascii_folding": False}
