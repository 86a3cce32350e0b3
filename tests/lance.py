"""LanceDB for tests: a small collection with parents, stores over it, a gate before commits."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from proxy.clock import SystemClock
from proxy.config.settings import LanceSettings, StoreSettings
from proxy.layouts import Column, ColumnKind, Layout, Packed, StoreSchema
from proxy.model import (
    CollectionSpec,
    FieldSpec,
    FieldType,
    Key,
    ParentSpec,
    Value,
    VectorSpec,
    Write,
    WriteOp,
)
from proxy.stores.lancedb import LanceStore
from proxy.stores.lancedb.group import Changes
from tests.doc_server import vector

DIM = 8
WHEN = dt.datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=dt.UTC)
QUICK = LanceSettings(flush_ms=0.0)


def schema() -> StoreSchema:
    """Return "shelves" and, on them, "items" with a vector, every type, and a packed column."""
    shelves = CollectionSpec(
        name="shelves",
        key=("shelf",),
        fields=(FieldSpec(name="shelf", type=FieldType.TEXT),),
    )
    items = CollectionSpec(
        name="items",
        key=("id",),
        fields=(
            FieldSpec(name="id", type=FieldType.TEXT),
            FieldSpec(name="shelf", type=FieldType.TEXT),
            FieldSpec(name="title", type=FieldType.TEXT),
            FieldSpec(name="count", type=FieldType.INT),
            FieldSpec(name="progress", type=FieldType.FLOAT),
            FieldSpec(name="done", type=FieldType.BOOL),
            FieldSpec(name="at", type=FieldType.TIMESTAMP),
            FieldSpec(name="tags", type=FieldType.TEXT_LIST),
            FieldSpec(name="metadata", type=FieldType.JSON),
            FieldSpec(name="colour", type=FieldType.TEXT),
        ),
        vector=VectorSpec(dim=DIM),
        parent=ParentSpec(collection="shelves", fields=("shelf",)),
    )
    plain = ("id", "shelf", "title", "count", "progress", "done", "tags", "metadata")
    columns = (
        *(Column(name=name, field=name) for name in plain),
        Column(name="at", field="at", naive_utc=True),
        Column(
            name="extra", kind=ColumnKind.PACKED, packed=(Packed(field="colour", name="colour"),)
        ),
        Column(name="vector", kind=ColumnKind.VECTOR),
    )
    layouts = {
        "shelves": Layout(
            collection="shelves", table="shelf", columns=(Column(name="shelf", field="shelf"),)
        ),
        "items": Layout(collection="items", table="item", columns=columns, check_parent=True),
    }
    return StoreSchema(collections={"shelves": shelves, "items": items}, layouts=layouts)


def lance(
    folder: Path,
    *,
    settings: LanceSettings = QUICK,
    namespace: str = "",
    read_only: bool = False,
    data: StoreSchema | None = None,
) -> LanceStore:
    """Return a store over a folder, not yet open."""
    place = StoreSettings(engine="lancedb", uri=str(folder), namespace=namespace, lance=settings)
    made = schema() if data is None else data
    return LanceStore("new", place, made, SystemClock(), read_only=read_only)


def item(key: str, *, op: WriteOp = WriteOp.UPSERT, number: int = 1, **fields: Value) -> Write:
    """Return a write of a whole item."""
    values: dict[str, Value] = {
        "shelf": None,
        "title": f"About {key}",
        "count": number,
        "progress": 0.5,
        "done": False,
        "at": WHEN,
        "tags": ["a"],
        "metadata": {"n": number},
        "colour": "red",
    }
    return Write(
        op=op,
        collection="items",
        key=(key,),
        fields={**values, **fields},
        vector=vector(number, DIM),
    )


def shelf(name: str) -> Write:
    """Return a write of a shelf."""
    return Write(op=WriteOp.UPSERT, collection="shelves", key=(name,))


def gone(collection: str, name: str) -> Write:
    """Return a delete."""
    return Write(op=WriteOp.DELETE, collection=collection, key=(name,))


class Gate:
    """Stops the commits of a store's writer, one kind of them, until it is opened."""

    def __init__(self, store: LanceStore, step: str, collection: str = "items") -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.passed = 0
        writer = store.writers[collection]
        commit = getattr(writer, step)

        async def held(name: str, what: Changes | Sequence[Key]) -> None:
            self.reached.set()
            await asyncio.wait_for(self.opened.wait(), 20)
            await commit(name, what)
            self.passed += 1

        setattr(writer, step, held)
