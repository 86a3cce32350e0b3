"""Differences that are known and intended: what one store cannot hold, or ranks in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from proxy.layouts import StoreSchema
from proxy.model import Key
from proxy.query import (
    And,
    Compare,
    ContainsAny,
    Filter,
    In,
    IsNull,
    JsonEquals,
    Like,
    ListQuery,
    Not,
    Or,
    SearchMode,
    SearchQuery,
)

Query: TypeAlias = SearchQuery | ListQuery

Leaf: TypeAlias = Compare | In | ContainsAny | IsNull | Like | JsonEquals

SemanticRule: TypeAlias = Callable[[Query], str]
"""Says why the two stores rightly rank a query differently, "" if they must agree."""


def nothing_is_known(query: Query) -> str:
    """The strict rule: every difference counts."""
    del query
    return ""


def any_of(*rules: SemanticRule) -> SemanticRule:
    """Return the rule that gives the first reason that one of the rules gives."""

    def rule(query: Query) -> str:
        return next((reason for one in rules if (reason := one(query))), "")

    return rule


def fields_held_once(old: StoreSchema, new: StoreSchema) -> SemanticRule:
    """Return the rule that a query over a field that only one store holds cannot agree."""

    def rule(query: Query) -> str:
        layouts = (old.layouts.get(query.collection), new.layouts.get(query.collection))
        if layouts[0] is None or layouts[1] is None:
            return ""
        held = layouts[0].stored_fields() ^ layouts[1].stored_fields()
        alone = sorted((asked_fields(query) | _worded(query, old)) & held)
        return f"only one store holds the field {alone[0]!r} that it asks for" if alone else ""

    return rule


def _worded(query: Query, schema: StoreSchema) -> frozenset[str]:
    """Return the fields in which a query looks for words."""
    spec = schema.collections.get(query.collection)
    if spec is None or spec.keyword is None or not isinstance(query, SearchQuery):
        return frozenset()
    by_words = query.mode in (SearchMode.KEYWORD, SearchMode.HYBRID)
    return frozenset(spec.keyword.fields) if by_words else frozenset()


def asked_fields(query: Query) -> frozenset[str]:
    """Return the logical fields that decide which records a query returns and in what order."""
    names = {node.field for node in filter_nodes(query.filter)}
    if isinstance(query, ListQuery):
        names.update(term.field for term in query.order)
    return frozenset(names)


def filter_nodes(root: Filter | None) -> list[Leaf]:
    """Return the leaves of a filter, left to right."""
    leaves: list[Leaf] = []
    waiting: list[Filter] = [root] if root is not None else []
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, And | Or):
            waiting[:0] = node.parts
        elif isinstance(node, Not):
            waiting.insert(0, node.part)
        else:
            leaves.append(node)
    return leaves


def cannot_hold(schema: StoreSchema, collection: str, key: Key, store: str) -> str:
    """Say why a record with this key cannot exist in a store, "" if it can."""
    layout, spec = schema.layouts.get(collection), schema.collections.get(collection)
    if layout is None or spec is None or layout.holds(spec, key):
        return ""
    return f"the {store} store's layout has no place for such a record"
