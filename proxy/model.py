"""Records, keys and schemas: the logical data that every store holds in its own layout."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from json.encoder import encode_basestring
from typing import TypeAlias, Union

JsonValue: TypeAlias = Union[
    None, bool, int, float, str, Sequence["JsonValue"], Mapping[str, "JsonValue"]
]
Value: TypeAlias = Union[
    None, bool, int, float, str, dt.datetime, Sequence["JsonValue"], Mapping[str, "JsonValue"]
]
KeyPart: TypeAlias = str | int
Key: TypeAlias = tuple[KeyPart, ...]


class FieldType(Enum):
    """The types a logical field can have; `timestamp` is an aware UTC datetime."""

    TEXT = "text"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    TEXT_LIST = "text_list"
    JSON = "json"


class Metric(Enum):
    """Distance of two vectors; similarity is `1 - d`, `-d` or `1 / (1 + d)` in this order."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"

    def similarity(self, distance: float) -> float:
        """Put a raw distance on a scale where greater is nearer (rule R4)."""
        if self is Metric.COSINE:
            return 1.0 - distance
        if self is Metric.DOT:
            return -distance
        return 1.0 / (1.0 + distance)


class DefaultKind(Enum):
    """How the proxy decides a field the writer left out; always once, before any store."""

    NONE = "none"
    CONSTANT = "constant"
    NOW = "now"
    SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """One logical field.

    Attributes:
        required: null is refused.
        default: how an absent field is decided when the record is created.
        constant: the value for `DefaultKind.CONSTANT`.
        keep: an upsert of an existing record keeps the stored value unless the writer gave one
            (creation times, serial numbers).
        length_max: characters of a text, 0 for no limit.
        choices: the only texts allowed, empty for any.
        generated: a store makes it (a trigger); readable, never written, never compared.
    """

    name: str
    type: FieldType
    required: bool = False
    default: DefaultKind = DefaultKind.NONE
    constant: Value = None
    keep: bool = False
    length_max: int = 0
    choices: tuple[str, ...] = ()
    generated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpec:
    """How the proxy makes a vector from a record's fields (`proxy.vectors.text_of`).

    Attributes:
        model: a model's name or path, as the embedder knows it.
        template: text with `{field}` in it; a null field counts as "".
        fields: the fields of the template, in the order of their first use.
    """

    model: str
    template: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSpec:
    """The vector of a collection: float32, shape (dim,).

    Attributes:
        embedding: the proxy makes the vector of a write that brings none; None: vectors are
            given by whoever writes.
        given: a writer may bring the vector. False where the two stores hold vectors of
            different models: no vector of a client's can be right for both.
    """

    dim: int
    metric: Metric = Metric.COSINE
    required: bool = False
    embedding: EmbeddingSpec | None = None
    given: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class KeywordSpec:
    """The text fields that keyword search looks into, and the language they are stemmed by."""

    fields: tuple[str, ...]
    language: str = "english"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentSpec:
    """A record needs a parent: `fields` of the child are the parent's key, in its order.

    Deleting the parent deletes its children first (each one a delete of its own key).
    """

    collection: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """One logical collection. `fields` holds the key fields too; `key` names them in order.

    The two stores of a migration have the same specs but for `vector`: each store's own says what
    that store holds (another model, another dimension, None for none at all).
    """

    name: str
    key: tuple[str, ...]
    fields: tuple[FieldSpec, ...]
    vector: VectorSpec | None = None
    parent: ParentSpec | None = None
    keyword: KeywordSpec | None = None
    by_name: Mapping[str, FieldSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {spec.name: spec for spec in self.fields})

    @property
    def value_fields(self) -> tuple[FieldSpec, ...]:
        """The fields that are not part of the key."""
        return tuple(spec for spec in self.fields if spec.name not in self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One logical object.

    Attributes:
        key: the parts in the order of `CollectionSpec.key`.
        fields: every field outside the key that the store holds (an absent name: not stored
            there or not asked for; None: stored as null).
        vector: packed little-endian float32, 4 * dim bytes; None when it is null or not read.
    """

    collection: str
    key: Key
    fields: Mapping[str, Value]
    vector: bytes | None = None


class WriteOp(Enum):
    """What one write does to one key."""

    INSERT = "insert"
    UPSERT = "upsert"
    PATCH = "patch"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What must be stored under a key for a write to be applied to it.

    Attributes:
        fields: there is a record, and it has these values (those of fields that the store does
            not hold count as met); None: there is no record.
    """

    fields: Mapping[str, Value] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One deterministic write of one key, as a store gets it.

    Attributes:
        fields: INSERT, UPSERT: every field that is to be stored. PATCH: those that change; a
            JSON field is merged by RFC 7396, any other replaced.
        vector: packed float32; with `set_vector` False the stored vector is kept (PATCH, or an
            UPSERT by the copier of a store that keeps none).
        keep: UPSERT of an existing record leaves these fields as they are stored.
        expected: PATCH, UPSERT: the write is applied only where this holds, looked at in one step
            with the write itself; None: whatever is stored.
    """

    op: WriteOp
    collection: str
    key: Key
    fields: Mapping[str, Value] = field(default_factory=dict)
    vector: bytes | None = None
    set_vector: bool = True
    keep: frozenset[str] = frozenset()
    expected: Expected | None = None


class Applied(Enum):
    """What a store did with one write."""

    DONE = "done"
    """It is stored (or, for a delete, the record is gone)."""
    EXISTS = "exists"
    """INSERT found the key; nothing changed."""
    NOT_FOUND = "not_found"
    """PATCH found no record, or DELETE had nothing to delete; nothing changed."""
    CHANGED = "changed"
    """What is stored is not as the write expected it (a PATCH of no record is NOT_FOUND); nothing
    changed."""
    PARENT_MISSING = "parent_missing"
    """The parent record is not there; nothing changed."""
    HAS_CHILDREN = "has_children"
    """DELETE of a parent that still has children; nothing changed."""
    REFUSED = "refused"
    """The store cannot hold this value (constraint, type); nothing changed. See `detail`."""
    ROLLED_BACK = "rolled_back"
    """Another write of the same atomic batch failed; nothing changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """The outcome of one write on one store; `record` is the full record after a PATCH."""

    applied: Applied
    detail: str = ""
    record: Record | None = None


def encode_key(key: Key) -> str:
    """Return the one text form of a key (compact JSON array) used by ledger, logs and reports.

    As `json.dumps(key, ensure_ascii=False, separators=(",", ":"))`, which makes an encoder for
    each key; a backfill encodes every key of a table.
    """
    parts = [encode_basestring(part) if isinstance(part, str) else str(part) for part in key]
    return f"[{','.join(parts)}]"


def decode_key(text: str) -> Key:
    """Return the key that `encode_key` wrote.

    Raises:
        ValueError: `text` is not a JSON array of strings and integers.
    """
    parts = json.loads(text)
    if not isinstance(parts, list) or not all(
        isinstance(part, str | int) and not isinstance(part, bool) for part in parts
    ):
        raise ValueError(f"not a key: {text[:80]!r}")
    return tuple(parts)
