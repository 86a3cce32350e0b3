"""What text the vector of a write is made of: the write's own, or that of the record it changes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from proxy.model import (
    CollectionSpec,
    DefaultKind,
    EmbeddingSpec,
    Expected,
    Key,
    Value,
    Write,
    WriteOp,
)


class Need(Enum):
    """What one store needs for its vector of a write."""

    NOTHING = "nothing"
    """The write says all about the vector, or the store embeds none."""
    KEPT = "kept"
    """The text stays as it is, and so does the stored vector."""
    WHOLE = "whole"
    """A vector of the text that the write gives."""
    MERGED = "merged"
    """A vector of a text of which the stored record has a part."""


def need(spec: CollectionSpec, write: Write) -> Need:
    """Return what a store needs for a write, given the collection as that store holds it."""
    vector = spec.vector
    if vector is None or vector.embedding is None or _brings_vector(write):
        return Need.NOTHING
    if write.op is WriteOp.INSERT:
        return Need.WHOLE
    given, left_out = _given(spec, vector.embedding, write)
    if given:
        return Need.MERGED if left_out else Need.WHOLE
    born_with_text = write.op is WriteOp.UPSERT and any(
        name in spec.key or spec.by_name[name].default is not DefaultKind.NONE
        for name in vector.embedding.fields
    )
    return Need.MERGED if born_with_text else Need.KEPT


def _brings_vector(write: Write) -> bool:
    """True if the writer says what the vector is to be (null too, in a patch)."""
    cleared = write.op is WriteOp.PATCH and write.set_vector
    return write.op is WriteOp.DELETE or write.vector is not None or cleared


def _given(
    spec: CollectionSpec, embedding: EmbeddingSpec, write: Write
) -> tuple[list[str], list[str]]:
    """Return the template's fields that the write gives, and those that it leaves out."""
    changing = [name for name in embedding.fields if name not in spec.key]
    given = [name for name in changing if name in write.fields and name not in write.keep]
    return given, [name for name in changing if name not in given]


def gives_text(spec: CollectionSpec, write: Write) -> bool:
    """True if the write gives a field of the store's template."""
    embedding = spec.vector.embedding if spec.vector is not None else None
    return embedding is not None and bool(_given(spec, embedding, write)[0])


def expected(spec: CollectionSpec, write: Write, stored: Mapping[str, Value] | None) -> Expected:
    """Return what must be stored still for the text of MERGED to be that of the record.

    Args:
        stored: the values that were read, None if there was no record.
    """
    embedding = spec.vector.embedding if spec.vector is not None else None
    if stored is None or embedding is None:
        return Expected()
    given, left_out = _given(spec, embedding, write)
    # An upsert that gives no text keeps the vector of whatever record there is.
    return Expected(fields={name: stored.get(name) for name in left_out if given})


def decided(spec: CollectionSpec, embedding: EmbeddingSpec, write: Write) -> bool:
    """True if the text of a write as a client gave it needs no default and no allocated key."""
    for name in embedding.fields:
        if name in spec.key:
            if not write.key:
                return False
        elif name not in write.fields and spec.by_name[name].default is not DefaultKind.NONE:
            return False
    return True


def values_of(spec: CollectionSpec, key: Key, *fields: Mapping[str, Value]) -> dict[str, Value]:
    """Return a record's values by name, those of its key too; later `fields` win."""
    values: dict[str, Value] = dict(zip(spec.key, key, strict=True)) if key else {}
    for some in fields:
        values.update(some)
    return values


def after(
    spec: CollectionSpec, write: Write, stored: Mapping[str, Value] | None
) -> dict[str, Value] | None:
    """Return the values of the record after a write; None: there is no record then.

    Args:
        stored: the values before it, None if there is no record.
    """
    if write.op is WriteOp.DELETE or (write.op is WriteOp.PATCH and stored is None):
        return None
    if stored is None:
        return values_of(spec, write.key, write.fields)
    if write.op is WriteOp.INSERT:
        return dict(stored)
    given = {name: value for name, value in write.fields.items() if name not in write.keep}
    return values_of(spec, write.key, stored, given)
