"""A proxy in one process over memory stores and a memory ledger, with stores that can misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from proxy.clock import SystemClock
from proxy.config.settings import ReadSettings, WriteSettings
from proxy.dataplane import Reading, RequestContext
from proxy.dual_write.writer import DualWriter
from proxy.embedding.base import Embedder
from proxy.errors import CrossfadeError
from proxy.layouts import StoreSchema
from proxy.ledger.base import Ledger
from proxy.ledger.group_commit import SettleQueue
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import EventDraft, Phase, Routing
from proxy.model import CollectionSpec, Key, Record, Write, WriteOp, WriteResult
from proxy.plane import Plane
from proxy.query import CountQuery, Group, ListQuery, SearchQuery, SearchResult
from proxy.read_path import ReaderParts, ReadPath
from proxy.routing.member import MemberSettings, Membership
from proxy.server.write_path import WritePathParts, WritePathSettings, build_write_path
from proxy.stores.base import Store
from proxy.stores.memory import MemoryStore
from tests.doc_server import schemas


class Faulty:
    """A store whose calls can be made to fail or to wait; everything else is the inner store's."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.fail_apply: CrossfadeError | None = None
        self.fail_reads: CrossfadeError | None = None
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.applied: list[Write] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def apply(
        self, writes: Sequence[Write], *, atomic: bool, deadline_s: float
    ) -> list[WriteResult]:
        """Wait at the gate, fail if told to, else apply."""
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_apply is not None:
            raise self.fail_apply
        self.applied.extend(writes)
        return await self._inner.apply(writes, atomic=atomic, deadline_s=deadline_s)

    async def get(
        self, collection: str, keys: Sequence[Key], *, vectors: bool, deadline_s: float
    ) -> dict[Key, Record]:
        """Fail if told to, else read."""
        if self.fail_reads is not None:
            raise self.fail_reads
        return await self._inner.get(collection, keys, vectors=vectors, deadline_s=deadline_s)

    async def list_records(self, query: ListQuery, *, deadline_s: float) -> list[Record]:
        """Fail if told to, else read."""
        if self.fail_reads is not None:
            raise self.fail_reads
        return await self._inner.list_records(query, deadline_s=deadline_s)

    async def count(self, query: CountQuery, *, deadline_s: float) -> list[Group]:
        """Fail if told to, else count."""
        if self.fail_reads is not None:
            raise self.fail_reads
        return await self._inner.count(query, deadline_s=deadline_s)

    async def search(self, query: SearchQuery, *, deadline_s: float) -> SearchResult:
        """Fail if told to, else search."""
        if self.fail_reads is not None:
            raise self.fail_reads
        return await self._inner.search(query, deadline_s=deadline_s)


class Chooser:
    """Sends everybody to one side."""

    def __init__(self) -> None:
        self.new = False

    def read_new(self, targeting_key: str, attributes: Mapping[str, str]) -> bool:
        """Return what the test set."""
        return self.new


class NoDirt:
    """Reports a count that the test sets."""

    def __init__(self) -> None:
        self.count = 0

    def dirty(self, collection: str) -> int:
        """Return the count for every collection."""
        return self.count


@dataclass
class Seen:
    """An observer that keeps what it was told."""

    readings: list[Reading] = field(default_factory=list)

    def observe(self, reading: Reading) -> None:
        """Keep it."""
        self.readings.append(reading)


