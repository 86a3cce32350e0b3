"""What every key may hold, told from the acknowledgements alone; the judge of lost writes.

For each key the oracle keeps the writes that may have been the last one. A write may be the last
unless an acknowledged write began after it had ended: that one was later, whatever the proxies
and stores did in between. So one writer on a key leaves one possible value, writers that overlap
leave several, and a write whose outcome nobody knows stays possible for good.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from proxy.model import JsonValue, Key, decode_key, encode_key

Image: TypeAlias = Mapping[str, JsonValue] | None
"""What a writer knows of a record: the fields it set, texts by `text_name`, and "vector" by
`vector_name`; None when the record is gone."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One write of one key, from its start (seconds) to its end (infinite: not known)."""

    image: Image
    start_s: float
    end_s: float = math.inf


@dataclass(slots=True)
class Oracle:
    """Every key that live traffic wrote.

    Attributes:
        acknowledged: how many record writes were acknowledged.
    """

    acknowledged: int = 0
    _possible: dict[tuple[str, Key], list[Attempt]] = field(default_factory=dict)
    _watching: dict[tuple[str, Key], list[list[Attempt]]] = field(default_factory=dict)

    def know(self, collection: str, key: Key, image: Image) -> None:
        """State what a key holds before the traffic begins."""
        self._possible[collection, key] = [Attempt(image=image, start_s=-math.inf, end_s=-1.0)]

    def begin(self, collection: str, key: Key, image: Image, now_s: float) -> Attempt:
        """Note that a write was sent: from now on it may be the last one."""
        attempt = Attempt(image=image, start_s=now_s)
        place = (collection, key)
        self._possible.setdefault(place, [_never()]).append(attempt)
        for seen in self._watching.get(place, ()):
            seen.append(attempt)
        return attempt

    def acknowledge(self, collection: str, key: Key, attempt: Attempt, now_s: float) -> None:
        """Note that a write was acknowledged: whatever ended before it began is overwritten."""
        attempt.end_s = now_s
        self.acknowledged += 1
        place = (collection, key)
        self._possible[place] = [
            other for other in self._possible[place] if other.end_s >= attempt.start_s
        ]

    def refuse(self, collection: str, key: Key, attempt: Attempt) -> None:
        """Note that a write certainly did not happen."""
        self._possible[collection, key].remove(attempt)

    def allows(self, collection: str, key: Key, image: Image) -> bool:
        """Say whether a record as found now can be the truth.

        `image` may hold more fields than the writer set; those are not judged.
        """
        attempts = self._possible.get((collection, key), [])
        return any(agrees(attempt.image, image) for attempt in attempts)

    @contextmanager
    def reading(self, collection: str, key: Key) -> Iterator[list[Attempt]]:
        """Collect every write that a read, made inside the block, may see."""
        place = (collection, key)
        seen = list(self._possible.get(place, [_never()]))
        self._watching.setdefault(place, []).append(seen)
        try:
            yield seen
        finally:
            others = [other for other in self._watching.pop(place) if other is not seen]
            if others:
                self._watching[place] = others

    def dump(self) -> dict[str, JsonValue]:
        """Return everything as JSON: collection, key text, possible images."""
        return {
            "acknowledged": self.acknowledged,
            "keys": [
                [collection, encode_key(key), [attempt.image for attempt in attempts]]
                for (collection, key), attempts in self._possible.items()
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a key may hold at the end; `images` has None for "no such record"."""

    collection: str
    key: Key
    images: tuple[Image, ...]


def expectations(dump: Mapping[str, object]) -> Iterator[Expectation]:
    """Read back what `Oracle.dump` gave."""
    keys = dump["keys"]
    if not isinstance(keys, list):
        raise TypeError("not an oracle's dump")
    for collection, key, images in keys:
        yield Expectation(collection=collection, key=decode_key(key), images=tuple(images))


def agrees(written: Image, found: Image) -> bool:
    """Say whether a record as found is what was written, field by field that was written."""
    if written is None or found is None:
        return written is None and found is None
    return all(name in found and found[name] == value for name, value in written.items())


def text_name(text: str) -> str:
    """Return the name by which images carry a long text: md5 of its UTF-8, hex."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def vector_name(vector: bytes | None) -> str | None:
    """Return the name by which images carry a vector: md5, hex, of pgvector's binary form.

    Args:
        vector: packed little-endian float32, shape (dim,).
    """
    if vector is None:
        return None
    values = np.frombuffer(vector, dtype="<f4").astype(">f4")
    head = struct.pack(">hh", len(values), 0)
    return hashlib.md5(head + values.tobytes(), usedforsecurity=False).hexdigest()


def _never() -> Attempt:
    return Attempt(image=None, start_s=-math.inf, end_s=-1.0)
