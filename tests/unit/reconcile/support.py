"""A migration in memory for the reconciler's tests: two stores, a ledger, live writes, faults."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from proxy.config.settings import ReconcileSettings
from proxy.embedding.base import Embedder
from proxy.errors import Unavailable
from proxy.layouts import StoreSchema
from proxy.ledger.base import Ledger
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import (
    EventDraft,
    Intent,
    IntentDraft,
    Job,
    JobKind,
    Phase,
    Routing,
    Settlement,
)
from proxy.model import Key, Record, Write
from proxy.query import KeyRange
from proxy.stores.base import Store
from proxy.stores.memory import MemoryStore
from reconcile.checkpoint import BatchSeen
from reconcile.jobs import Reconciler, Tools
from reconcile.retry import RetryPolicy
from reconcile.snapshot import Step
from tests.doc_server import document, schemas, source

REPLICA = "replica-1"


class FastClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.slept: list[float] = []
        self._start = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)

    def monotonic_s(self) -> float:
        return 1000.0 + self.passed_s

    def now(self) -> dt.datetime:
        return self._start + dt.timedelta(seconds=self.passed_s)

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        for _ in range(50):  # others get far in a second, as on a real machine
            await asyncio.sleep(0)
        self.passed_s += delay_s


class Killed(BaseException):
    """The process dies here."""


class Mortal:
    """A ledger as a process sees it: after `die` nothing gets through any more."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._dead = False

    def die(self) -> None:
        self._dead = True

    def rise(self) -> None:
        """Get through again: it was only the way to the ledger."""
        self._dead = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)
        if not callable(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._dead:
                raise Unavailable("this process is dead", where="ledger")
            return await method(*args, **kwargs)

        return call


class Wrapped:
    """A store with some of its methods replaced."""

    def __init__(self, store: Store, **replaced: Any) -> None:
        self._store = store
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name, getattr(self._store, name))


class Watcher:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.batches: list[BatchSeen] = []
        self.problems: list[tuple[str, Exception]] = []

    def progress(self, job: Job) -> None:
        self.jobs.append(job)

    def batch(self, seen: BatchSeen) -> None:
        self.batches.append(seen)

    def problem(self, where: str, error: Exception) -> None:
        self.problems.append((where, error))


Hook = Callable[[], Awaitable[None]]


