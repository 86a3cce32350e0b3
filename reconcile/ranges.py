"""Which keys a job walks, in what order and how many at a time: pure decisions, no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.layouts import ColumnKind, StoreSchema
from proxy.ledger.types import RangeState
from proxy.model import CollectionSpec, Key, VectorSpec
from proxy.query import KeyRange
from proxy.vectors import VectorPath, vector_path

C_ORDER = "C"
"""The key order every store can produce; used when the native ones differ."""

RANGES_PER_WORKER = 4
"""Enough ranges that the last one of a worker does not keep the others idle for long."""

RANGE_ROWS_MIN = 500
"""Below this a range costs more in bookkeeping than in copying."""

FIRST_BATCH_ROWS = 128
"""The first batch is small: nothing is known of the size of the rows yet."""

BATCH_GROWTH = 4
"""How much larger the next batch may be, so that a sudden change of size is bounded too."""

BATCH_SHRINK = 32
"""How much smaller a batch is tried after one that did not end in time (it may grow again)."""

BATCH_S = 2.0
"""About how long a batch may take: a swap waits for it, and so does a request to pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What two stores have in common of one collection.

    Attributes:
        fields: the value fields that both hold, sorted; what is copied and compared.
        path: where the secondary's vectors come from.
        target: the vector that the secondary holds, None if it holds none.
        gives_vectors: the primary holds vectors, of whichever space.
    """

    spec: CollectionSpec
    primary: StoreSchema
    secondary: StoreSchema
    fields: tuple[str, ...]
    path: VectorPath
    target: VectorSpec | None = None
    gives_vectors: bool = False

    @property
    def vector(self) -> bool:
        """Both hold the same vector, so it is copied and compared."""
        return self.path is VectorPath.COPIED

    @property
    def sets_vector(self) -> bool:
        """A copy says what the secondary's vector is; otherwise it stays as it is."""
        return self.path in (VectorPath.COPIED, VectorPath.EMBEDDED)

    @property
    def bulk(self) -> bool:
        """Rows may pass as they are, in bulk: the vector is the same on both sides, or none."""
        return self.path in (VectorPath.COPIED, VectorPath.NONE)

    def holds(self, key: Key) -> bool:
        """True if both stores can hold a record with this key."""
        name = self.spec.name
        return self.primary.layouts[name].holds(self.spec, key) and self.secondary.layouts[
            name
        ].holds(self.spec, key)


def scope_of(collection: str, primary: StoreSchema, secondary: StoreSchema) -> Scope:
    """Return what the two stores have in common of a collection."""
    source, target = held_vector(primary, collection), held_vector(secondary, collection)
    common = primary.stored_value_fields(collection) & secondary.stored_value_fields(collection)
    return Scope(
        spec=primary.collections[collection],
        primary=primary,
        secondary=secondary,
        fields=tuple(sorted(common)),
        path=vector_path(source, target),
        target=target,
        gives_vectors=source is not None,
    )


def held_vector(schema: StoreSchema, collection: str) -> VectorSpec | None:
    """Return the vector that a store holds, None if its layout has no place for one."""
    columns = schema.layouts[collection].columns
    holds = any(column.kind is ColumnKind.VECTOR for column in columns)
    return schema.collections[collection].vector if holds else None


def narrower(collection: str, primary: StoreSchema, secondary: StoreSchema) -> str:
    """Say whose rows should cut the ranges: "primary", or "secondary" if it holds fewer keys.

    A store whose constants fix a part of the key cannot hold the other's foreign records; ranges
    cut by it are of even size over the records that the two have in common.
    """
    key = set(primary.collections[collection].key)
    fixed = len(key & set(primary.layouts[collection].constants))
    fixed_there = len(key & set(secondary.layouts[collection].constants))
    return "secondary" if fixed_there > fixed else "primary"


def parents_first(specs: Mapping[str, CollectionSpec], wanted: Sequence[str] = ()) -> list[str]:
    """Return collection names, each after its parent, otherwise in their own order.

    Args:
        wanted: only these, () for all; a parent that is not wanted is not added.
    """
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in ordered or name in path or name not in specs:
            return
        parent = specs[name].parent
        if parent is not None:
            visit(parent.collection, (*path, name))
        ordered.append(name)

    for name in specs:
        visit(name, ())
    return [name for name in ordered if not wanted or name in wanted]


