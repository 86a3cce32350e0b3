"""The shape of the `collections:` section as pydantic models: what may be written, and how.

`proxy.config.schema` turns these into the specs and layouts the rest of Crossfade uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from proxy.model import FieldType, Metric

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_IDENTIFIER_BYTES_MAX = 63
"""PostgreSQL cuts longer names off without a word."""
DIM_MAX = 16_000

Language: TypeAlias = Literal[
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian",
    "italian", "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil",
    "turkish",
]  # fmt: skip  # a list of words
"""The languages whose words every engine can stem."""


def _logical_name(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError("a name of lower-case letters, digits and _, at most 63, a letter first")
    return name


def _physical_name(name: str) -> str:
    if not name or "\x00" in name or len(name.encode()) > _IDENTIFIER_BYTES_MAX:
        raise ValueError(f"a name of 1 to {_IDENTIFIER_BYTES_MAX} bytes")
    return name


def _table_name(name: str) -> str:
    parts = name.split(".")
    if len(parts) > 2:
        raise ValueError('a table as "name" or "schema.name"')
    for part in parts:
        _physical_name(part)
    return name


def _column(value: object) -> object:
    """`crate_name: source_name` is short for `crate_name: {field: source_name}`."""
    return {"field": value} if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_logical_name)]
Physical = Annotated[str, AfterValidator(_physical_name)]
Table = Annotated[str, AfterValidator(_table_name)]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FieldShape(_Shape):
    """One logical field; see `proxy.model.FieldSpec`."""

    type: FieldType
    required: bool = False
    default: object = None
    keep: bool = False
    length_max: int = Field(default=0, ge=0)
    choices: tuple[str, ...] = ()
    generated: bool = False


class VectorShape(_Shape):
    """The vector of a collection."""

    dim: int = Field(ge=1, le=DIM_MAX)
    metric: Metric = Metric.COSINE
    required: bool = False


class SideVectorShape(_Shape):
    """What is different about the vector in one store; the rest is the collection's."""

    dim: int | None = Field(default=None, ge=1, le=DIM_MAX)
    metric: Metric | None = None
    required: bool | None = None


class EmbeddingShape(_Shape):
    """How the proxy makes a vector from a record's fields."""

    model: str = Field(min_length=1)
    template: str = Field(min_length=1)


class KeywordShape(_Shape):
    """The text fields that keyword search looks into."""

    fields: tuple[Name, ...] = Field(min_length=1)
    language: Language = "english"


class ParentShape(_Shape):
    """The record that must exist first."""

    collection: Name
    fields: tuple[Name, ...] = Field(min_length=1)


class ParentIdShape(_Shape):
    """A foreign key column, looked up in the parent's table."""

    table: Table
    id: Physical = "id"
    match: Mapping[Physical, Name] = Field(min_length=1)


class ColumnShape(_Shape):
    """One physical column: exactly one of field, vector, packed (or rest) and parent_id."""

    field: Name | None = None
    vector: bool = False
    packed: Mapping[Physical, Name] | None = None
    rest: Name | None = None
    parent_id: ParentIdShape | None = None
    naive_utc: bool = False
    type: str = ""


class IndexShape(_Shape):
    """The nearest-neighbour index that is built after the load; the engine has a method of its own
    for one that names none."""

    name: Physical
    method: Literal["hnsw", "ivfflat", "ivf_flat", "ivf_pq"] | None = None
    cast: Literal["halfvec", "vector"] | None = None
    m: int = Field(default=16, ge=2, le=100)
    ef_construction: int = Field(default=128, ge=4, le=1000)
    ef_search: int = Field(default=100, ge=1, le=1000)
    oversample: int = Field(default=4, ge=1, le=100)
    exact_rows_max: int = Field(default=2000, ge=0)


class LayoutShape(_Shape):
    """How the collection lies in one store.

    `vector` and `embedding` say what is different about the vector in this store; `embedding:
    null` that it is given by whoever writes.
    """

    table: Table
    columns: Mapping[Physical, Annotated[ColumnShape, BeforeValidator(_column)]] = Field(
        min_length=1
    )
    constants: Mapping[Name, object] = Field(default_factory=dict)
    sequences: Mapping[Name, Table] = Field(default_factory=dict)
    check_parent: bool = False
    index: IndexShape | None = None
    vector: SideVectorShape | None = None
    embedding: EmbeddingShape | None = None


class CollectionShape(_Shape):
    """One logical collection and its two layouts."""

    key: tuple[Name, ...] = Field(min_length=1, max_length=8)
    fields: Mapping[Name, FieldShape] = Field(min_length=1)
    vector: VectorShape | None = None
    embedding: EmbeddingShape | None = None
    keyword: KeywordShape | None = None
    parent: ParentShape | None = None
    old: LayoutShape
    new: LayoutShape


class CollectionsShape(_Shape):
    """The whole section."""

    collections: Mapping[Name, CollectionShape] = Field(min_length=1)
