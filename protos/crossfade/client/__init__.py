"""The Python client of Crossfade: what an application needs, and nothing of the proxy.

    from crossfade.client import AsyncClient, F

    async with AsyncClient("127.0.0.1:50051", targeting_key="tenant-7") as client:
        await client.upsert("documents", ("rust", "serde", "de"), {"content": "..."}, vector=v)
        found = await client.search("documents", v, filter=F("source_name") == "serde")
        for hit in found.hits:
            print(hit.record.key, hit.similarity)
        found = await client.search("documents", text="zero-copy parsing", mode=SearchMode.TEXT)

`Client` has the same methods without `await`.
"""

from crossfade.client.aio import AsyncClient
from crossfade.client.errors import (
    AlreadyExists,
    CallError,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from crossfade.client.filters import ALL, F, Filter
from crossfade.client.sync import Client
from crossfade.client.types import (
    BatchItem,
    Counts,
    Delete,
    FieldValue,
    Group,
    Hit,
    Insert,
    ItemOutcome,
    Json,
    Key,
    KeyLike,
    Metric,
    Page,
    Read,
    Record,
    Scoring,
    SearchMode,
    SearchResult,
    ServedBy,
    Update,
    Upsert,
    VectorLike,
    WriteAck,
)

__all__ = [
    "ALL",
    "AlreadyExists",
    "AsyncClient",
    "BatchItem",
    "CallError",
    "Client",
    "Counts",
    "DataLoss",
    "DeadlineExceeded",
    "Delete",
    "F",
    "FailedPrecondition",
    "FieldValue",
    "FieldViolation",
    "Filter",
    "Group",
    "Hit",
    "Insert",
    "Internal",
    "InvalidArgument",
    "ItemOutcome",
    "Json",
    "Key",
    "KeyLike",
    "Metric",
    "NotFound",
    "Page",
    "Read",
    "Record",
    "ResourceExhausted",
    "Scoring",
    "SearchMode",
    "SearchResult",
    "ServedBy",
    "Unavailable",
    "Unimplemented",
    "Update",
    "Upsert",
    "VectorLike",
    "WriteAck",
]
