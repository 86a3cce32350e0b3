"""Texts that the worker had when it died: which to compute alone, which are at fault (pure)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection
from typing import Final

ALONE_AFTER: Final = 2
"""Deaths after which a text is computed alone: the next one tells whether it is to blame."""

_KEPT_MAX: Final = 4096


class Suspects:
    """Counts deaths by text; a text that has its vector is innocent again."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[bytes, int] = OrderedDict()

    def died(self, texts: Collection[tuple[str, str]]) -> None:
        """Take in that the worker died over these (model, text)."""
        for model, text in texts:
            name = _name(model, text)
            count = self._deaths.pop(name, 0) + 1
            # In company nothing is proved, however often it happens.
            self._deaths[name] = count if len(texts) == 1 else min(count, ALONE_AFTER)
        while len(self._deaths) > _KEPT_MAX:
            self._deaths.popitem(last=False)

    def clear(self, model: str, text: str) -> None:
        """Forget a text that was answered."""
        if self._deaths:
            self._deaths.pop(_name(model, text), None)

    def alone(self, model: str, text: str) -> bool:
        """True if a text must have the worker for itself."""
        return self._count(model, text) >= ALONE_AFTER

    def guilty(self, model: str, text: str) -> bool:
        """True if the worker died over a text when that was all it had."""
        return self._count(model, text) > ALONE_AFTER

    def _count(self, model: str, text: str) -> int:
        return self._deaths.get(_name(model, text), 0) if self._deaths else 0


def _name(model: str, text: str) -> bytes:
    """Return a short name: texts may be long, and are kept for as long as the proxy runs."""
    return hashlib.blake2b(f"{model}\0{text}".encode(), digest_size=16).digest()
