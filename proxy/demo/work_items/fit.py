"""Whether each vector is that of the words beside it: computed anew, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from proxy.demo.checks import Rows
from proxy.demo.work_items.items import text_of
from proxy.model import Key

_COSINE_MIN = 0.9999  # the same model on the same text, in another batch
_SHOWN = 5


def without_sense(rows: Rows, vectors: Mapping[Key, bytes | None]) -> list[str]:
    """Name items whose text has words and whose vector is missing, or the other way round.

    A vector of zeros, the silent failure of an embedder, counts as missing.
    """
    wrong = [
        key
        for key, row in rows.items()
        if bool(text_of(row)) is not any(np.frombuffer(vectors.get(key) or b"", dtype="<f4"))
    ]
    return _told(wrong, "have words and no vector, or a vector and no words")


def stale(rows: Rows, vectors: Mapping[Key, bytes | None], anew: Mapping[str, bytes]) -> list[str]:
    """Name items whose vector is not the one that their words have now.

    Args:
        anew: vectors by text, packed float32, normalised; items with another text are left out.
    """
    wrong = []
    for key, row in rows.items():
        stored, fresh = vectors.get(key), anew.get(text_of(row))
        if stored is not None and fresh is not None:
            cosine = np.frombuffer(stored, dtype="<f4") @ np.frombuffer(fresh, dtype="<f4")
            if cosine < _COSINE_MIN:
                wrong.append(key)
    return _told(wrong, "have a vector that is not the one of their words")


def _told(keys: Sequence[Key], what: str) -> list[str]:
    if not keys:
        return []
    named = ", ".join(str(key[0]) for key in keys[:_SHOWN])
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return [f"{len(keys)} work items {what}: {named}{more}."]