@dataclass
class Rig:
    """One replica and what it is made of."""

    ledger: Ledger
    stores: dict[str, Faulty]
    plane: Plane
    writer: DualWriter
    reader: ReadPath
    member: Membership
    settle: SettleQueue
    chooser: Chooser
    dirt: NoDirt
    seen: Seen
    following: asyncio.Task[None]

    async def go(self, phase: Phase, *, primary: str = "old", percent: float = 0.0) -> Routing:
        """Put a routing in force and wait until this replica follows and has acknowledged it."""
        routing = Routing(epoch=0, phase=phase, primary=primary, percent=percent)
        epoch = (await self.ledger.routing()).epoch
        changed = await self.ledger.change_routing(
            epoch, routing, EventDraft(kind="phase", actor="test")
        )
        await self.acknowledged(changed.epoch)
        return changed

    async def acknowledged(self, epoch: int) -> None:
        """Wait until every live replica has acknowledged an epoch."""
        async with asyncio.timeout(10):
            while any(
                item.alive and item.acked_epoch < epoch for item in await self.ledger.replicas()
            ):
                await asyncio.sleep(0)

    async def dirty(self, collection: str = "documents") -> set[Key]:
        """Settle what waits and return the dirty keys."""
        await self.settled()
        return {item.key for item in await self.ledger.dirty_keys(collection, limit=1000)}

    async def settled(self) -> None:
        """Settle everything, what is delayed included."""
        await self.settle.wait_delayed(timeout_s=10)
        await self.settle.flush()

    async def end(self) -> None:
        """Let the writes end, and follow the routing no longer."""
        await self.writer.drain(timeout_s=5)
        self.following.cancel()
        await asyncio.gather(self.following, return_exceptions=True)

    async def stored(self, side: str, key: Key, collection: str = "documents") -> Record | None:
        """Read a record straight from a store."""
        found = await self.stores[side].get(collection, [key], vectors=True, deadline_s=5)
        return found.get(key)


def faulty_stores(made: Mapping[str, StoreSchema] | None = None) -> dict[str, Faulty]:
    """Return two memory stores, with the doc server's layouts if no others are given."""
    clock, made = SystemClock(), made or schemas()
    return {name: Faulty(MemoryStore(name, made[name], clock)) for name in ("old", "new")}


def _settings(writes: WriteSettings, lease_s: float) -> WritePathSettings:
    member = MemberSettings(
        lease_s=lease_s,
        hold_max_s=writes.hold_max_s,
        address="test",
        ledger_down=writes.ledger_down,
    )
    return WritePathSettings(writes=writes, member=member, settle_delay_s=0.001)


@asynccontextmanager
async def replica(
    ledger: Ledger | None = None,
    stores: dict[str, Faulty] | None = None,
    *,
    writes: WriteSettings | None = None,
    reads: ReadSettings | None = None,
    lease_s: float = 30.0,
    embedder: Embedder | None = None,
    specs: Mapping[str, CollectionSpec] | None = None,
) -> AsyncIterator[Rig]:
    """Run a replica; several may share a ledger and stores.

    `specs` are the collections as clients see them, the old store's if none are given.
    """
    clock = SystemClock()
    ledger = ledger or MemoryLedger(clock)
    stores = stores or faulty_stores()
    parts = WritePathParts(
        stores=stores,
        ledger=ledger,
        intents=ledger,
        clock=clock,
        specs=specs or stores["old"].schema.collections,
        embedder=embedder,
    )
    path = build_write_path(parts, _settings(writes or WriteSettings(), lease_s))
    chooser, dirt, seen = Chooser(), NoDirt(), Seen()
    reader = ReadPath(
        ReaderParts(
            sides=path.sides,
            ledger=ledger,
            member=path.member,
            chooser=chooser,
            dirty=dirt,
            clock=clock,
            specs=path.specs,
            observers=(seen,),
            embedder=embedder,
        ),
        reads or ReadSettings(dirty_keys_max=10),
    )
    await path.member.start()
    running = asyncio.create_task(path.member.run())
    made = Rig(
        ledger=ledger,
        stores=stores,
        plane=path.plane(reader),
        writer=path.writer,
        reader=reader,
        member=path.member,
        settle=path.settle,
        chooser=chooser,
        dirt=dirt,
        seen=seen,
        following=running,
    )
    try:
        yield made
    finally:
        await made.end()


def context(idempotency_key: str = "", *, deadline_s: float = 10.0) -> RequestContext:
    """Return a request's context."""
    return RequestContext(
        request_id="r",
        targeting_key="t",
        deadline_s=deadline_s,
        idempotency_key=idempotency_key,
    )


def upsert(key: Key, content: str = "text", **fields: Any) -> Write:
    """Return an upsert of a document as a client asks for it."""
    return Write(
        op=WriteOp.UPSERT,
        collection="documents",
        key=key,
        fields={"content": content, **fields},
        set_vector=False,
    )


async def with_source(rig: Rig, name: str = "serde") -> None:
    """Write the parent that documents need."""
    await rig.plane.write(
        Write(op=WriteOp.UPSERT, collection="sources", key=("rust", name), fields={}), context()
    )
