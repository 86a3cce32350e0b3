"""Compiles the `collections:` section into collection specs and the two stores' schemas."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from proxy.config.crosscheck import check_collections
from proxy.config.engines import LANCEDB, engines_of, index_method
from proxy.config.problems import from_pydantic
from proxy.config.shape import (
    CollectionShape,
    CollectionsShape,
    ColumnShape,
    EmbeddingShape,
    FieldShape,
    IndexShape,
    LayoutShape,
)
from proxy.config.source import Path, Source
from proxy.errors import Violation
from proxy.layouts import Column, ColumnKind, IndexSpec, Layout, Packed, StoreSchema
from proxy.model import (
    CollectionSpec,
    DefaultKind,
    EmbeddingSpec,
    FieldSpec,
    FieldType,
    KeywordSpec,
    ParentSpec,
    Value,
    VectorSpec,
)
from proxy.vectors import same_space, template_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The two schemas, or what is wrong; `old` and `new` are empty when there are problems.

    `collections` are the specs that clients see.
    """

    old: StoreSchema
    new: StoreSchema
    collections: Mapping[str, CollectionSpec] = field(default_factory=dict)
    problems: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Compiler:
    source: Source
    engines: Mapping[str, str]
    problems: list[Violation] = field(default_factory=list)

    def complain(self, path: Path, expected: str, got: str = "") -> None:
        self.problems.append(Violation(where=self.source.where(path), expected=expected, got=got))

    def spec(self, name: str, shape: CollectionShape) -> CollectionSpec:
        at: Path = ("collections", name)
        fields = tuple(
            self.field_spec(item, given, (*at, "fields", item), is_key=item in shape.key)
            for item, given in shape.fields.items()
        )
        parent = keyword = None
        if shape.parent is not None:
            parent = ParentSpec(collection=shape.parent.collection, fields=shape.parent.fields)
        if shape.keyword is not None:
            keyword = KeywordSpec(fields=shape.keyword.fields, language=shape.keyword.language)
        return CollectionSpec(
            name=name, key=shape.key, fields=fields, parent=parent, keyword=keyword
        )

    def sides(self, spec: CollectionSpec, shape: CollectionShape) -> dict[str, CollectionSpec]:
        """Return the spec as each store sees it, with its own vector."""
        old, new = (self.vector(spec.name, side, shape) for side in ("old", "new"))
        if old is None and new is None:
            self.unheld(spec.name, shape)
        elif old is not None and new is not None and not same_space(old, new):
            old, new = replace(old, given=False), replace(new, given=False)
        return {"old": replace(spec, vector=old), "new": replace(spec, vector=new)}

    def unheld(self, name: str, shape: CollectionShape) -> None:
        """Complain about vectors that no store holds."""
        for item, given in (("vector", shape.vector), ("embedding", shape.embedding)):
            if given is not None:
                at: Path = ("collections", name, item)
                self.complain(at, "a vector column in at least one store", "none")

    def vector(self, name: str, side: str, shape: CollectionShape) -> VectorSpec | None:
        """Return what one store holds: the collection's vector, but for what the side says."""
        layout = shape.old if side == "old" else shape.new
        common, own, at = shape.vector, layout.vector, ("collections", name, side)
        if not any(column.vector for column in layout.columns.values()):
            for item, given in (("vector", own), ("embedding", layout.embedding)):
                if given is not None:
                    self.complain((*at, item), "a vector column in this store", "none")
            return None
        merged = {
            **(common.model_dump() if common is not None else {}),
            **(own.model_dump(exclude_none=True) if own is not None else {}),
        }
        if "dim" not in merged:
            return None  # `crosscheck` complains about the vector column.
        if "embedding" in layout.model_fields_set:
            embedding = self.embedding(layout.embedding, (*at, "embedding"))
        else:
            embedding = self.embedding(shape.embedding, ("collections", name, "embedding"))
        return VectorSpec(**merged, embedding=embedding)

    def embedding(self, shape: EmbeddingShape | None, at: Path) -> EmbeddingSpec | None:
        if shape is None:
            return None
        fields: tuple[str, ...] = ()
        try:
            fields = template_fields(shape.template)
        except ValueError as error:
            expected = "a text with the names of fields in it, each as {name}"
            self.complain((*at, "template"), expected, f"{shape.template!r} ({error})")
        return EmbeddingSpec(model=shape.model, template=shape.template, fields=fields)

    def field_spec(self, name: str, shape: FieldShape, at: Path, *, is_key: bool) -> FieldSpec:
        kind, constant = self.default(shape, (*at, "default"))
        return FieldSpec(
            name=name,
            type=shape.type,
            required=shape.required or (is_key and kind is DefaultKind.NONE),
            default=kind,
            constant=constant,
            keep=shape.keep,
            length_max=shape.length_max,
            choices=shape.choices,
            generated=shape.generated,
        )

    def default(self, shape: FieldShape, at: Path) -> tuple[DefaultKind, Value]:
        if shape.default is None:
            return DefaultKind.NONE, None
        if shape.default == "now" and shape.type is FieldType.TIMESTAMP:
            return DefaultKind.NOW, None
        if shape.default == "sequence" and shape.type is FieldType.INT:
            return DefaultKind.SEQUENCE, None
        constant = self.constant(shape.type, shape.default, at)
        if shape.choices and constant not in shape.choices:
            self.complain(at, f"one of {', '.join(shape.choices)}", repr(shape.default))
        return DefaultKind.CONSTANT, constant

    def constant(self, kind: FieldType, value: object, at: Path) -> Value:
        """Return the value as the field's type, or complain."""
        extra = {FieldType.TIMESTAMP: ' or "now"', FieldType.INT: ' or "sequence"'}.get(kind, "")
        try:
            return _typed(kind, value)
        except ValueError:
            self.complain(at, f"a {kind.value} value{extra}", repr(value))
            return None

    def layout(self, name: str, side: str, shape: LayoutShape, spec: CollectionSpec) -> Layout:
        at: Path = ("collections", name, side)
        columns = tuple(
            self.column(column, given, (*at, "columns", column))
            for column, given in shape.columns.items()
        )
        constants = {
            item: self.constant(spec.by_name[item].type, value, (*at, "constants", item))
            for item, value in shape.constants.items()
            if item in spec.by_name
        }
        for item in shape.constants.keys() - spec.by_name.keys():
            self.complain((*at, "constants", item), "a field of the collection", repr(item))
        return Layout(
            collection=name,
            table=shape.table,
            columns=columns,
            constants=constants,
            sequences=dict(shape.sequences),
            check_parent=shape.check_parent,
            index=self.index(shape.index, (*at, "index"), self.engines[side]),
        )

    def index(self, shape: IndexShape | None, at: Path, engine: str) -> IndexSpec | None:
        if shape is None:
            return None
        if shape.cast is not None and engine == LANCEDB:
            self.complain((*at, "cast"), "no cast (it is pgvector's)", shape.cast)
        given = shape.model_dump(exclude_none=True)
        return IndexSpec(**{"method": index_method(engine), **given})

    def column(self, name: str, shape: ColumnShape, at: Path) -> Column:
        packs = shape.packed is not None or shape.rest is not None
        kinds = {
            ColumnKind.FIELD: shape.field is not None,
            ColumnKind.VECTOR: shape.vector,
            ColumnKind.PACKED: packs,
            ColumnKind.PARENT_ID: shape.parent_id is not None,
        }
        chosen = [kind for kind, given in kinds.items() if given]
        if len(chosen) != 1:
            expected = (
                "exactly one of field, vector: true, packed (with or without rest), parent_id"
            )
            self.complain(at, expected, ", ".join(kind.value for kind in chosen) or "none of them")
        lookup = shape.parent_id
        return Column(
            name=name,
            kind=chosen[0] if chosen else ColumnKind.FIELD,
            field=shape.field or "",
            type=shape.type,
            naive_utc=shape.naive_utc,
            packed=tuple(
                Packed(field=logical, name=packed)
                for packed, logical in (shape.packed or {}).items()
            ),
            rest=shape.rest or "",
            lookup_table=lookup.table if lookup else "",
            lookup_id=lookup.id if lookup else "id",
            lookup_match=dict(lookup.match) if lookup else {},
        )


