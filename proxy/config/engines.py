"""What each engine can and cannot do with a layout: index methods, column types, lookups, names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from proxy.config.problems import Complaint
from proxy.config.source import Path
from proxy.layouts import ColumnKind, Layout
from proxy.model import CollectionSpec

POSTGRESQL: Final = "postgresql"
LANCEDB: Final = "lancedb"

_INDEX_DIM_MAX: Final = {"vector": 2000, "halfvec": 4000}
"""pgvector 0.8: more dimensions than this cannot be indexed."""
_INDEX_METHODS: Final = {
    POSTGRESQL: ("hnsw", "ivfflat"),
    LANCEDB: ("ivf_pq", "ivf_flat"),
}
"""The first is the one for an index that names none."""
_LANCE_TYPES: Final = (
    "string", "large_string", "int64", "int32", "int16", "float64", "double", "bool",
    "timestamp[us]", "timestamp[us, UTC]", "list<string>",
)  # fmt: skip  # a list of words
_LANCE_TABLE: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


def engines_of(data: object) -> dict[str, str]:
    """Return the engine of each side as it is written, "" where it is missing or no text."""
    found = {}
    for side in ("old", "new"):
        section = data.get(side) if isinstance(data, Mapping) else None
        engine = section.get("engine") if isinstance(section, Mapping) else None
        found[side] = engine if isinstance(engine, str) else ""
    return found


def index_method(engine: str) -> str:
    """Return the index method of an engine that is taken if none is named."""
    return _INDEX_METHODS.get(engine, _INDEX_METHODS[POSTGRESQL])[0]


def check_engine(
    spec: CollectionSpec, layout: Layout, side: str, engine: str
) -> Iterator[Complaint]:
    """Yield what this engine cannot do with a layout."""
    at: Path = ("collections", spec.name, side)
    yield from _index(spec, layout, at, engine)
    if engine == LANCEDB:
        yield from _lance(layout, at)


def _index(spec: CollectionSpec, layout: Layout, at: Path, engine: str) -> Iterator[Complaint]:
    index, methods = layout.index, _INDEX_METHODS.get(engine)
    if index is None or methods is None:
        return
    if index.method not in methods:
        expected = f"{' or '.join(methods)} for an index of {engine}"
        yield Complaint(path=(*at, "index", "method"), expected=expected, got=index.method)
    limit = _INDEX_DIM_MAX[index.cast]
    if engine == POSTGRESQL and spec.vector is not None and spec.vector.dim > limit:
        expected = f"at most {limit} dimensions for an index with cast {index.cast}"
        yield Complaint(path=(*at, "index"), expected=expected, got=str(spec.vector.dim))


def _lance(layout: Layout, at: Path) -> Iterator[Complaint]:
    if not _LANCE_TABLE.match(layout.table):
        expected = "a table of letters, digits, _ and - (lancedb has no schemas)"
        yield Complaint(path=(*at, "table"), expected=expected, got=f'"{layout.table}"')
    for column in layout.columns:
        path = (*at, "columns", column.name)
        if column.type and column.type not in _LANCE_TYPES:
            expected = f"one of {', '.join(_LANCE_TYPES)}, or no type: the field's own"
            yield Complaint(path=(*path, "type"), expected=expected, got=f'"{column.type}"')
        if column.kind is ColumnKind.PARENT_ID:
            expected = (
                "no parent_id (lancedb has no foreign keys; check_parent looks for the parent)"
            )
            yield Complaint(path=path, expected=expected)
        if "." in column.name:
            expected = 'a column without "." (lancedb takes it for a nested one)'
            yield Complaint(path=path, expected=expected, got=f'"{column.name}"')
