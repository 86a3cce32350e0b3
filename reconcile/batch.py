"""One batch of a copy as data: what was asked, what a span came to, and what the batch did."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from proxy.ledger.types import RangeState
from proxy.model import Key
from proxy.query import KeyRange
from proxy.stores.base import BulkTarget
from reconcile.ranges import BatchPlan, advanced
from reconcile.roles import Pair
from reconcile.writing import Stored


class Path(Enum):
    """How the rows of a page reach the secondary, fastest first."""

    BULK = "bulk"
    RECORDS = "records"
    ISOLATE = "isolate"
    """By key, halved where need be: a row of the page cannot be decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAsk:
    """What one batch of a backfill is to copy.

    Attributes:
        limit: rows of the page at most.
        target: how the secondary wants bulk rows, None to go by records.
    """

    pair: Pair
    state: RangeState
    limit: int
    target: BulkTarget | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What one batch did.

    Attributes:
        rows: records that were looked at on the primary.
        stored: records that are on the secondary now as they are on the primary.
        deleted: records removed from the secondary.
        in_flight: keys left out by step 2.
        dead: records that cannot be converted.
        resolved: dead letters that were closed.
        left: keys that are still dirty, those in flight not included.
        again: keys of `left` that are worth a repair right now.
        tally: the batch's own counts, as a range keeps them.
        progress: the range's new checkpoint.
    """

    collection: str
    rows: int
    bytes: int = 0
    stored: int = 0
    deleted: int = 0
    in_flight: int = 0
    dead: int = 0
    resolved: int = 0
    left: frozenset[Key] = frozenset()
    again: tuple[Key, ...] = ()
    tally: Mapping[str, int] = field(default_factory=dict)
    progress: RangeState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span between steps 4 and 5. `ended`: the primary has no more rows in it."""

    keys: KeyRange
    ended: bool
    rows: int
    plan: BatchPlan
    stored: Stored
    equal: frozenset[Key] = frozenset()

    @property
    def again(self) -> tuple[Key, ...]:
        """Keys that differ, and keys that only the secondary has."""
        different = [key for key in self.plan.present if key not in self.equal]
        return (*different, *self.plan.extra)


class Counter:
    """Counts the bytes of a stream that passes by."""

    def __init__(self) -> None:
        self.bytes = 0

    async def pass_on(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield the chunks, and close their source at the end."""
        try:
            async for chunk in chunks:
                self.bytes += len(chunk)
                yield chunk
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()


def outcome_of(state: RangeState, collection: str, span: Span) -> Copied:
    """Return the outcome of a page, with the range's new checkpoint."""
    left = span.stored.left.union(span.again)
    done = span.ended and span.keys.upto == state.keys.upto
    tally = {
        "rows": span.rows,
        "bytes": span.stored.bytes,
        "copied": len(span.stored.touched),
        "unchanged": len(span.equal),
        "left_to_repair": len(left),
        "in_flight": len(span.plan.in_flight),
        "dead_letters": len(span.stored.dead),
    }
    return Copied(
        collection=collection,
        rows=span.rows,
        bytes=span.stored.bytes,
        stored=len(span.stored.touched) + len(span.equal),
        in_flight=len(span.plan.in_flight),
        dead=len(span.stored.dead),
        left=left,
        again=span.again,
        tally=tally,
        progress=advanced(state, span.keys.upto, tally, done=done),
    )
