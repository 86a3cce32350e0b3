"""Checks what one part of the collections says about another: every problem, none raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proxy.config.crosscheck_vectors import check_keyword, check_vectors, warn_vectors
from proxy.config.engines import check_engine
from proxy.config.problems import Complaint, did_you_mean, unknown_field
from proxy.config.source import Path, Source
from proxy.errors import Violation
from proxy.layouts import Column, ColumnKind, Layout, StoreSchema
from proxy.model import CollectionSpec, DefaultKind, FieldSpec, FieldType

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


def one_sided_fields(old: StoreSchema, new: StoreSchema) -> list[OneSided]:
    """Return the fields outside the key that exactly one store holds ("vector" included)."""
    found = []
    for name, spec in old.collections.items():
        left, right = (
            held(schema.layouts[name], schema.collections[name]) for schema in (old, new)
        )
        for item in [*(field.name for field in spec.value_fields), "vector"]:
            if (item in left) != (item in right):
                store = "old" if item in left else "new"
                found.append(OneSided(collection=name, field=item, store=store))
    return found


def held(layout: Layout, spec: CollectionSpec) -> frozenset[str]:
    """Return the fields that a store holds, "vector" included."""
    vector = any(column.kind is ColumnKind.VECTOR for column in layout.columns)
    stored = layout.stored_fields() - {"vector"}
    return stored | {"vector"} if vector and spec.vector is not None else stored


def check_collections(
    old: StoreSchema,
    new: StoreSchema,
    source: Source,
    *,
    engines: Mapping[str, str],
    broken: frozenset[str],
) -> Findings:
    """Check specs, then layouts, then each against the other.

    Args:
        engines: by side; an engine that is not known has no rules of its own.
        broken: collections that could not even be compiled: a reference to one is fine.
    """
    complaints: list[Complaint] = []
    for name, spec in old.collections.items():
        complaints.extend(_spec(spec))
        complaints.extend(_parent(spec, old, broken))
        for side, schema in zip(_SIDES, (old, new), strict=True):
            own, layout = schema.collections[name], schema.layouts[name]
            complaints.extend(_layout(own, layout, side))
            complaints.extend(check_engine(own, layout, side, engines.get(side, "")))
        complaints.extend(_held_somewhere(old, new, name))
        complaints.extend(check_keyword(spec, held_by_both(old, new, name)))
        complaints.extend(check_vectors(old, new, name))
    for side, schema in zip(_SIDES, (old, new), strict=True):
        complaints.extend(_tables(schema, side))
    complaints.extend(_circles(old))
    problems = tuple(
        Violation(where=source.where(item.path), expected=item.expected, got=item.got)
        for item in complaints
    )
    if problems:
        return Findings(problems=problems, warnings=())
    lost = tuple(
        f"{item.collection}.{item.field} is stored by the old store only: it is lost after new_only"
        for item in one_sided_fields(old, new)
        if item.store == "old"
    )
    return Findings(problems=(), warnings=(*lost, *warn_vectors(old, new)))


def held_by_both(old: StoreSchema, new: StoreSchema, name: str) -> frozenset[str]:
    """Return the fields of a collection that both stores hold."""
    left, right = (held(schema.layouts[name], schema.collections[name]) for schema in (old, new))
    return left & right


def _spec(spec: CollectionSpec) -> Iterator[Complaint]:
    at: Path = ("collections", spec.name)
    for name, count in Counter(spec.key).items():
        item = spec.by_name.get(name)
        if item is None:
            yield unknown_field((*at, "key"), name, spec)
        elif count > 1:
            yield Complaint(path=(*at, "key"), expected="each key field once", got=f'"{name}"')
        elif item.type not in _KEY_TYPES or item.generated or item.keep:
            expected = "key fields of type text or int, neither generated nor keep"
            yield Complaint(path=(*at, "fields", name), expected=expected, got=item.type.value)
    for item in spec.fields:
        yield from _field(item, (*at, "fields", item.name))


def _field(item: FieldSpec, at: Path) -> Iterator[Complaint]:
    if item.name == "vector":
        yield Complaint(path=at, expected='another name ("vector" is the vector itself)')
    if item.type is not FieldType.TEXT and (item.length_max or item.choices):
        expected = "length_max and choices on a text field only"
        yield Complaint(path=at, expected=expected, got=item.type.value)
    if item.generated and (item.required or item.keep or item.default is not DefaultKind.NONE):
        expected = "a generated field without required, keep or default (the store makes it)"
        yield Complaint(path=at, expected=expected)


def _parent(
    spec: CollectionSpec, schema: StoreSchema, broken: frozenset[str]
) -> Iterator[Complaint]:
    if spec.parent is None:
        return
    at: Path = ("collections", spec.name, "parent")
    parent = schema.collections.get(spec.parent.collection)
    if spec.parent.collection in broken:
        return  # That is reported already.
    if parent is None:
        hint = did_you_mean(spec.parent.collection, list(schema.collections))
        got = f'"{spec.parent.collection}"'
        yield Complaint(path=(*at, "collection"), expected=f"a collection{hint}", got=got)
        return
    if len(spec.parent.fields) != len(parent.key):
        expected = f"one field for each of {parent.name}'s key ({', '.join(parent.key)})"
        yield Complaint(path=(*at, "fields"), expected=expected, got=str(len(spec.parent.fields)))
        return
    for child_name, parent_name in zip(spec.parent.fields, parent.key, strict=True):
        child, above = spec.by_name.get(child_name), parent.by_name.get(parent_name)
        if child is None:
            yield unknown_field((*at, "fields"), child_name, spec)
        elif above is not None and child.type is not above.type:
            expected = f'a field of type {above.type.value} for "{parent_name}"'
            got = f'"{child_name}" ({child.type.value})'
            yield Complaint(path=(*at, "fields"), expected=expected, got=got)


def _circles(schema: StoreSchema) -> Iterator[Complaint]:
    for name in schema.collections:
        trail = [name]
        spec: CollectionSpec | None = schema.collections[name]
        while (
            spec is not None and spec.parent is not None and len(trail) <= len(schema.collections)
        ):
            trail.append(spec.parent.collection)
            if spec.parent.collection == name:
                path: Path = ("collections", name, "parent")
                yield Complaint(path=path, expected="no circle", got=" -> ".join(trail))
                break
            spec = schema.collections.get(spec.parent.collection)


def _layout(spec: CollectionSpec, layout: Layout, side: str) -> Iterator[Complaint]:
    at: Path = ("collections", spec.name, side)
    for column in layout.columns:
        yield from _column(spec, column, (*at, "columns", column.name))
    yield from _coverage(spec, layout, at)
    yield from _sequences(spec, layout, at)
    vectors = [column.name for column in layout.columns if column.kind is ColumnKind.VECTOR]
    if len(vectors) > 1:
        yield Complaint(path=(*at, "columns"), expected="one vector column", got=", ".join(vectors))
    if layout.check_parent and spec.parent is None:
        expected = "a parent of the collection, or no check_parent"
        yield Complaint(path=(*at, "check_parent"), expected=expected)
    if layout.index is not None and (not vectors or spec.vector is None):
        expected = "an index only where a vector column is"
        yield Complaint(path=(*at, "index"), expected=expected)


def _column(spec: CollectionSpec, column: Column, at: Path) -> Iterator[Complaint]:
    named = [column.field, column.rest, *(item.field for item in column.packed)]
    for name in (*named, *column.lookup_match.values()):
        if name and name not in spec.by_name:
            yield unknown_field(at, name, spec)
    if column.kind is ColumnKind.VECTOR and spec.vector is None:
        yield Complaint(path=at, expected="a vector of the collection, or no vector column")
    if column.kind is ColumnKind.PARENT_ID and spec.parent is None:
        yield Complaint(path=at, expected="a parent of the collection, or no parent_id")
    rest = spec.by_name.get(column.rest)
    if rest is not None and rest.type is not FieldType.JSON:
        yield Complaint(path=at, expected="rest as a json field", got=rest.type.value)
    field = spec.by_name.get(column.field)
    if column.naive_utc and (field is None or field.type is not FieldType.TIMESTAMP):
        yield Complaint(path=at, expected="naive_utc on a timestamp field only")


def _coverage(spec: CollectionSpec, layout: Layout, at: Path) -> Iterator[Complaint]:
    """The key is all there, and no field lies in two places (but for packed copies of the key)."""
    columns = Counter(column.field for column in layout.columns if column.field)
    packed = Counter(item.field for column in layout.columns for item in column.packed)
    rests = Counter(column.rest for column in layout.columns if column.rest)
    for name in spec.key:
        if name in spec.by_name and not columns[name] and name not in layout.constants:
            expected = f'a column or a constant for the key field "{name}"'
            yield Complaint(path=(*at, "columns"), expected=expected, got="none")
    for name in spec.by_name:
        places = columns[name] + rests[name] + (name in layout.constants)
        places += 0 if name in spec.key and places else packed[name]
        if places > 1:
            expected = f'one place for "{name}"'
            found = ", ".join(_places(layout, name))
            got = f"{places} ({found}; null removes a column of the preset)"
            yield Complaint(path=(*at, "columns"), expected=expected, got=got)


def _places(layout: Layout, name: str) -> list[str]:
    """Return where a field lies: columns by name, and the constants."""
    columns = [
        column.name
        for column in layout.columns
        if name in (column.field, column.rest, *(item.field for item in column.packed))
    ]
    return [*columns, "constants"] if name in layout.constants else columns


def _sequences(spec: CollectionSpec, layout: Layout, at: Path) -> Iterator[Complaint]:
    for name in layout.sequences:
        item = spec.by_name.get(name)
        if item is None:
            yield unknown_field((*at, "sequences"), name, spec)
        elif item.default is not DefaultKind.SEQUENCE:
            expected = f'"default: sequence" of the field "{name}"'
            yield Complaint(path=(*at, "sequences", name), expected=expected)
    for item in spec.fields:
        if item.default is DefaultKind.SEQUENCE and item.name not in layout.sequences:
            expected = f'a sequence for "{item.name}" (either store may have to allocate it)'
            yield Complaint(path=(*at, "sequences"), expected=expected, got="none")


def _held_somewhere(old: StoreSchema, new: StoreSchema, name: str) -> Iterator[Complaint]:
    spec = old.collections[name]
    found = held(old.layouts[name], spec) | held(new.layouts[name], new.collections[name])
    for item in spec.fields:
        if item.name not in found:
            expected = "a column of at least one store for this field"
            path: Path = ("collections", name, "fields", item.name)
            yield Complaint(path=path, expected=expected, got="none")


def _tables(schema: StoreSchema, side: str) -> Iterator[Complaint]:
    seen: dict[str, str] = {}
    for name, layout in schema.layouts.items():
        table = layout.table.removeprefix("public.")
        if table in seen:
            expected = f"a table of its own ({seen[table]} has it)"
            path: Path = ("collections", name, side, "table")
            yield Complaint(path=path, expected=expected, got=f'"{layout.table}"')
        seen.setdefault(table, name)
