"""The Protocol that every store adapter implements, and the data that crosses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import StoreProblem
from proxy.layouts import StoreSchema
from proxy.model import Key, Record, Write, WriteResult
from proxy.query import (
    CountQuery,
    Group,
    KeyRange,
    ListQuery,
    Scoring,
    SearchMode,
    SearchQuery,
    SearchResult,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store can do beyond the minimum.

    Attributes:
        single_writer: one process alone may write it (an embedded database), so the reconciler
            runs inside the proxy.
        keyword_scoring: what keyword hits are ranked by.
        bulk_rows: rows that a bulk load should have to be worth its commit; 0: any number.
    """

    transactions: bool
    search_modes: frozenset[SearchMode]
    single_writer: bool = False
    keyword_scoring: Scoring = Scoring.SIMILARITY
    bulk_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeDigest:
    """An order-independent digest of the records of a range; it does not depend on cuts.

    `sum` is the sum modulo 2**128 of the 128-bit digests of the records' canonical forms
    (`proxy.canonical`), so the digest of two disjoint ranges is the sum of theirs.
    """

    rows: int
    sum: int

    def __add__(self, other: RangeDigest) -> RangeDigest:
        return RangeDigest(rows=self.rows + other.rows, sum=(self.sum + other.sum) % 2**128)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDigest:
    """The 128-bit digest of one record's canonical form."""

    key: Key
    digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """An index for searches: `ready` means valid, built and usable by the planner.

    `optional`: no step of a migration waits for it (an index of words: without it the same
    search is slower, and that is all).
    """

    collection: str
    name: str
    exists: bool
    ready: bool
    detail: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkTarget:
    """How a store wants bulk rows; only an adapter of the same `dialect` reads `plan`."""

    dialect: str
    plan: object


class Page(Protocol):
    """A consistent read of the next rows of a range (one repeatable-read transaction)."""

    keys: Sequence[Key]
    """The keys of the page, ascending. Fewer than asked for: the range ends here."""

    async def records(self, exclude: frozenset[Key]) -> list[Record]:
        """Return the full records with vectors, ascending by key, without those excluded."""

    def bulk(self, exclude: frozenset[Key], target: BulkTarget) -> AsyncIterator[bytes]:
        """Stream the same rows in the target's own bulk format.

        Raises:
            Rejected(UNIMPLEMENTED): this store does not speak `target.dialect`.
        """