def children_of(specs: Mapping[str, CollectionSpec], collection: str) -> list[CollectionSpec]:
    """Return the collections whose parent this one is."""
    return [
        spec
        for spec in specs.values()
        if spec.parent is not None and spec.parent.collection == collection
    ]


def common_order(first: str, second: str) -> str:
    """Return the order both stores walk in: the native one if it is the same, else "C"."""
    return first if first == second else C_ORDER


def rows_per_range(rows: int, *, range_rows: int, workers: int) -> int:
    """Return how many rows a range should have, so that every worker gets a few of them."""
    even = math.ceil(rows / (workers * RANGES_PER_WORKER))
    return max(1, min(range_rows, max(even, RANGE_ROWS_MIN)))


def planned(collection: str, cut: Sequence[KeyRange]) -> list[RangeState]:
    """Number the ranges of a collection."""
    return [
        RangeState(job_id=0, collection=collection, number=number, keys=keys)
        for number, keys in enumerate(cut)
    ]


def remaining(state: RangeState) -> KeyRange:
    """Return what of a range is not finished yet."""
    after = state.keys.after if state.cursor is None else state.cursor
    return KeyRange(after=after, upto=state.keys.upto)


def advanced(
    state: RangeState, upto: Key | None, tally: Mapping[str, int], *, done: bool
) -> RangeState:
    """Return the checkpoint after a batch that ended at `upto` (None: at the range's end)."""
    return replace(
        state,
        cursor=state.cursor if upto is None else upto,
        done=done,
        tally=added(state.tally, tally),
    )


def added(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    """Add two tallies, name by name."""
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """How many rows the next batch of a collection may have (rule B3).

    Attributes:
        row_bytes, row_s: mean size and time of the rows of the last batch; 0 before the first.
        last: rows the last batch was allowed.
    """

    rows_max: int
    bytes_max: int
    row_bytes: float = 0.0
    row_s: float = 0.0
    last: int = 0

    def limit(self) -> int:
        """Return the rows the next batch may have, at least 1."""
        if not self.last:
            return min(self.rows_max, FIRST_BATCH_ROWS)
        fits: float = self.rows_max
        if self.row_bytes > 0:
            fits = min(fits, self.bytes_max / self.row_bytes)
        if self.row_s > 0:
            fits = min(fits, BATCH_S / self.row_s)
        return max(1, min(self.rows_max, int(fits), self.last * BATCH_GROWTH))

    def after(self, rows: int, size_bytes: int, took_s: float) -> BatchSize:
        """Return the size after a batch of `rows` rows that took `size_bytes` and `took_s`."""
        if not rows:
            return self
        return replace(self, row_bytes=size_bytes / rows, row_s=took_s / rows, last=self.limit())

    def too_slow(self) -> BatchSize:
        """Return the size after a batch that did not end in time."""
        return replace(self, last=max(1, self.limit() // BATCH_SHRINK), row_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What to do with the keys of one span of a backfill, decided before anything is written.

    Attributes:
        fresh: on the primary only; they are inserted on the secondary.
        present: on both; equal ones are finished, different ones are left to repair.
        extra: on the secondary only; left to repair, which asks the primary again by key.
        in_flight: left out (step 2).
        foreign: records that one of the two stores cannot hold; nobody's business.
    """

    fresh: tuple[Key, ...]
    present: tuple[Key, ...]
    extra: tuple[Key, ...]
    in_flight: frozenset[Key]
    foreign: frozenset[Key]

    @property
    def not_fresh(self) -> frozenset[Key]:
        """Every key of the primary's page that must not be inserted."""
        return frozenset(self.present) | self.in_flight | self.foreign


def plan_batch(
    scope: Scope, here: Sequence[Key], there: Sequence[Key], in_flight: frozenset[Key]
) -> BatchPlan:
    """Sort the keys of a span: `here` on the primary, `there` on the secondary."""
    foreign = frozenset(key for key in (*here, *there) if not scope.holds(key))
    flying = in_flight.intersection((*here, *there)) - foreign
    out = foreign | flying
    on_secondary = set(there)
    on_primary = set(here)
    return BatchPlan(
        fresh=tuple(key for key in here if key not in on_secondary and key not in out),
        present=tuple(key for key in here if key in on_secondary and key not in out),
        extra=tuple(key for key in there if key not in on_primary and key not in out),
        in_flight=flying,
        foreign=foreign,
    )