@dataclass
class Rig:
    """A migration in phase dual_write, old store primary, one live replica."""

    clock: FastClock = field(default_factory=FastClock)
    settings: ReconcileSettings = field(
        default_factory=lambda: ReconcileSettings(batch_rows=10, range_rows=25, workers=1)
    )
    watcher: Watcher = field(default_factory=Watcher)
    schemas: Mapping[str, StoreSchema] = field(default_factory=schemas)
    embedder: Embedder | None = None

    def __post_init__(self) -> None:
        self.old = MemoryStore("old", self.schemas["old"], self.clock)
        self.new = MemoryStore("new", self.schemas["new"], self.clock)
        self.ledger = MemoryLedger(self.clock)
        self.stores: dict[str, Store] = {"old": self.old, "new": self.new}
        self.hooks: dict[Step, list[Hook]] = {}
        self.reached: list[Step] = []

    async def start(self, phase: Phase = Phase.DUAL_WRITE, primary: str = "old") -> Rig:
        await self.ledger.register_replica(REPLICA, address="", lease_s=1e9, ledger_down="refuse")
        await self.route(phase=phase, primary=primary)
        return self

    async def route(self, **changes: Any) -> Routing:
        """Change the routing; the replica acknowledges it."""
        now = await self.ledger.routing()
        after = replace(now, **changes)
        began = now.phase is Phase.OLD_ONLY and after.phase is Phase.DUAL_WRITE
        routing = await self.ledger.change_routing(
            now.epoch,
            after,
            EventDraft(kind="test", actor="test"),
            note="swap" if after.primary != now.primary else "dual_write" if began else "",
        )
        await self.ledger.renew_replica(REPLICA, acked_epoch=routing.epoch, lease_s=1e9)
        return routing

    def reconciler(
        self, owner: str = "runner", ledger: object = None, **settings: Any
    ) -> Reconciler:
        tools = Tools(
            clock=self.clock,
            rng=random.Random(7),
            observer=self.watcher,
            retry=RetryPolicy(attempts_max=5),
            reach=self.reach,
            embedder=self.embedder,
        )
        return Reconciler(
            self.stores,
            cast(Ledger, ledger or self.ledger),
            ReconcileSettings.model_validate({**self.settings.model_dump(), **settings}),
            owner=owner,
            tools=tools,
        )

    async def reach(self, step: Step) -> None:
        self.reached.append(step)
        await asyncio.sleep(0)
        waiting = self.hooks.get(step, [])
        if waiting:
            await waiting.pop(0)()

    def at(self, step: Step, *hooks: Hook) -> None:
        """Run each hook at one of the next visits of a step."""
        self.hooks.setdefault(step, []).extend(hooks)

    async def run(self, kind: JobKind, **params: Any) -> Job:
        return await self.reconciler().run_once(kind, params)

    # Data.

    async def put(self, *writes: Write, on: str = "both") -> None:
        """Store records behind the proxy's back."""
        for name in ("old", "new") if on == "both" else (on,):
            results = await self.stores[name].apply(writes, atomic=False, deadline_s=5)
            assert all(item.applied.value in ("done", "not_found") for item in results), results

    async def fill(
        self, count: int, *, on: str = "old", crates: Iterable[str] = ("serde",)
    ) -> None:
        """Store `count` documents, shared out among the crates."""
        names = list(crates)
        await self.put(*(source(name) for name in names), on=on)
        writes = [
            document(
                f"{number:05d}.html", name=names[number % len(names)], number=number, packed=None
            )
            for number in range(count)
        ]
        await self.put(*writes, on=on)

    async def begin_write(self, write: Write) -> Intent:
        """Make a live write's intent durable (step 3 of the write path)."""
        routing = await self.ledger.routing()
        draft = IntentDraft(collection=write.collection, key=write.key, op=write.op.value)
        (intent,) = await self.ledger.append([draft], epoch=routing.epoch, replica_id=REPLICA)
        return intent

    async def end_write(self, intent: Intent, *, clean: bool = True) -> None:
        await self.ledger.settle(
            [Settlement(intent=intent, clean=clean, reason="" if clean else "test")]
        )

    async def write(self, *writes: Write) -> None:
        """Do live dual writes, complete."""
        for write in writes:
            intent = await self.begin_write(write)
            await self.put(write)
            await self.end_write(intent)

    # What came of it.

    async def records(self, name: str, collection: str) -> Mapping[Key, Record]:
        store = self.stores[name]
        keys = await store.range_keys(collection, KeyRange(), order="C", deadline_s=5)
        return await store.get(collection, keys, vectors=True, deadline_s=5)

    async def differing(self) -> list[tuple[str, Key]]:
        """Return every key whose two sides differ in what both stores hold (rust alone)."""
        found: list[tuple[str, Key]] = []
        for collection, spec in self.old.schema.collections.items():
            fields = self.old.schema.stored_value_fields(
                collection
            ) & self.new.schema.stored_value_fields(collection)
            old, new = await self.records("old", collection), await self.records("new", collection)
            layout = self.old.schema.layouts[collection]
            for key in sorted({*old, *new}, key=repr):
                if not layout.holds(spec, key):
                    continue
                sides = [self._comparable(side.get(key), fields) for side in (old, new)]
                if sides[0] != sides[1]:
                    found.append((collection, key))
        return found

    @staticmethod
    def _comparable(record: Record | None, fields: Iterable[str]) -> object:
        if record is None:
            return None
        return {name: record.fields.get(name) for name in fields}, record.vector

    async def dirty(self) -> set[tuple[str, Key]]:
        return {
            (name, item.key)
            for name in self.old.schema.collections
            for item in await self.ledger.dirty_keys(name, limit=10_000)
        }

    def open_snapshots(self) -> int:
        return len(self.ledger.state.snapshots)


def doc(number: int, name: str = "serde") -> Key:
    """Return the key of the document that `Rig.fill` stores under a number."""
    return ("rust", name, f"{number:05d}.html")