class Store(Protocol):
    """One side of a migration.

    Every call has a deadline in seconds and raises Unavailable (not applied), Ambiguous (a write
    that may have been applied), Corrupt (a row that cannot be decoded) or Rejected (the request
    is wrong for this store); driver errors never leave an adapter. A cancelled call leaves the
    connection usable. Keys are ordered by `key_order`.
    """

    name: str
    """"old" or "new": what messages and metrics call it."""
    schema: StoreSchema
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect. Raises Unavailable if the store does not answer."""

    async def close(self) -> None:
        """Release every connection; safe to call twice."""

    async def ping(self, *, deadline_s: float) -> None:
        """Return if the store answers."""

    async def check(self) -> list[StoreProblem]:
        """Compare the layouts with what is really there; empty if all is well."""

    async def apply(
        self, writes: Sequence[Write], *, atomic: bool, deadline_s: float
    ) -> list[WriteResult]:
        """Apply writes in order, one result each.

        With `atomic` all are applied or none (the results of an undone batch say which one
        failed and ROLLED_BACK for the rest). Without, each stands alone. A store without
        transactions raises Rejected(UNIMPLEMENTED) for atomic batches of more than one.
        Fields the store does not hold are ignored. A PATCH is atomic: nobody writes the record
        between its read and its write; its result carries the full record. What a write
        `expected` is compared in canonical form, likewise in one step with the write (CHANGED).
        """

    async def get(
        self, collection: str, keys: Sequence[Key], *, vectors: bool, deadline_s: float
    ) -> dict[Key, Record]:
        """Return those of the records that exist."""

    async def list_records(self, query: ListQuery, *, deadline_s: float) -> list[Record]:
        """Return at most `query.limit` records in the query's order."""

    async def list_keys(self, query: ListQuery, *, deadline_s: float) -> list[Key]:
        """Return the keys that `list_records` would, reading nothing else."""

    async def count(self, query: CountQuery, *, deadline_s: float) -> list[Group]:
        """Return one group, or with `group_by` one per distinct value, ascending, null last."""

    async def search(self, query: SearchQuery, *, deadline_s: float) -> SearchResult:
        """Return the nearest records, best first, ties by key ascending.

        Records with a null vector are never hits.
        """

    async def next_ids(self, collection: str, field: str, count: int) -> list[int]:
        """Allocate `count` numbers from the field's sequence; gaps are allowed."""

    async def align_sequences(self, floors: Mapping[tuple[str, str], int] | None = None) -> None:
        """Move sequences on, so that this store may allocate; they never go back.

        Args:
            floors: (collection, field) -> number to be past, without looking at the data. None:
                past the largest value stored, for every sequence.
        """

    async def rest(self, *, for_s: float, deadline_s: float) -> None:
        """Return when no write waits for upkeep, and begin none for at least `for_s` seconds.

        There is nothing to do for a store that never tidies its tables between writes.

        Raises:
            Unavailable: what is under way does not end within `deadline_s`; no more is begun.
        """

    # What the reconciler needs.

    async def landed(self, collection: str, *, deadline_s: float) -> None:
        """Return once no write that was given up (Ambiguous) long ago can still be applied.

        `page`, `range_keys`, `digest` and `key_digests` wait for that themselves; `get` does not.

        Raises:
            Unavailable: one still may when the time is over.
        """

    async def key_order(self, collection: str) -> str:
        """Name the native order of keys; two stores with the same name order alike."""

    async def split(self, collection: str, *, rows_per_range: int, order: str) -> list[KeyRange]:
        """Cut the whole collection into adjoining ranges; the first and last are open."""

    def page(
        self, collection: str, keys: KeyRange, *, limit: int, order: str, deadline_s: float
    ) -> AbstractAsyncContextManager[Page]:
        """Read the first `limit` rows of a range, consistently."""

    async def range_keys(
        self, collection: str, keys: KeyRange, *, order: str, deadline_s: float
    ) -> list[Key]:
        """Return every key of the range, ascending."""

    async def digest(
        self,
        collection: str,
        keys: KeyRange,
        *,
        fields: Sequence[str],
        order: str,
        deadline_s: float,
        vectors: bool = True,
    ) -> RangeDigest:
        """Digest the range over key, `fields` and vector, where the data lies.

        Args:
            vectors: False leaves the vector out: the two stores hold those of different models.
        """

    async def key_digests(
        self,
        collection: str,
        keys: KeyRange,
        *,
        fields: Sequence[str],
        order: str,
        deadline_s: float,
        vectors: bool = True,
    ) -> list[KeyDigest]:
        """Digest each record of the range, ascending by key; see `digest`."""

    async def bulk_target(self, collection: str, fields: Sequence[str]) -> BulkTarget | None:
        """Say how to bulk-load these logical fields (and the vector) here, None if it cannot."""

    async def bulk_load(
        self,
        collection: str,
        target: BulkTarget,
        chunks: AsyncIterator[bytes],
        *,
        deadline_s: float,
    ) -> int:
        """Load new rows, all or none; return how many.

        Raises:
            Rejected(ALREADY_EXISTS): a row of the load is there already; nothing was loaded.
        """

    async def unconvertible(self, record: Record) -> str:
        """Say why this store could not hold the record, "" if it can (no I/O beyond a lookup)."""

    async def index_states(self) -> list[IndexState]:
        """Return the state of each index the layouts ask for, and of those for words."""

    async def build_index(self, collection: str) -> None:
        """Build the collection's indexes that are missing or invalid, without blocking writes."""

    async def row_estimate(self, collection: str) -> int:
        """Return about how many rows the collection has (statistics are enough)."""

    def stats(self) -> Mapping[str, float]:
        """Return gauges: pool size, busy connections, waiting callers."""
