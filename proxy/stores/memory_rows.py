"""Asking rows held in memory: lists, counts, nearest neighbours. Pure functions over records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cmp_to_key
from typing import Any

import numpy as np

from proxy.canonical import key_sort_text
from proxy.filters import field_value, matches, orderable, sort_value, summable
from proxy.model import CollectionSpec, Metric, Record, Value
from proxy.query import CountQuery, Group, Hit, ListQuery, Projection, SearchQuery
from proxy.stores.ordering import compare_rows, order_terms, row_values


def project(record: Record, projection: Projection) -> Record:
    """Return the record with no more than what was asked for."""
    fields: Mapping[str, Value] = record.fields
    if projection.fields is not None:
        fields = {name: fields[name] for name in projection.fields if name in fields}
    return Record(
        collection=record.collection,
        key=record.key,
        fields=dict(fields),
        vector=record.vector if projection.vector else None,
    )


def list_rows(records: Iterable[Record], query: ListQuery, spec: CollectionSpec) -> list[Record]:
    """Return the page of whole records that the query asks for."""
    terms = order_terms(query, spec)
    rows: list[tuple[tuple[Value, ...], Record]] = []
    for record in records:
        if matches(query.filter, spec, record):
            values = row_values(record, spec, terms)
            if query.after is None or compare_rows(values, query.after, terms) > 0:
                rows.append((values, record))

    def compare(
        left: tuple[tuple[Value, ...], Record], right: tuple[tuple[Value, ...], Record]
    ) -> int:
        return compare_rows(left[0], right[0], terms)

    rows.sort(key=cmp_to_key(compare))
    return [record for _, record in rows[query.offset : query.offset + query.limit]]


def count_rows(records: Iterable[Record], query: CountQuery, spec: CollectionSpec) -> list[Group]:
    """Count and sum, by group if asked, ascending with the null group last."""
    if query.group_by is not None:
        orderable(spec, query.group_by, "group_by")
    if query.sum_field is not None:
        summable(spec, query.sum_field)
    counts: dict[Any, int] = {} if query.group_by is not None else {None: 0}
    sums: dict[Any, float] = {}
    for record in records:
        if not matches(query.filter, spec, record):
            continue
        name = query.group_by
        group: Any = None if name is None else field_value(spec, record, name)
        counts[group] = counts.get(group, 0) + 1
        if query.sum_field is not None:
            value = field_value(spec, record, query.sum_field)
            if isinstance(value, int | float):
                sums[group] = sums.get(group, 0.0) + value
    values = sorted(
        counts, key=lambda value: (value is None, sort_value(0 if value is None else value))
    )
    return [Group(value=v, count=counts[v], sum=sums.get(v, 0.0)) for v in values]


def nearest(
    records: Iterable[Record], query: SearchQuery, spec: CollectionSpec, metric: Metric
) -> list[Hit]:
    """Return the nearest records by an exact scan, ties by key ascending."""
    target = np.frombuffer(query.vector or b"", dtype="<f4").astype(np.float64)
    found: list[tuple[float, tuple[object, ...], Record]] = []
    for record in records:
        if record.vector is None or not matches(query.filter, spec, record):
            continue
        distance = vector_distance(metric, target, record.vector)
        if not np.isnan(distance):
            found.append((distance, key_sort_text(record.key), record))
    found.sort(key=lambda item: item[:2])
    return [
        Hit(
            record=project(record, query.projection),
            distance=distance,
            similarity=metric.similarity(distance),
        )
        for distance, _, record in found[: query.limit]
    ]


def vector_distance(metric: Metric, target: np.ndarray, vector: bytes) -> float:
    """Return the raw distance; NaN for the cosine of a vector of zeros, as in pgvector."""
    other = np.frombuffer(vector, dtype="<f4").astype(np.float64)
    if metric is Metric.L2:
        return float(np.linalg.norm(target - other))
    product = float(np.dot(target, other))
    if metric is Metric.DOT:
        return -product
    norms = float(np.linalg.norm(target) * np.linalg.norm(other))
    return 1.0 - max(-1.0, min(1.0, product / norms)) if norms else float("nan")
