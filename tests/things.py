"""A collection with every kind of field, in a column of its own and packed, and random records."""

from __future__ import annotations

import datetime as dt
import struct
from typing import Any

import psycopg
from hypothesis import strategies as st

from proxy.layouts import Column, ColumnKind, Layout, Packed, StoreSchema
from proxy.model import (
    CollectionSpec,
    FieldSpec,
    FieldType,
    Metric,
    Value,
    VectorSpec,
    Write,
    WriteOp,
)
from proxy.query import (
    And,
    Compare,
    CompareOp,
    ContainsAny,
    Filter,
    In,
    IsNull,
    JsonEquals,
    Like,
    Not,
    Or,
)

DIM = 4
TYPES = {
    "text": FieldType.TEXT,
    "int": FieldType.INT,
    "float": FieldType.FLOAT,
    "bool": FieldType.BOOL,
    "when": FieldType.TIMESTAMP,
    "list": FieldType.TEXT_LIST,
    "json": FieldType.JSON,
}
_DDL = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE things (
    kind text NOT NULL, num int8 NOT NULL, "the text" text, "int" int8, "float" float8,
    "bool" bool, "when" timestamptz, naive timestamp, "list" text[], "json" jsonb,
    extra jsonb, v vector(4), UNIQUE (kind, num)
)
"""


def schema(metric: Metric = Metric.COSINE) -> StoreSchema:
    """Return the collection "things": each type as a column, as a packed name, and a rest."""
    fields = [
        FieldSpec(name="kind", type=FieldType.TEXT),
        FieldSpec(name="num", type=FieldType.INT),
        FieldSpec(name="naive", type=FieldType.TIMESTAMP),
        FieldSpec(name="rest", type=FieldType.JSON),
    ]
    columns = [
        Column(name="kind", field="kind"),
        Column(name="num", field="num"),
        Column(name="naive", field="naive", naive_utc=True),
        Column(name="v", kind=ColumnKind.VECTOR),
    ]
    for name, kind in TYPES.items():
        fields += [FieldSpec(name=name, type=kind), FieldSpec(name=f"p_{name}", type=kind)]
        columns.append(Column(name="the text" if name == "text" else name, field=name))
    packed = tuple(Packed(field=f"p_{name}", name=f"it's {name}") for name in TYPES)
    columns.append(Column(name="extra", kind=ColumnKind.PACKED, packed=packed, rest="rest"))
    spec = CollectionSpec(
        name="things",
        key=("kind", "num"),
        fields=tuple(fields),
        vector=VectorSpec(dim=DIM, metric=metric),
    )
    layout = Layout(collection="things", table="public.things", columns=tuple(columns))
    return StoreSchema(collections={"things": spec}, layouts={"things": layout})


def create(dsn: str) -> None:
    """Create the table in an empty database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_DDL)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
words = st.sampled_from(["", "a", "A", "b", "ab", "ä", "z", "日", "%", "_", "\\", "'", "$1", "é"])
any_text = words | texts
ints = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
packable_floats = finite.map(lambda value: value or 0.0)  # JSON has no negative zero
times = st.datetimes(
    dt.datetime(1900, 1, 1),  # noqa: DTZ001  # the strategy adds the zone
    dt.datetime(2200, 1, 1),  # noqa: DTZ001  # as above
    timezones=st.just(dt.UTC),
) | st.sampled_from([dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2, 3)])
lists = st.lists(any_text, max_size=3)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.sampled_from([0, 1, 1.0, 1.5, "a"])
    | finite
    | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
vectors = st.lists(
    st.floats(-4, 4, width=32, allow_subnormal=False), min_size=DIM, max_size=DIM
).map(lambda values: struct.pack("<4f", *values))


def values(name: str) -> st.SearchStrategy[Any]:
    """Return the values of a type's field that are not null; `p_` asks for one fit for JSON."""
    kind = name.removeprefix("p_")
    if name == "p_float":
        return packable_floats
    return {
        "text": any_text,
        "int": ints,
        "float": st.floats(allow_nan=False),
        "bool": st.booleans(),
        "when": times,
        "naive": times,
        "list": lists,
        "json": json_values.filter(lambda value: value is not None),
        "rest": st.dictionaries(any_text, json_values, max_size=3),
        "kind": words,
        "num": st.integers(-3, 3),
    }[kind]


NAMES = ("naive", *TYPES, *(f"p_{name}" for name in TYPES))


@st.composite
def writes(draw: st.DrawFn) -> Write:
    """Draw an upsert of a whole record."""
    fields: dict[str, Value] = {name: draw(st.none() | values(name)) for name in NAMES}
    fields["rest"] = draw(values("rest"))
    return Write(
        op=WriteOp.UPSERT,
        collection="things",
        key=(draw(words), draw(st.integers(-3, 3))),
        fields=fields,
        vector=draw(st.none() | vectors),
    )


@st.composite
def leaves(draw: st.DrawFn) -> Filter:
    """Draw a condition on one field."""
    name = draw(st.sampled_from((*NAMES, "kind", "num", "rest")))
    kind = name.removeprefix("p_")
    if draw(st.integers(0, 7)) == 0:
        return IsNull(field=name)
    if kind in ("json", "rest"):
        path = tuple(draw(st.lists(any_text, min_size=1, max_size=2)))
        sought = draw(st.booleans() | st.sampled_from([0, 1, 1.5]) | any_text)
        return JsonEquals(field=name, path=path, value=sought)
    if kind == "text" and draw(st.booleans()):
        return draw(patterns(name))
    return draw(comparisons(name, kind))


@st.composite
def comparisons(draw: st.DrawFn, name: str, kind: str) -> Filter:
    """Draw a comparison of a field with a value or with several."""
    several = draw(st.booleans())
    if kind == "list":
        if several:
            return ContainsAny(field=name, values=tuple(draw(lists)))
        op = draw(st.sampled_from((CompareOp.EQ, CompareOp.NE)))
        return Compare(field=name, op=op, value=draw(lists))
    value = values(name).filter(finite_only)
    if several:
        return In(field=name, values=tuple(draw(st.lists(value, max_size=3))))
    return Compare(field=name, op=draw(st.sampled_from(CompareOp)), value=draw(value))


def finite_only(value: object) -> bool:
    """False for an infinity, which a filter may not ask for."""
    return not isinstance(value, float) or abs(value) != float("inf")


@st.composite
def patterns(draw: st.DrawFn, name: str) -> Filter:
    """Draw a LIKE; one that ignores case has ASCII letters, whose case nobody disputes."""
    parts = draw(
        st.lists(st.sampled_from(["%", "_", "\\%", "\\\\", "a", "A", "b", "."]), max_size=4)
    )
    return Like(field=name, pattern="".join(parts), ignore_case=draw(st.booleans()))


filters: st.SearchStrategy[Filter] = st.recursive(
    leaves(),
    lambda inner: (
        st.builds(lambda p: And(parts=tuple(p)), st.lists(inner, max_size=3))
        | st.builds(lambda p: Or(parts=tuple(p)), st.lists(inner, max_size=3))
        | st.builds(lambda p: Not(part=p), inner)
    ),
    max_leaves=5,
)
