"""How a logical collection lies in one store: table, columns, renames, constants, JSON packing.

A layout is data, read from the configuration. Adapters compile it to their own language; nothing
above the stores looks into one, except to ask what a store can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import Enum

from proxy.model import CollectionSpec, Key, Value


class ColumnKind(Enum):
    """What a physical column holds."""

    FIELD = "field"
    """One logical field (or key field), renamed or not."""
    VECTOR = "vector"
    """The vector."""
    PACKED = "packed"
    """A JSON object that packs several logical fields under names of its own."""
    PARENT_ID = "parent_id"
    """A foreign key that is looked up by the parent's key; never read back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One logical field inside a packed JSON column, at the top-level `name`."""

    field: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One physical column.

    Attributes:
        name: as it is in the table.
        kind: see ColumnKind.
        field: the logical field for FIELD.
        type: the store's own type name, "" to take it from the store's catalogue
            (PostgreSQL: "varchar(255)", "timestamp", "text[]").
        naive_utc: a timestamp column without a zone; its values are UTC.
        packed: PACKED: which fields lie where.
        rest: PACKED: the logical JSON field that holds every other name of the object, "" if
            the other names belong to nobody and are left alone.
        lookup_table, lookup_id, lookup_match: PARENT_ID: the parent's table, its id column, and
            {column of the parent's table: logical field of the child}.
    """

    name: str
    kind: ColumnKind = ColumnKind.FIELD
    field: str = ""
    type: str = ""
    naive_utc: bool = False
    packed: tuple[Packed, ...] = ()
    rest: str = ""
    lookup_table: str = ""
    lookup_id: str = "id"
    lookup_match: Mapping[str, str] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSpec:
    """The nearest-neighbour index that `crossfade backfill` builds after the load (rule B7).

    Attributes:
        method: "hnsw" or "ivfflat" (PostgreSQL), "ivf_pq" or "ivf_flat" (LanceDB).
        cast: "halfvec" or "vector": the type that is indexed (PostgreSQL).
        exact_rows_max: a filter that leaves no more rows than this is searched exactly.
    """

    name: str
    method: str = "hnsw"
    cast: str = "halfvec"
    m: int = 16
    ef_construction: int = 128
    ef_search: int = 100
    oversample: int = 4
    exact_rows_max: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one collection lies in one store.

    Attributes:
        table: table name, may be qualified ("public.documents").
        constants: logical field -> the one value this store implies. The store has no column
            for it and cannot hold a record with another value.
        sequences: logical field -> name of the sequence it is allocated from.
        check_parent: the store has no foreign key, so the adapter checks the parent itself.
        index: nearest-neighbour index, None for an exact scan.
    """

    collection: str
    table: str
    columns: tuple[Column, ...]
    constants: Mapping[str, Value] = dataclass_field(default_factory=dict)
    sequences: Mapping[str, str] = dataclass_field(default_factory=dict)
    check_parent: bool = False
    index: IndexSpec | None = None
    _stored: frozenset[str] = dataclass_field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = set(self.constants)
        for column in self.columns:
            if column.kind is ColumnKind.FIELD:
                names.add(column.field)
            names.update(item.field for item in column.packed)
            if column.rest:
                names.add(column.rest)
        object.__setattr__(self, "_stored", frozenset(names))

    def stored_fields(self) -> frozenset[str]:
        """Logical fields this store can hold and give back, constants and key included."""
        return self._stored

    def holds(self, spec: CollectionSpec, key: Key) -> bool:
        """True if a record with this key can exist in this store (its constants agree)."""
        constants = self.constants
        if not constants:
            return True
        return all(
            part == constants.get(name, part) for name, part in zip(spec.key, key, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSchema:
    """Everything a store adapter needs to know of the data: specs and layouts by collection."""

    collections: Mapping[str, CollectionSpec]
    layouts: Mapping[str, Layout]

    def stored_value_fields(self, collection: str) -> frozenset[str]:
        """Non-key, non-generated logical fields that this store holds."""
        spec = self.collections[collection]
        stored = self.layouts[collection].stored_fields()
        return frozenset(
            item.name for item in spec.value_fields if item.name in stored and not item.generated
        )
