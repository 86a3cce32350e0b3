"""Checks the vectors of the two stores against each other, and the fields of texts and keywords."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config.problems import Complaint, unknown_field
from proxy.config.source import Path
from proxy.layouts import StoreSchema
from proxy.model import CollectionSpec, FieldType, VectorSpec
from proxy.vectors import VectorPath, same_space, vector_path


def check_keyword(spec: CollectionSpec, in_both: frozenset[str]) -> Iterator[Complaint]:
    """Yield what is wrong with the fields of keyword search."""
    if spec.keyword is None:
        return
    at: Path = ("collections", spec.name, "keyword", "fields")
    for number, name in enumerate(spec.keyword.fields):
        item = spec.by_name.get(name)
        if item is None:
            yield unknown_field((*at, number), name, spec)
        elif item.type is not FieldType.TEXT:
            got = f'"{name}" ({item.type.value})'
            yield Complaint(path=(*at, number), expected="a text field", got=got)
        elif name not in in_both:
            expected = "a field that both stores hold (either may be searched)"
            yield Complaint(path=(*at, number), expected=expected, got=f'"{name}"')
        elif name in spec.keyword.fields[:number]:
            yield Complaint(path=(*at, number), expected="each field once", got=f'"{name}"')


def check_vectors(old: StoreSchema, new: StoreSchema, name: str) -> Iterator[Complaint]:
    """Yield what is wrong with a collection's vectors: how each store gets its own."""
    for schema in (old, new):
        yield from _template(old, new, schema.collections[name])
    left, right = old.collections[name].vector, new.collections[name].vector
    if left is None or right is None:
        return
    at: Path = ("collections", name, "new")
    if same_space(left, right) and left.metric is not right.metric:
        expected = f"{left.metric.value}, as in the old store: both hold the same vectors"
        yield Complaint(path=(*at, "vector", "metric"), expected=expected, got=right.metric.value)
    if vector_path(left, right) is VectorPath.MISSING:
        expected = f"an embedding, or the old store's vectors ({_described(left)})"
        yield Complaint(path=(*at, "vector"), expected=expected, got=_described(right))
    elif vector_path(right, left) is VectorPath.MISSING and left.required:
        expected = "vectors that may be null: nobody can make them for this store any more"
        path: Path = ("collections", name, "old", "vector", "required")
        yield Complaint(path=path, expected=expected, got="required")


def _template(old: StoreSchema, new: StoreSchema, spec: CollectionSpec) -> Iterator[Complaint]:
    """A text must be the same whichever store the record is read from."""
    if spec.vector is None or spec.vector.embedding is None:
        return
    name = spec.name
    side = "old" if spec is old.collections[name] else "new"
    other = (new if side == "old" else old).collections[name]
    shared = other.vector is not None and other.vector.embedding == spec.vector.embedding
    at: Path = ("collections", name, *(() if shared else (side,)), "embedding", "template")
    for item in spec.vector.embedding.fields:
        field = spec.by_name.get(item)
        if field is None:
            yield unknown_field(at, item, spec)
        elif field.generated:
            expected = "fields that writers give, none that a store makes"
            yield Complaint(path=at, expected=expected, got=f'"{item}"')
        elif field.type is FieldType.JSON:
            expected = "fields of any type but json (its text is not the same in every store)"
            yield Complaint(path=at, expected=expected, got=f'"{item}"')
        elif not all(item in s.layouts[name].stored_fields() for s in (old, new)):
            expected = "fields that both stores hold (the text must be the same from either)"
            yield Complaint(path=at, expected=expected, got=f'"{item}"')


def warn_vectors(old: StoreSchema, new: StoreSchema) -> Iterator[str]:
    """Yield what a rollback would lose because no vector leads back to the old store."""
    for name, spec in old.collections.items():
        left, right = spec.vector, new.collections[name].vector
        if left is None or right is None:
            continue
        if vector_path(right, left) is VectorPath.MISSING:
            yield (
                f"{name}: vectors for the old store ({_described(left)}) can be made by nobody:"
                " clients may not give them once the stores differ. Records written through"
                " Crossfade get none there and changed ones keep a stale one, so a rollback loses"
                f" vector search over them; give {name}.old an embedding to avoid it"
            )


def _described(vector: VectorSpec) -> str:
    how = f"by {vector.embedding.model}" if vector.embedding else "given by writers"
    return f"{vector.dim} dimensions, {how}"
