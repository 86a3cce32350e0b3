"""Vectors of 3072 dimensions: lifted from real ones, or computed from the text."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DIM = 3072
Matrix = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.uint32]

_LIFT_SEED = 20_240_817
_WORD = re.compile(r"[^\W_]+")
_SIGN_BIT = np.uint32(31)


def lift(vectors: Matrix) -> Matrix:
    """Carry vectors to 3072 dimensions and keep every inner product.

    Args:
        vectors: float32, shape (rows, d), d <= 3072.

    Returns:
        float32, shape (rows, 3072): `vectors` times a d x 3072 matrix with orthonormal rows
        (QR of a normal matrix with a fixed seed).
    """
    normal = np.random.default_rng(_LIFT_SEED).standard_normal((DIM, vectors.shape[1]))
    orthonormal, _ = np.linalg.qr(normal)
    return normalised(vectors.astype(np.float64) @ orthonormal.T)


def normalised(vectors: npt.NDArray[np.floating]) -> Matrix:
    """Scale each row to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Matrix = (vectors / np.where(lengths > 0, lengths, 1.0)).astype("<f4")
    return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedTfIdf:
    """A fitted vectoriser: words, word pairs and character 3- and 4-grams, signed hashing.

    Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009: the inner
    product of two hashed vectors is an unbiased estimate of that of the full TF-IDF vectors.

    Attributes:
        ids: hashes of the features seen when fitting, ascending.
        weights: their inverse document frequencies, same order.
        unseen: the weight of any other feature.
    """

    ids: _Ids
    weights: npt.NDArray[np.float64]
    unseen: float

    @classmethod
    def fit(cls, texts: Sequence[str]) -> HashedTfIdf:
        """Count in how many of `texts` each feature occurs."""
        present = [np.unique(_features(text)) for text in texts]
        ids, counts = np.unique(np.concatenate(present), return_counts=True)
        weights = np.log((1 + len(texts)) / (1 + counts)) + 1
        return cls(ids=ids, weights=weights, unseen=math.log(1 + len(texts)) + 1)

    def vectors(self, texts: Sequence[str]) -> Matrix:
        """Return float32, shape (len(texts), 3072), rows of length 1 (0 for a text of no words)."""
        rows = np.zeros((len(texts), DIM))
        for number, text in enumerate(texts):
            ids, counts = np.unique(_features(text), return_counts=True)
            if not len(ids):
                continue
            place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            seen = self.ids[place] == ids
            weight = (1 + np.log(counts)) * np.where(seen, self.weights[place], self.unseen)
            sign = np.where(ids >> _SIGN_BIT, 1.0, -1.0)
            rows[number] = np.bincount(ids % DIM, weights=weight * sign, minlength=DIM)
        return normalised(rows)


def _features(text: str) -> _Ids:
    words = _WORD.findall(text.lower())
    features = list(words)
    features.extend(f"{left} {right}" for left, right in itertools.pairwise(words))
    for word in words:
        framed = f"^{word}$"
        features.extend(
            framed[start : start + size]
            for size in (3, 4)
            for start in range(max(0, len(framed) - size + 1))
        )
    hashes = [zlib.crc32(feature.encode()) for feature in features]
    return np.array(hashes, dtype=np.uint32)
