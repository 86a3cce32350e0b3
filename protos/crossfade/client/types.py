"""What an application gives and gets: records, hits, pages, outcomes, as plain data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from crossfade.client.errors import CallError

Key: TypeAlias = tuple[str | int, ...]
KeyLike: TypeAlias = str | int | Sequence[str | int]
"""A key, or the one part of a key that has one."""
Vector: TypeAlias = NDArray[np.float32]
VectorLike: TypeAlias = bytes | NDArray[np.generic] | Sequence[float]
"""Packed little-endian float32, an array of shape (dim,), or numbers."""


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON value that is no object, for a json field. (A mapping is taken as it is.)"""

    value: object


FieldValue: TypeAlias = (
    None | bool | int | float | str | dt.datetime | Sequence[str] | Mapping[str, object] | Json
)
"""A field's value: datetimes are aware; a sequence of texts is a text_list; a mapping is json."""


class Metric(Enum):
    """How a distance was measured; similarity is greater when nearer, in every metric."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


class SearchMode(Enum):
    """How to search."""

    VECTOR = "vector"
    """Nearest to a vector."""
    TEXT = "text"
    """By meaning: the server embeds the text."""
    KEYWORD = "keyword"
    """By words, as web searches take them: all of them; "side by side"; or; -not."""
    HYBRID = "hybrid"
    """By meaning (or a vector) and by words."""


class Scoring(Enum):
    """What the similarity of a hit is; greater is better in each."""

    SIMILARITY = "similarity"
    """Of the distance: see Metric."""
    TS_RANK = "ts_rank"
    """PostgreSQL's rank of a match of words."""
    BM25 = "bm25"
    """BM25 of a match of words."""
    RECIPROCAL_RANK = "reciprocal_rank"
    """Of a hybrid search: the weighted sum of the reciprocal ranks on both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Which parts of a record to read. `fields` None: all; (): the key alone."""

    fields: Sequence[str] | None = None
    vector: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBy:
    """Which store answered ("old", "new"), in which role, and why."""

    store: str
    role: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """One record as it was read.

    Attributes:
        vector: float32, shape (dim,), read-only; None when it is null or was not asked for.
    """

    key: Key
    fields: Mapping[str, FieldValue]
    vector: Vector | None = None
    served_by: ServedBy | None = None

    def __eq__(self, other: object) -> bool:
        """Equal in key, fields and the vector's bits; who served it does not matter."""
        if not isinstance(other, Record):
            return NotImplemented
        same = self.key == other.key and self.fields == other.fields
        return same and _bits(self.vector) == _bits(other.vector)

    __hash__ = None  # type: ignore[assignment]  # fields are mutable mappings


def _bits(vector: Vector | None) -> bytes | None:
    return None if vector is None else vector.tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteAck:
    """An acknowledged write: it is on the primary and stays.

    Attributes:
        key: with allocated parts.
        existed: a delete found a record.
        secondary_pending: the other store gets it a little later.
        record: after an update, the whole record.
        replayed: an earlier try of the same write had been applied.
    """

    key: Key
    existed: bool = False
    secondary_pending: bool = False
    record: Record | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOutcome:
    """What became of one write of a batch: exactly one of the two is set."""

    ack: WriteAck | None = None
    error: CallError | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """A write of a batch: a new record."""

    collection: str
    key: KeyLike | None
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    vector: VectorLike | None = None


@dataclass(frozen=True, slots=True)
class Upsert:
    """A write of a batch: a record, new or not; a field left out keeps its stored value."""

    collection: str
    key: KeyLike | None
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    vector: VectorLike | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """A write of a batch: some fields of a record that exists."""

    collection: str
    key: KeyLike
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    vector: VectorLike | None = None
    clear_vector: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """A write of a batch: a record less."""

    collection: str
    key: KeyLike


BatchItem: TypeAlias = Insert | Upsert | Update | Delete


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some records of a list; `next_page_token` "" at the end."""

    records: Sequence[Record]
    next_page_token: str
    served_by: ServedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """How many records have one value of a field, and their sum of another."""

    value: FieldValue
    count: int
    sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The groups of a count (one, with value None, if nothing was grouped)."""

    groups: Sequence[Group]
    total: int
    served_by: ServedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A record that was found.

    Attributes:
        distance: raw, in the metric; 0 for searches by words and hybrid ones.
        similarity: greater is better; what it is, `SearchResult.scoring` says.
    """

    record: Record
    distance: float
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits, best first; `indexed`: an approximate index was used."""

    hits: Sequence[Hit]
    metric: Metric
    indexed: bool
    served_by: ServedBy
    scoring: Scoring = Scoring.SIMILARITY
