"""One collection as a LanceDB table: its columns and their types, compiled from the layout."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from proxy.layouts import Column, ColumnKind, Layout
from proxy.model import CollectionSpec, FieldType
from proxy.stores.lancedb.types import column_type
from proxy.stores.shapes import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldColumn:
    """A column that holds one logical field; `type` is its Arrow type."""

    field: str
    name: str
    kind: FieldType
    type: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A compiled layout.

    Attributes:
        columns: logical field -> its column; packed fields and constants have none.
        key_columns: the columns of the key's parts, in order, without those the layout implies.
        packed: the columns that hold JSON objects of several fields.
        vector: the column of the vector, "" for none.
        schema: the Arrow schema of every column of the layout.
    """

    shape: Shape
    columns: Mapping[str, FieldColumn]
    key_columns: tuple[FieldColumn, ...]
    packed: tuple[Column, ...]
    vector: str
    schema: Any

    @property
    def spec(self) -> CollectionSpec:
        """The collection."""
        return self.shape.spec

    @property
    def layout(self) -> Layout:
        """Its layout in this store."""
        return self.shape.layout

    @property
    def name(self) -> str:
        """The table's name."""
        return self.layout.table

    @property
    def dim(self) -> int:
        """Dimensions of the vector, 0 if the table has none."""
        return self.spec.vector.dim if self.vector and self.spec.vector is not None else 0


@dataclass(slots=True)
class OpenTable:
    """A table in use.

    Attributes:
        handle: the AsyncTable that reads and writes go through; it is at the newest version.
        held: how many pages read an older version; none is cleaned up while one does.
        scanning: held by a search that reads the texts of the table: one does at a time.
    """

    table: Table
    handle: Any
    held: int = 0
    scanning: asyncio.Lock = field(default_factory=asyncio.Lock)


def compile_table(spec: CollectionSpec, layout: Layout) -> Table:
    """Return the compiled layout; `checks.layout_problems` has been asked before."""
    columns: dict[str, FieldColumn] = {}
    arrow: list[Any] = []
    vector = ""
    for column in layout.columns:
        if column.kind is ColumnKind.FIELD:
            kind = spec.by_name[column.field].type
            made = column_type(column, kind)
            columns[column.field] = FieldColumn(
                field=column.field, name=column.name, kind=kind, type=made
            )
            arrow.append(pa.field(column.name, made, nullable=column.field not in spec.key))
        elif column.kind is ColumnKind.PACKED:
            arrow.append(pa.field(column.name, pa.string()))
        elif column.kind is ColumnKind.VECTOR and spec.vector is not None:
            vector = column.name
            arrow.append(pa.field(column.name, pa.list_(pa.float32(), spec.vector.dim)))
    return Table(
        shape=Shape(spec, layout),
        columns=columns,
        key_columns=tuple(columns[name] for name in spec.key if name in columns),
        packed=tuple(c for c in layout.columns if c.kind is ColumnKind.PACKED),
        vector=vector,
        schema=pa.schema(arrow),
    )
