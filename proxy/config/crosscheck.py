"""Checks what one part of the collections says about another: every problem, none raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.config.problems import did_you_mean
from proxy.config.source import Path, Source
from proxy.errors import Violation
from proxy.layouts import Column, ColumnKind, Layout, StoreSchema
from proxy.model import CollectionSpec, DefaultKind, FieldSpec, FieldType

_INDEX_DIM_MAX = {"vector": 2000, "halfvec": 4000}
"""pgvector 0.8: more dimensions than this cannot be indexed."""
_KEY_TYPES = (FieldType.TEXT, FieldType.INT)
_SIDES = ("old", "new")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the checks found."""

    problems: tuple[Violation, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSided:
    """A field that only one store holds: it does not survive where the other one answers."""

    collection: str
    field: str
    store: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Complaint:
    path: Path
    expected: str
    got: str = ""


def one_sided_fields(old: StoreSchema, new: StoreSchema) -> list[OneSided]:
    """Return the fields outside the key that exactly one store holds ("vector" included)."""
    found = []
    for name, spec in old.collections.items():
        left, right = (_held(schema.layouts[name], spec) for schema in (old, new))
        for item in [*(field.name for field in spec.value_fields), "vector"]:
            if (item in left) != (item in right):
                store = "old" if item in left else "new"
                found.append(OneSided(collection=name, field=item, store=store))
    return found


def _held(layout: Layout, spec: CollectionSpec) -> frozenset[str]:
    vector = any(column.kind is ColumnKind.VECTOR for column in layout.columns)
    stored = layout.stored_fields() - {"vector"}
    return stored | {"vector"} if vector and spec.vector is not None else stored


def check_collections(
    old: StoreSchema, new: StoreSchema, source: Source, broken: frozenset[str]
) -> Findings:
    """Check specs, then layouts, then each against the other.

    `broken` are collections that could not even be compiled: a reference to one is fine.
    """
    complaints: list[_Complaint] = []
    for name, spec in old.collections.items():
        complaints.extend(_spec(spec))
        complaints.extend(_parent(spec, old, broken))
        for side, schema in zip(_SIDES, (old, new), strict=True):
            complaints.extend(_layout(spec, schema.layouts[name], side))
        complaints.extend(_held_somewhere(spec, old.layouts[name], new.layouts[name]))
    for side, schema in zip(_SIDES, (old, new), strict=True):
        complaints.extend(_tables(schema, side))
    complaints.extend(_circles(old))
    problems = tuple(
        Violation(where=source.where(item.path), expected=item.expected, got=item.got)
        for item in complaints
    )
    warnings = tuple(
        f"{item.collection}.{item.field} is stored by the old store only: it is lost after new_only"
        for item in (one_sided_fields(old, new) if not problems else ())
        if item.store == "old"
    )
    return Findings(problems=problems, warnings=warnings)


def _unknown(path: Path, name: str, spec: CollectionSpec) -> _Complaint:
    hint = did_you_mean(name, list(spec.by_name))
    return _Complaint(path=path, expected=f"a field of {spec.name}{hint}", got=f'"{name}"')


def _spec(spec: CollectionSpec) -> Iterator[_Complaint]:
    at: Path = ("collections", spec.name)
    for name, count in Counter(spec.key).items():
        item = spec.by_name.get(name)
        if item is None:
            yield _unknown((*at, "key"), name, spec)
        elif count > 1:
            yield _Complaint(path=(*at, "key"), expected="each key field once", got=f'"{name}"')
        elif item.type not in _KEY_TYPES or item.generated or item.keep:
            expected = "key fields of type text or int, neither generated nor keep"
            yield _Complaint(path=(*at, "fields", name), expected=expected, got=item.type.value)
    for item in spec.fields:
        yield from _field(item, (*at, "fields", item.name))


def _field(item: FieldSpec, at: Path) -> Iterator[_Complaint]:
    if item.name == "vector":
        yield _Complaint(path=at, expected='another name ("vector" is the vector itself)')
    if item.type is not FieldType.TEXT and (item.length_max or item.choices):
        expected = "length_max and choices on a text field only"
        yield _Complaint(path=at, expected=expected, got=item.type.value)
    if item.generated and (item.required or item.keep or item.default is not DefaultKind.NONE):
        expected = "a generated field without required, keep or default (the store makes it)"
        yield _Complaint(path=at, expected=expected)


def _parent(
    spec: CollectionSpec, schema: StoreSchema, broken: frozenset[str]
) -> Iterator[_Complaint]:
    if spec.parent is None:
        return
    at: Path = ("collections", spec.name, "parent")
    parent = schema.collections.get(spec.parent.collection)
    if spec.parent.collection in broken:
        return  # That is reported already.
    if parent is None:
        hint = did_you_mean(spec.parent.collection, list(schema.collections))
        got = f'"{spec.parent.collection}"'
        yield _Complaint(path=(*at, "collection"), expected=f"a collection{hint}", got=got)
        return
    if len(spec.parent.fields) != len(parent.key):
        expected = f"one field for each of {parent.name}'s key ({', '.join(parent.key)})"
        yield _Complaint(path=(*at, "fields"), expected=expected, got=str(len(spec.parent.fields)))
        return
    for child_name, parent_name in zip(spec.parent.fields, parent.key, strict=True):
        child, above = spec.by_name.get(child_name), parent.by_name.get(parent_name)
        if child is None:
            yield _unknown((*at, "fields"), child_name, spec)
        elif above is not None and child.type is not above.type:
            expected = f'a field of type {above.type.value} for "{parent_name}"'
            got = f'"{child_name}" ({child.type.value})'
            yield _Complaint(path=(*at, "fields"), expected=expected, got=got)


def _circles(schema: StoreSchema) -> Iterator[_Complaint]:
    for name in schema.collections:
        trail = [name]
        spec: CollectionSpec | None = schema.collections[name]
        while (
            spec is not None and spec.parent is not None and len(trail) <= len(schema.collections)
        ):
            trail.append(spec.parent.collection)
            if spec.parent.collection == name:
                path: Path = ("collections", name, "parent")
                yield _Complaint(path=path, expected="no circle", got=" -> ".join(trail))
                break
            spec = schema.collections.get(spec.parent.collection)


def _layout(spec: CollectionSpec, layout: Layout, side: str) -> Iterator[_Complaint]:
    at: Path = ("collections", spec.name, side)
    for column in layout.columns:
        yield from _column(spec, column, (*at, "columns", column.name))
    yield from _coverage(spec, layout, at)
    yield from _sequences(spec, layout, at)
    vectors = [column.name for column in layout.columns if column.kind is ColumnKind.VECTOR]
    if len(vectors) > 1:
        yield _Complaint(
            path=(*at, "columns"), expected="one vector column", got=", ".join(vectors)
        )
    if layout.check_parent and spec.parent is None:
        expected = "a parent of the collection, or no check_parent"
        yield _Complaint(path=(*at, "check_parent"), expected=expected)
    if layout.index is not None:
        limit = _INDEX_DIM_MAX[layout.index.cast]
        if not vectors or spec.vector is None:
            expected = "an index only where a vector column is"
            yield _Complaint(path=(*at, "index"), expected=expected)
        elif spec.vector.dim > limit:
            expected = f"at most {limit} dimensions for an index with cast {layout.index.cast}"
            yield _Complaint(path=(*at, "index"), expected=expected, got=str(spec.vector.dim))


def _column(spec: CollectionSpec, column: Column, at: Path) -> Iterator[_Complaint]:
    named = [column.field, column.rest, *(item.field for item in column.packed)]
    for name in (*named, *column.lookup_match.values()):
        if name and name not in spec.by_name:
            yield _unknown(at, name, spec)
    if column.kind is ColumnKind.VECTOR and spec.vector is None:
        yield _Complaint(path=at, expected="a vector of the collection, or no vector column")
    if column.kind is ColumnKind.PARENT_ID and spec.parent is None:
        yield _Complaint(path=at, expected="a parent of the collection, or no parent_id")
    rest = spec.by_name.get(column.rest)
    if rest is not None and rest.type is not FieldType.JSON:
        yield _Complaint(path=at, expected="rest as a json field", got=rest.type.value)
    field = spec.by_name.get(column.field)
    if column.naive_utc and (field is None or field.type is not FieldType.TIMESTAMP):
        yield _Complaint(path=at, expected="naive_utc on a timestamp field only")


def _coverage(spec: CollectionSpec, layout: Layout, at: Path) -> Iterator[_Complaint]:
    """The key is all there, and no field lies in two places (but for packed copies of the key)."""
    columns = Counter(column.field for column in layout.columns if column.field)
    packed = Counter(item.field for column in layout.columns for item in column.packed)
    rests = Counter(column.rest for column in layout.columns if column.rest)
    for name in spec.key:
        if name in spec.by_name and not columns[name] and name not in layout.constants:
            expected = f'a column or a constant for the key field "{name}"'
            yield _Complaint(path=(*at, "columns"), expected=expected, got="none")
    for name in spec.by_name:
        places = columns[name] + rests[name] + (name in layout.constants)
        places += 0 if name in spec.key and places else packed[name]
        if places > 1:
            expected = f'one place for "{name}"'
            yield _Complaint(path=(*at, "columns"), expected=expected, got=f"{places}")


def _sequences(spec: CollectionSpec, layout: Layout, at: Path) -> Iterator[_Complaint]:
    for name in layout.sequences:
        item = spec.by_name.get(name)
        if item is None:
            yield _unknown((*at, "sequences"), name, spec)
        elif item.default is not DefaultKind.SEQUENCE:
            expected = f'"default: sequence" of the field "{name}"'
            yield _Complaint(path=(*at, "sequences", name), expected=expected)
    for item in spec.fields:
        if item.default is DefaultKind.SEQUENCE and item.name not in layout.sequences:
            expected = f'a sequence for "{item.name}" (either store may have to allocate it)'
            yield _Complaint(path=(*at, "sequences"), expected=expected, got="none")


def _held_somewhere(spec: CollectionSpec, old: Layout, new: Layout) -> Iterator[_Complaint]:
    held = _held(old, spec) | _held(new, spec)
    for item in spec.fields:
        if item.name not in held:
            expected = "a column of at least one store for this field"
            path: Path = ("collections", spec.name, "fields", item.name)
            yield _Complaint(path=path, expected=expected, got="none")
    if spec.vector is not None and "vector" not in held:
        path = ("collections", spec.name, "vector")
        yield _Complaint(path=path, expected="a vector column in at least one store", got="none")


def _tables(schema: StoreSchema, side: str) -> Iterator[_Complaint]:
    seen: dict[str, str] = {}
    for name, layout in schema.layouts.items():
        table = layout.table.removeprefix("public.")
        if table in seen:
            expected = f"a table of its own ({seen[table]} has it)"
            path: Path = ("collections", name, side, "table")
            yield _Complaint(path=path, expected=expected, got=f'"{layout.table}"')
        seen.setdefault(table, name)
