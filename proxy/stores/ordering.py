"""The total order of a list: its terms, and comparing rows by them."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.filters import field_value, orderable, refuse_field, sort_value
from proxy.model import CollectionSpec, Record, Value
from proxy.query import ListQuery, Order


def order_terms(query: ListQuery, spec: CollectionSpec) -> tuple[Order, ...]:
    """Return the query's terms and then the key's, so that the order is total.

    Raises:
        Rejected: a term names no field that has an order, or `after` has the wrong length.
    """
    for number, term in enumerate(query.order):
        orderable(spec, term.field, f"order_by[{number}]")
    terms = (*query.order, *(Order(field=name) for name in spec.key))
    if query.after is not None and len(query.after) != len(terms):
        got = f"{len(query.after)} values"
        raise refuse_field(spec.name, "page_token", f"{len(terms)} values", got)
    return terms


def row_values(record: Record, spec: CollectionSpec, terms: Sequence[Order]) -> tuple[Value, ...]:
    """Return what a record sorts by: the `after` that continues behind it."""
    return tuple(field_value(spec, record, term.field) for term in terms)


def compare_rows(left: Sequence[Value], right: Sequence[Value], terms: Sequence[Order]) -> int:
    """Compare two rows' values: nulls last ascending, first descending."""
    for a, b, term in zip(left, right, terms, strict=True):
        x = (a is None, None if a is None else sort_value(a))
        y = (b is None, None if b is None else sort_value(b))
        if x != y:
            less = x[0] < y[0] if x[0] != y[0] else x[1] < y[1]  # type: ignore[operator]  # of one field
            return 1 if less == term.descending else -1
    return 0
