"""Filters written as Python expressions.

    (F("source_name") == "serde") & ~F("token_count").is_null()
    F("tags").contains_any("a", "b") | F("metadata").json("topic") == "rust"  # mind the brackets

`&`, `|` and `~` bind more tightly than `==`: put brackets around each comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from crossfade.client.values import set_value
from crossfade.storage.v1 import storage_pb2 as pb


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on a record."""

    message: pb.Filter

    def __and__(self, other: Filter) -> Filter:
        """Both hold."""
        return Filter(pb.Filter(all_of=pb.FilterList(filters=_flat("all_of", self, other))))

    def __or__(self, other: Filter) -> Filter:
        """At least one holds."""
        return Filter(pb.Filter(any_of=pb.FilterList(filters=_flat("any_of", self, other))))

    def __invert__(self) -> Filter:
        """It does not hold (a comparison with null is neither true nor false)."""
        return Filter(pb.Filter(negation=self.message))

    def __bool__(self) -> bool:
        """Refuse `and`, `or`, `not` and chained comparisons, which would drop a condition."""
        raise TypeError("combine filters with & | ~ and brackets, not with and, or, not")


def _flat(name: str, *filters: Filter) -> list[pb.Filter]:
    """Return the operands; a chain of the same operator stays one level deep."""
    operands: list[pb.Filter] = []
    for one in filters:
        if one.message.WhichOneof("kind") == name:
            operands += getattr(one.message, name).filters
        else:
            operands.append(one.message)
    return operands


ALL: Final = Filter(pb.Filter(all_of=pb.FilterList()))
"""Every record; for `delete_where`, which wants it said."""


@dataclass(frozen=True, slots=True, eq=False)
class F:
    """A field, by name; a comparison with a value makes a Filter."""

    name: str

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]  # builds an expression
        return self._compare(pb.COMPARISON_OP_EQ, value)

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]  # builds an expression
        return self._compare(pb.COMPARISON_OP_NE, value)

    __hash__ = None  # type: ignore[assignment]  # == does not compare

    def __lt__(self, value: object) -> Filter:
        return self._compare(pb.COMPARISON_OP_LT, value)

    def __le__(self, value: object) -> Filter:
        return self._compare(pb.COMPARISON_OP_LE, value)

    def __gt__(self, value: object) -> Filter:
        return self._compare(pb.COMPARISON_OP_GT, value)

    def __ge__(self, value: object) -> Filter:
        return self._compare(pb.COMPARISON_OP_GE, value)

    def _compare(self, op: pb.ComparisonOp.ValueType, value: object) -> Filter:
        if value is None:
            raise TypeError(f"nothing compares with null; write F({self.name!r}).is_null()")
        leaf = pb.Comparison(field=self.name, op=op)
        set_value(leaf.value, value)
        return Filter(pb.Filter(compare=leaf))

    def in_(self, values: Iterable[object]) -> Filter:
        """Match if the field equals one of the values."""
        leaf = pb.InList(field=self.name)
        for value in values:
            set_value(leaf.values.add(), value)
        return Filter(pb.Filter(in_list=leaf))

    def contains_any(self, *values: str) -> Filter:
        """Match if a text_list field shares an element with the values."""
        return Filter(pb.Filter(contains_any=pb.ContainsAny(field=self.name, values=values)))

    def is_null(self) -> Filter:
        """Match if the field is null."""
        return Filter(pb.Filter(is_null=pb.IsNull(field=self.name)))

    def like(self, pattern: str) -> Filter:
        """Match by SQL LIKE: % any run, _ one character, backslash escapes."""
        return Filter(pb.Filter(like=pb.Like(field=self.name, pattern=pattern)))

    def ilike(self, pattern: str) -> Filter:
        """Match by SQL ILIKE, ignoring case."""
        return Filter(pb.Filter(like=pb.Like(field=self.name, pattern=pattern, ignore_case=True)))

    def json(self, *path: str) -> JsonPath:
        """Return a place in a json field, along object keys."""
        return JsonPath(self.name, path)


@dataclass(frozen=True, slots=True, eq=False)
class JsonPath:
    """A place in a json field; comparing it makes a Filter."""

    name: str
    path: tuple[str, ...]

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]  # builds an expression
        leaf = pb.JsonEquals(field=self.name, path=self.path)
        set_value(leaf.value, value)
        return Filter(pb.Filter(json_equals=leaf))

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]  # builds an expression
        return ~(self == value)

    __hash__ = None  # type: ignore[assignment]  # == does not compare