def _typed(kind: FieldType, value: object) -> Value:
    """Return `value` as a value of this type. Raises ValueError."""
    typed: Value = None
    if kind is FieldType.TIMESTAMP and isinstance(value, str):
        moment = dt.datetime.fromisoformat(value)
        typed = moment.replace(tzinfo=moment.tzinfo or dt.UTC).astimezone(dt.UTC)
    elif kind is FieldType.JSON and isinstance(value, Mapping | list):
        typed = value
    elif kind is FieldType.TEXT_LIST and isinstance(value, list):
        typed = value if all(isinstance(item, str) for item in value) else None
    elif isinstance(value, bool):
        typed = value if kind is FieldType.BOOL else None
    elif kind is FieldType.FLOAT and isinstance(value, int | float):
        typed = float(value)
    elif (kind is FieldType.TEXT and isinstance(value, str)) or (
        kind is FieldType.INT and isinstance(value, int)
    ):
        typed = value
    if typed is None:
        raise ValueError(f"not a {kind.value}")
    return typed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shapes:
    """The collections whose shape is right, the names of the others, and what is wrong."""

    good: dict[str, CollectionShape]
    broken: frozenset[str]
    problems: tuple[Violation, ...]


def _shapes(source: Source) -> _Shapes:
    """Validate each collection on its own, so that one broken shape hides no other's problems."""
    data = source.data if isinstance(source.data, Mapping) else {}
    given = data.get("collections") or {}
    if not isinstance(given, Mapping) or not given:
        expected = "a mapping of collections, or a preset"
        got = type(given).__name__ if given else "none"
        problem = Violation(where=source.where(("collections",)), expected=expected, got=got)
        return _Shapes(good={}, broken=frozenset(), problems=(problem,))
    good: dict[str, CollectionShape] = {}
    problems: list[Violation] = []
    for name, value in given.items():
        try:
            good.update(CollectionsShape.model_validate({"collections": {name: value}}).collections)
        except ValidationError as error:
            problems.extend(from_pydantic(error, source, CollectionsShape))
    broken = frozenset(given) - frozenset(good)
    return _Shapes(good=good, broken=broken, problems=tuple(problems))


