"""Judging vectors that were made from texts: which records to look at, and what is wrong there."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from proxy.canonical import record_digest
from proxy.ledger.types import Difference
from proxy.model import CollectionSpec, JsonValue, Key, Record, encode_key
from proxy.stores.base import KeyDigest
from reconcile.ranges import Scope
from reconcile.vectors import Made, embedding_of, text_for

SAMPLE_SHARE = 0.01
SAMPLE_MIN = 20
"""Of each span so many records, and this share of them, are embedded again by verify."""

DISTANCE_MAX = 1e-3
"""The same text gives the same vector but for rounding: batches are of other sizes."""


def without_vector(spec: CollectionSpec, digests: Sequence[KeyDigest]) -> list[Key]:
    """Return the keys whose vector is null, from digests of key and vector alone."""
    return [item.key for item in digests if item.digest == _bare_digest(spec, item.key)]


def _bare_digest(spec: CollectionSpec, key: Key) -> int:
    bare = Record(collection=spec.name, key=key, fields={}, vector=None)
    return record_digest(spec, bare, ())


def sampled(keys: Sequence[Key], *, job_id: int) -> list[Key]:
    """Return a few of these keys: the same ones to one job, others to the next."""
    count = max(SAMPLE_MIN, math.ceil(len(keys) * SAMPLE_SHARE))
    return heapq.nsmallest(count, keys, key=partial(_rank, f"{job_id}:"))


def _rank(salt: str, key: Key) -> bytes:
    return hashlib.md5((salt + encode_key(key)).encode(), usedforsecurity=False).digest()


def texts_to_judge(
    scope: Scope, here: Mapping[Key, Record], there: Mapping[Key, Record]
) -> dict[Key, str]:
    """Return the texts whose vectors are on the secondary, to be made once more."""
    texts = {key: text_for(scope, record) for key, record in here.items() if key in there}
    return {key: text for key, text in texts.items() if text and there[key].vector is not None}


def wrong_vectors(
    scope: Scope, here: Mapping[Key, Record], there: Mapping[Key, Record], made: Made
) -> dict[Key, Difference]:
    """Say which of the secondary's vectors are not those of the records' texts.

    Args:
        made: what the model makes of `texts_to_judge`.
    """
    found: dict[Key, Difference] = {}
    model = embedding_of(scope).model
    for key in here.keys() & there.keys():
        text, stored = text_for(scope, here[key]), there[key].vector
        if stored is None or not text:
            wrong = bool(text) != (stored is not None)
            expected = f"by {model} from {len(text)} characters" if text else None
            shown = None if stored is None else "a vector of no text"
        elif key in made.dead:
            wrong, expected, shown = True, made.dead[key], "a vector"
        else:
            distance = _distance(made.vectors[key], stored)
            wrong = not distance <= DISTANCE_MAX
            expected, shown = f"by {model}", f"cosine distance {distance:.3g} from it"
        if wrong:
            found[key] = _difference(scope, key, [expected, shown])
    return found


def _difference(scope: Scope, key: Key, detail: Sequence[JsonValue]) -> Difference:
    return Difference(
        collection=scope.spec.name,
        key=key,
        kind="mismatched",
        fields=("vector",),
        detail={"vector": detail},
    )


def _distance(left: bytes, right: bytes) -> float:
    """Return the cosine distance of two packed vectors, NaN if there is none."""
    if len(left) != len(right):
        return math.nan
    one, other = (np.frombuffer(side, "<f4").astype(np.float64) for side in (left, right))
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 1.0 - float(one @ other) / length if length else math.nan
