"""What can be asked of a store: filters, lists, counts and searches, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, Union

from proxy.model import Key, Metric, Record, Value


class CompareOp(Enum):
    """Comparisons, with SQL's three-valued logic: a null field is neither equal nor unequal."""

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """`field op value`; the field may be a key field; value is never None (use IsNull)."""

    field: str
    op: CompareOp
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class In:
    """The field equals one of `values`."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainsAny:
    """A text_list field shares at least one element with `values`."""

    field: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsNull:
    """The field is null."""

    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Like:
    """SQL LIKE on a text field: % any run, _ one character, backslash escapes."""

    field: str
    pattern: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonEquals:
    """The JSON field, followed along `path` (object keys), is the text/number/bool `value`."""

    field: str
    path: tuple[str, ...]
    value: str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class And:
    """All hold; the empty And is true."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Or:
    """At least one holds; the empty Or is false."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    """The part is false (null stays null)."""

    part: Filter


Filter: TypeAlias = Union[Compare, In, ContainsAny, IsNull, Like, JsonEquals, "And", "Or", "Not"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One sort term; nulls come last ascending and first descending, as in PostgreSQL."""

    field: str
    descending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Which parts of a record to read. `fields` None: all of them."""

    fields: tuple[str, ...] | None = None
    vector: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """A page of records. The key always ends the order, so that it is total.

    Attributes:
        after: the order values and key of the last row of the page before (keyset paging):
            one value per `order` term, then the key's parts.
        offset: rows to skip, for applications that page by offset; 0..10,000.
        limit: 1..1000.
    """

    collection: str
    filter: Filter | None = None
    order: tuple[Order, ...] = ()
    after: tuple[Value, ...] | None = None
    offset: int = 0
    limit: int = 100
    projection: Projection = Projection()


@dataclass(frozen=True, slots=True, kw_only=True)
class CountQuery:
    """Count records; with `group_by` one count per distinct value of that field.

    `sum_field` adds the sum of a numeric field (nulls are 0).
    """

    collection: str
    filter: Filter | None = None
    group_by: str | None = None
    sum_field: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One group of a count; `value` is None for the null group and for the ungrouped count."""

    value: Value
    count: int
    sum: float = 0.0


class SearchMode(Enum):
    """How to search. A store without a mode raises Rejected(UNIMPLEMENTED).

    TEXT and HYBRID reach a store with `SearchQuery.vector` filled in: the text, embedded by the
    model of that store. To a store TEXT is VECTOR.
    """

    VECTOR = "vector"
    TEXT = "text"
    KEYWORD = "keyword"
    HYBRID = "hybrid"


class Scoring(Enum):
    """What the similarity of a hit is (rule R4)."""

    SIMILARITY = "similarity"
    """`Metric.similarity` of the distance."""
    TS_RANK = "ts_rank"
    """PostgreSQL's rank of a keyword match."""
    BM25 = "bm25"
    """BM25 of a keyword match (k1 1.2, b 0.75)."""
    RECIPROCAL_RANK = "reciprocal_rank"
    """The weighted sum of reciprocal ranks of both legs of a hybrid search (`stores.fusion`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """A nearest-neighbour search, a search by words, or both.

    Attributes:
        vector: packed little-endian float32, shape (dim,), for VECTOR and HYBRID, and for TEXT
            once it is embedded.
        text: for TEXT, KEYWORD and HYBRID. For the words the syntax is that of web searches: all
            words must be there; "a phrase"; `or`; -not.
        alpha: HYBRID: share of the vector leg, 0 to 1.
        limit: 1..1000.
        exact: True: scan; False: use the index if the store has one; None: the store decides.
    """

    collection: str
    mode: SearchMode = SearchMode.VECTOR
    vector: bytes | None = None
    text: str = ""
    alpha: float = 0.7
    filter: Filter | None = None
    limit: int = 10
    exact: bool | None = None
    projection: Projection = Projection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One result: `distance` raw in the metric, `similarity` greater is nearer (rule R4).

    Keyword and hybrid hits have no distance: it is 0, and `similarity` is what
    `SearchResult.scoring` says.
    """

    record: Record
    distance: float
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits best first, ties by key ascending."""

    hits: tuple[Hit, ...]
    metric: Metric
    indexed: bool = False
    scoring: Scoring = Scoring.SIMILARITY


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """Keys with after < key <= upto in the collection's key order; None is open."""

    after: Key | None = None
    upto: Key | None = None


def fields_of(filter: Filter) -> frozenset[str]:
    """Return the names of the fields that a filter looks at."""
    if isinstance(filter, And | Or):
        return frozenset[str]().union(*(fields_of(part) for part in filter.parts))
    if isinstance(filter, Not):
        return fields_of(filter.part)
    return frozenset((filter.field,))
