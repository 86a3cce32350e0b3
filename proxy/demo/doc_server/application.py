"""The doc server's operations, written as an application writes them: with the Python client.

Nothing here knows of two stores, of a migration or of Crossfade's own types.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from crossfade.client import AsyncClient, F, Read, Record, Upsert

from proxy.demo.doc_server.corpus import Document
from proxy.demo.oracle import Image, text_name, vector_name
from proxy.model import Key

Client: TypeAlias = AsyncClient
_PAGE = 60
_KEYS_ONLY = Read(fields=())
_EVERYTHING = Read(vector=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One hit of a search."""

    key: Key
    similarity: float


async def insert(client: Client, document: Document) -> None:
    """Store a new document; it must not exist."""
    key, fields = _key(document), _fields(document)
    await client.insert("documents", key, fields, vector=document.vector)


async def upsert(client: Client, document: Document) -> None:
    """Store a document, new or not."""
    key, fields = _key(document), _fields(document)
    await client.upsert("documents", key, fields, vector=document.vector)


async def update(client: Client, document: Document, which: str) -> None:
    """Change one field, or the vector, of a document that exists."""
    if which == "vector":
        if document.vector is None:
            await client.update("documents", _key(document), {}, clear_vector=True)
        else:
            await client.update("documents", _key(document), {}, vector=document.vector)
    else:
        change = {which: _fields(document)[which]}
        await client.update("documents", _key(document), change)


async def upsert_many(client: Client, documents: Sequence[Document], *, atomic: bool) -> None:
    """Store several documents; one that fails raises its error."""
    writes = [Upsert("documents", _key(d), _fields(d), d.vector) for d in documents]
    for outcome in await client.batch_write(writes, atomic=atomic):
        if outcome.error is not None:
            raise outcome.error


async def delete(client: Client, key: Key) -> None:
    """Delete one document."""
    await client.delete("documents", key)


async def delete_like(client: Client, crate: str, pattern: str) -> int:
    """Delete the documents of a crate whose path matches; return how many there were."""
    condition = (F("source_name") == crate) & F("doc_path").like(pattern)
    return await client.delete_where("documents", condition)


async def read(client: Client, key: Key) -> Image:
    """Return what is stored under a key."""
    return _document_image(await client.get("documents", key, _EVERYTHING))


async def read_many(client: Client, keys: Sequence[Key]) -> list[Image]:
    """Return what is stored under several keys, in their order."""
    records = await client.batch_get("documents", keys, _EVERYTHING)
    return [_document_image(record) for record in records]


async def search(client: Client, vector: bytes, crate: str | None, limit: int) -> list[Found]:
    """Return the nearest documents, of one crate or of all."""
    condition = None if crate is None else F("source_name") == crate
    result = await client.search("documents", vector, filter=condition, limit=limit)
    return [Found(key=hit.record.key, similarity=hit.similarity) for hit in result.hits]


async def paths_of(client: Client, crate: str) -> list[str]:
    """Return the paths of all documents of a crate, page by page, in order."""
    paths: list[str] = []
    token = ""
    while True:
        page = await client.list(
            "documents",
            filter=F("source_name") == crate,
            order_by=["doc_path"],
            limit=_PAGE,
            page_token=token,
            read=_KEYS_ONLY,
        )
        paths += [str(record.key[-1]) for record in page.records]
        token = page.next_page_token
        if not token:
            return paths


async def count_of(client: Client, crate: str) -> int:
    """Count the documents of a crate."""
    counts = await client.count("documents", filter=F("source_name") == crate)
    return counts.total


async def count_by_crate(client: Client) -> Mapping[str, int]:
    """Count the documents of every crate; at the same time the list of distinct crates."""
    counts = await client.count("documents", group_by="source_name")
    return {str(group.value): group.count for group in counts.groups}


async def upsert_source(client: Client, key: Key, fields: Mapping[str, str | int | None]) -> None:
    """Store a crate; fields that are not given are kept."""
    await client.upsert("sources", key, fields)


async def update_totals(client: Client, key: Key, totals: Mapping[str, int]) -> None:
    """Set a crate's totals after its documents were written."""
    await client.update("sources", key, totals)


async def delete_source(client: Client, key: Key) -> None:
    """Delete a crate and, with it, its documents."""
    await client.delete("sources", key)


async def read_source(client: Client, key: Key) -> Image:
    """Return a crate as stored."""
    record = await client.get("sources", key)
    return None if record is None else _plain(record)


async def create_job(client: Client, fields: Mapping[str, str | int | None]) -> Key:
    """Store a population job under an id that the proxy allocates; return its key."""
    ack = await client.insert("population_jobs", None, fields)
    return ack.key


async def update_job(client: Client, key: Key, fields: Mapping[str, str | int | None]) -> None:
    """Advance a population job."""
    now = dt.datetime.now(dt.UTC)
    column = "started_at" if fields["status"] == "running" else "completed_at"
    await client.update("population_jobs", key, {**fields, column: now})


async def delete_job(client: Client, key: Key) -> None:
    """Delete a population job."""
    await client.delete("population_jobs", key)


async def read_job(client: Client, key: Key) -> Image:
    """Return a population job as stored."""
    record = await client.get("population_jobs", key)
    return None if record is None else _plain(record)


def _key(document: Document) -> Key:
    return ("rust", document.crate, document.path)


def _fields(document: Document) -> dict[str, str | int | None]:
    return {"content": document.content, "token_count": document.token_count}


def _document_image(record: Record | None) -> Image:
    if record is None:
        return None
    vector = None if record.vector is None else record.vector.tobytes()
    return {
        "content": text_name(str(record.fields["content"])),
        "token_count": _number(record.fields["token_count"]),
        "vector": vector_name(vector),
    }


def _plain(record: Record) -> Image:
    """Return the texts and numbers of a record; times are the proxy's to decide."""
    kept = record.fields.items()
    return {name: value for name, value in kept if value is None or isinstance(value, str | int)}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
