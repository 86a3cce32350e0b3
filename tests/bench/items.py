"""The work items that are written and searched: seeded fields, vectors, and texts as people write.

Texts are those of ../shared/data/work_items.jsonl where that is, else documentation strings of
this Python; repeated with another number in the title until there are enough.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proxy.canonical import json_text
from proxy.demo.harvest import harvest
from proxy.model import Value, Write, WriteOp
from tests.work_items import COLLECTION, DIM, fields

_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "work_items.jsonl"
SEED = 20_261_122
_LENGTH_MAX = 400
"""Characters of a harvested text."""


def item_id(number: int) -> str:
    """Return the key of an item: scattered all over the order of keys."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Seeded random vectors of length 1, packed; they come again after 4,096."""

    packed: Sequence[bytes]

    @staticmethod
    def make(seed: int = SEED) -> Vectors:
        """Draw them."""
        values = np.random.default_rng(seed).standard_normal((4096, DIM))
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        return Vectors(packed=[row.tobytes() for row in values.astype("<f4")])

    def of(self, number: int) -> bytes:
        """Return the vector of an item."""
        return self.packed[number % len(self.packed)]


def write_of(number: int, vectors: Vectors, **given: Value) -> Write:
    """Return an upsert of an item with every field and its vector, as a store gets it."""
    return Write(
        op=WriteOp.UPSERT,
        collection=COLLECTION,
        key=(item_id(number),),
        fields=fields(number, **given),
        vector=vectors.of(number),
    )


def physical(write: Write) -> dict[str, Any]:
    """Return the row of a write as it lies in the preset's LanceDB table."""
    row: dict[str, Any] = {"id": write.key[0], **write.fields}
    row["metadata"] = json_text(write.fields["metadata"])
    for name in ("created_at", "updated_at"):
        moment = row[name]
        row[name] = moment.replace(tzinfo=None)
    row["vector"] = np.frombuffer(write.vector or b"", dtype="<f4")
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What is embedded, joined by a blank as the preset's template does."""

    title: str
    description: str

    @property
    def whole(self) -> str:
        """The text as it reaches the model."""
        return f"{self.title} {self.description}".strip()


def texts(count: int) -> list[Text]:
    """Return so many different texts."""
    known = _given() if _DATA.is_file() else _harvested()
    found = []
    for number in range(count):
        text, turn = known[number % len(known)], number // len(known)
        title = f"{text.title} ({turn})" if turn else text.title
        found.append(Text(title=title, description=text.description))
    return found


def _given() -> list[Text]:
    rows = [json.loads(line) for line in _DATA.read_text(encoding="utf-8").splitlines()]
    return [Text(title=row["title"], description=row["description"] or "") for row in rows]


def _harvested() -> list[Text]:
    return [
        Text(title=text.path, description=text.content[:_LENGTH_MAX]) for text in harvest()[:2000]
    ]
