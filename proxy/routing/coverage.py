"""Whether a store may answer in place of another: nothing that is asked for may go missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.layouts import Layout
from proxy.model import CollectionSpec, Key, Value
from proxy.query import And, Compare, CompareOp, Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a read asks for.

    Attributes:
        keys: None for a list, a count or a search.
        names: the fields that are named: by a field mask, an order, a group or the filter.
    """

    keys: Sequence[Key] | None = None
    names: frozenset[str] = frozenset()
    filter: Filter | None = None


def stands_in(spec: CollectionSpec, layout: Layout, instead_of: Layout, asked: Asked) -> bool:
    """True if a store with this layout can hold every record and field that the read asks for.

    A store that implies a value (a constant) lacks all records with another one. That is fit for
    a list only if the store it stands in for implies the same, or the filter asks for that value.
    """
    if asked.names - layout.stored_fields():
        return False
    if asked.keys is not None:
        return all(layout.holds(spec, key) for key in asked.keys)
    return all(
        instead_of.constants.get(name) == value or (name, value) in _pinned(asked.filter)
        for name, value in layout.constants.items()
    )


def _pinned(filter: Filter | None) -> list[tuple[str, Value]]:
    """Return the (field, value) pairs that every record of the answer has."""
    if isinstance(filter, Compare) and filter.op is CompareOp.EQ:
        return [(filter.field, filter.value)]
    if isinstance(filter, And):
        return [pair for part in filter.parts for pair in _pinned(part)]
    return []