def compile_schema(source: Source) -> Compiled:
    """Compile `source.data["collections"]`; every problem has its file and line."""
    shapes = _shapes(source)
    compiler = _Compiler(source=source, engines=engines_of(source.data))
    specs: dict[str, dict[str, CollectionSpec]] = {"old": {}, "new": {}}
    layouts: dict[str, dict[str, Layout]] = {"old": {}, "new": {}}
    for name, given in shapes.good.items():
        spec = compiler.spec(name, given)
        sides = compiler.sides(spec, given)
        for side, layout in (("old", given.old), ("new", given.new)):
            specs[side][name] = sides[side]
            layouts[side][name] = compiler.layout(name, side, layout, spec)
    old = StoreSchema(collections=specs["old"], layouts=layouts["old"])
    new = StoreSchema(collections=specs["new"], layouts=layouts["new"])
    found = check_collections(old, new, source, engines=compiler.engines, broken=shapes.broken)
    all_problems = (*shapes.problems, *compiler.problems, *found.problems)
    if all_problems:
        nothing = StoreSchema(collections={}, layouts={})
        return Compiled(old=nothing, new=nothing, problems=all_problems)
    clients = {name: client_spec(spec, specs["new"][name]) for name, spec in specs["old"].items()}
    return Compiled(old=old, new=new, collections=clients, warnings=found.warnings)


def client_spec(old: CollectionSpec, new: CollectionSpec) -> CollectionSpec:
    """Return what clients see of a collection: its vector is the one that both stores share.

    Where one store alone has vectors it is that one's; where they differ, no client can give any
    (`VectorSpec.given`), and the spec says what the old store holds.
    """
    left, right = old.vector, new.vector
    if left is None or right is None:
        return old if left is not None else new
    embedding = left.embedding or right.embedding
    required = left.required or right.required
    return replace(old, vector=replace(left, embedding=embedding, required=required))
