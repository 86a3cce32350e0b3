"""Filters from the wire to the model; what they may say is for `proxy.validate_query`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from crossfade.storage.v1 import storage_pb2 as pb

from proxy.config.settings import LimitSettings
from proxy.errors import Violation
from proxy.fronts.native.values import BadValue, read_scalar, read_value
from proxy.model import CollectionSpec, FieldType, Value
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
from proxy.validate import rejected

_OPS: Final = {
    pb.COMPARISON_OP_EQ: CompareOp.EQ,
    pb.COMPARISON_OP_NE: CompareOp.NE,
    pb.COMPARISON_OP_LT: CompareOp.LT,
    pb.COMPARISON_OP_LE: CompareOp.LE,
    pb.COMPARISON_OP_GT: CompareOp.GT,
    pb.COMPARISON_OP_GE: CompareOp.GE,
}
_NOTHING: Final = Or(parts=())
"""Stands where a node could not be read; the request is refused, so nothing evaluates it."""


class FilterReader:
    """Reads one filter tree, collecting what is wrong.

    The depth and the number of nodes are bounded here already, since the tree comes from outside
    and reading it recurses.
    """

    def __init__(self, spec: CollectionSpec, limits: LimitSettings) -> None:
        self._spec = spec
        self._limits = limits
        self._nodes = 0
        self.problems: list[Violation] = []

    def read(self, message: pb.Filter, where: str = "filter", depth: int = 1) -> Filter:
        """Return the filter; with `problems` it is not to be used.

        Raises:
            Rejected: the tree is too deep or too large to look at.
        """
        self._bound(where, depth)
        which = message.WhichOneof("kind")
        if which is None:
            self.problems.append(Violation(where=where, expected="one kind to be set", got="none"))
            return _NOTHING
        path = f"{where}.{which}"
        if which == "all_of":
            return And(parts=self._parts(message.all_of, path, depth))
        if which == "any_of":
            return Or(parts=self._parts(message.any_of, path, depth))
        if which == "negation":
            return Not(part=self.read(message.negation, path, depth + 1))
        return _LEAVES[which](self, message, path)

    def _parts(self, message: pb.FilterList, path: str, depth: int) -> tuple[Filter, ...]:
        return tuple(
            self.read(one, f"{path}[{number}]", depth + 1)
            for number, one in enumerate(message.filters)
        )

    def _bound(self, where: str, depth: int) -> None:
        self._nodes += 1
        if depth > self._limits.filter_depth_max:
            expected = f"at most {self._limits.filter_depth_max} levels"
            raise rejected([Violation(where="filter", expected=expected, got="more")])
        if self._nodes > self._limits.filter_nodes_max:
            expected = f"at most {self._limits.filter_nodes_max} nodes"
            raise rejected([Violation(where="filter", expected=expected, got="more")])

    def _compare(self, message: pb.Filter, path: str) -> Filter:
        leaf = message.compare
        op = _OPS.get(leaf.op)
        if op is None:
            self.problems.append(
                Violation(where=f"{path}.op", expected="an operator", got=str(leaf.op))
            )
            return _NOTHING
        value = self._value(leaf.field, leaf.value, f"{path}.value")
        return Compare(field=leaf.field, op=op, value=value)

    def _in_list(self, message: pb.Filter, path: str) -> Filter:
        leaf = message.in_list
        values = tuple(
            self._value(leaf.field, value, f"{path}.values[{number}]")
            for number, value in enumerate(leaf.values)
        )
        return In(field=leaf.field, values=values)

    def _contains_any(self, message: pb.Filter, path: str) -> Filter:
        leaf = message.contains_any
        return ContainsAny(field=leaf.field, values=tuple(leaf.values))

    def _is_null(self, message: pb.Filter, path: str) -> Filter:
        return IsNull(field=message.is_null.field)

    def _like(self, message: pb.Filter, path: str) -> Filter:
        leaf = message.like
        return Like(field=leaf.field, pattern=leaf.pattern, ignore_case=leaf.ignore_case)

    def _json_equals(self, message: pb.Filter, path: str) -> Filter:
        leaf = message.json_equals
        try:
            value = read_scalar(leaf.value)
        except BadValue as error:
            self.problems.append(error.at(f"{path}.value"))
            return _NOTHING
        return JsonEquals(field=leaf.field, path=tuple(leaf.path), value=value)

    def _value(self, field: str, message: pb.Value, where: str) -> Value:
        """Return an operand. That an unknown or unfit field is named is for the validation."""
        item = self._spec.by_name.get(field)
        if item is None or item.type in (FieldType.JSON, FieldType.TEXT_LIST):
            return ""
        try:
            return read_value(message, item.type)
        except BadValue as error:
            self.problems.append(error.at(where))
            return ""


_LEAVES: Final[Mapping[str, Callable[[FilterReader, pb.Filter, str], Filter]]] = {
    "compare": FilterReader._compare,
    "in_list": FilterReader._in_list,
    "contains_any": FilterReader._contains_any,
    "is_null": FilterReader._is_null,
    "like": FilterReader._like,
    "json_equals": FilterReader._json_equals,
}
