"""Exact similarity of two packed float32 vectors, to check what a store reports."""

from __future__ import annotations

import numpy as np

from proxy.model import Metric


def exact_similarity(metric: Metric, left: bytes | None, right: bytes | None) -> float | None:
    """Return the similarity in float64, on the scale of `Metric.similarity`.

    Args:
        left, right: packed little-endian float32, shape (dim,).

    Returns:
        None if there is nothing to compare: a null, a zero vector (cosine), or two dimensions.
    """
    if left is None or right is None or len(left) != len(right):
        return None
    first = np.frombuffer(left, dtype="<f4").astype(np.float64)
    second = np.frombuffer(right, dtype="<f4").astype(np.float64)
    if metric is Metric.L2:
        return metric.similarity(float(np.linalg.norm(first - second)))
    product = float(first @ second)
    if metric is Metric.DOT:
        return metric.similarity(-product)
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return metric.similarity(1.0 - product / norms) if norms > 0 else None
