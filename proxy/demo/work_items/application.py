"""The planning application's operations, written as an application writes them.

Nothing here knows of two stores, of vectors, of a migration or of Crossfade's own types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from crossfade.client import AsyncClient, F, Filter, Record, SearchMode, SearchResult, Upsert

from proxy.demo.oracle import Image
from proxy.demo.work_items.items import COLLECTION, Item, ItemValue, plain
from proxy.model import Key

Client: TypeAlias = AsyncClient
_PAGE = 100
_ALPHA = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One item of an answer; `similarity` is 0 where nothing was ranked."""

    key: Key
    image: Mapping[str, object]
    similarity: float = 0.0


async def insert(client: Client, item: Item) -> None:
    """Store a new item under its id; it must not exist."""
    await client.insert(COLLECTION, item.id, item.fields)


async def upsert(client: Client, item: Item) -> None:
    """Store an item, new or not."""
    await client.upsert(COLLECTION, item.id, item.fields)


async def upsert_many(client: Client, items: Sequence[Item]) -> None:
    """Store several items; one that fails raises its error."""
    writes = [Upsert(COLLECTION, item.id, item.fields) for item in items]
    for outcome in await client.batch_write(writes, atomic=False):
        if outcome.error is not None:
            raise outcome.error


async def update(client: Client, key: Key, changes: Mapping[str, ItemValue]) -> None:
    """Change some fields of an item that exists."""
    await client.update(COLLECTION, key, changes)


async def delete(client: Client, key: Key) -> None:
    """Delete one item."""
    await client.delete(COLLECTION, key)


async def read(client: Client, key: Key) -> Image:
    """Return what is stored under an id."""
    record = await client.get(COLLECTION, key)
    return None if record is None else plain(record.fields)


async def matching(client: Client, condition: Filter, order: str) -> list[Found]:
    """Return every item that fulfils a condition, page by page, in an order."""
    found: list[Found] = []
    token = ""
    while True:
        page = await client.list(
            COLLECTION, filter=condition, order_by=[order], limit=_PAGE, page_token=token
        )
        found += [_found(record) for record in page.records]
        token = page.next_page_token
        if not token:
            return found


async def children(client: Client, parent: str) -> list[Found]:
    """Return the items below another one, in their order."""
    return await matching(client, F("parent_id") == parent, "order_index")


async def count_by_status(client: Client, condition: Filter) -> Mapping[str, int]:
    """Count the items that fulfil a condition, by their status."""
    counts = await client.count(COLLECTION, filter=condition, group_by="status")
    return {str(group.value): group.count for group in counts.groups}


async def search_meaning(
    client: Client, text: str, condition: Filter | None, limit: int
) -> list[Found]:
    """Return the items whose text means something similar."""
    return _hits(
        await client.search_text(
            COLLECTION, text, mode=SearchMode.TEXT, filter=condition, limit=limit
        )
    )


async def search_words(
    client: Client, text: str, condition: Filter | None, limit: int
) -> list[Found]:
    """Return the items that have all the words."""
    return _hits(
        await client.search_text(
            COLLECTION, text, mode=SearchMode.KEYWORD, filter=condition, limit=limit
        )
    )


async def search_both(
    client: Client, text: str, condition: Filter | None, limit: int
) -> list[Found]:
    """Return the items that fit by meaning and by words, mostly by meaning."""
    return _hits(
        await client.search_hybrid(COLLECTION, text, alpha=_ALPHA, filter=condition, limit=limit)
    )


def _hits(result: SearchResult) -> list[Found]:
    return [_found(hit.record, hit.similarity) for hit in result.hits]


def _found(record: Record, similarity: float = 0.0) -> Found:
    return Found(key=record.key, image=plain(record.fields), similarity=similarity)
