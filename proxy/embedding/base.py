"""The Protocol of an embedder: texts in, packed vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Embedder(Protocol):
    """Makes vectors from texts by models that were loaded at `open`.

    Vectors are packed little-endian float32, 4 * dim bytes, normalised to length 1; never a zero
    vector, never NaN. Errors: Rejected(RESOURCE_EXHAUSTED): too many texts wait already;
    Rejected(INVALID_ARGUMENT): a text is not Unicode, or the model has no vector for it;
    Unavailable(where="embedder"): the model is not there (any more) or the deadline passed.
    """

    async def open(self) -> None:
        """Load the models; raises Unavailable or ConfigInvalid, naming the model."""

    async def close(self) -> None:
        """Release everything; safe to call twice."""

    def dim(self, model: str) -> int:
        """Return a loaded model's dimension."""

    async def documents(
        self, model: str, texts: Sequence[str], *, deadline_s: float
    ) -> list[bytes]:
        """Embed texts of records, in this order; equal texts in a batch are embedded once."""

    async def query(self, model: str, text: str, *, deadline_s: float) -> bytes:
        """Embed the text of a search; the latest are remembered."""

    def stats(self) -> Mapping[str, float]:
        """Return gauges and counters: texts waiting, batches, texts, cache hits."""
