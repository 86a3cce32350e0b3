"""Reading records by key although some of them cannot be decoded: those are named, not lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.errors import Corrupt
from proxy.model import Key, Record
from proxy.stores.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """The records that exist, and the keys of those that cannot be decoded, with the reason."""

    records: dict[Key, Record] = field(default_factory=dict)
    broken: dict[Key, str] = field(default_factory=dict)


async def read_back(
    store: Store, collection: str, keys: Sequence[Key], *, vectors: bool, deadline_s: float
) -> ReadBack:
    """Read records by key; halve on a row that cannot be decoded until it is named.

    Args:
        deadline_s: of each call; a batch with one such row takes about 2 log2(len(keys)) of them.
    """
    if not keys:
        return ReadBack()
    try:
        found = await store.get(collection, keys, vectors=vectors, deadline_s=deadline_s)
    except Corrupt as error:
        if len(keys) == 1:
            return ReadBack(broken={keys[0]: str(error)})
        middle = len(keys) // 2
        left, right = [
            await read_back(store, collection, part, vectors=vectors, deadline_s=deadline_s)
            for part in (keys[:middle], keys[middle:])
        ]
        return ReadBack(
            records={**left.records, **right.records}, broken={**left.broken, **right.broken}
        )
    return ReadBack(records=found)
