"""What a phase step is judged by: gathered once, with I/O, so that judging is pure."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.controlplane import Precondition, StoreHealth
from proxy.errors import CrossfadeError, StoreProblem
from proxy.ledger.base import Ledger
from proxy.ledger.types import DeadLetter, Job, JobKind, JobState, Replica, Routing
from proxy.model import JsonValue
from proxy.stores.base import IndexState, Store
from proxy.stores.sides import Sides

_PING_S = 3.0
_BACKFILLS_MAX = 200
"""Backfills looked at for a whole one: partial ones and dry runs may have come after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The state of a migration at one moment.

    Attributes:
        problems: what `Store.check` found, both stores.
        backfill: the newest finished backfill that covers this dual-write period, None if none.
        gate: the shadow gate's conditions; none in a phase without shadow reads.
        at: when all this was known, by the clock of this replica.
    """

    routing: Routing
    health: Sequence[StoreHealth]
    problems: Sequence[StoreProblem]
    replicas: Sequence[Replica]
    unsettled: int
    dirty: Mapping[str, int]
    backfill: Job | None
    dead_letters: Sequence[DeadLetter]
    indexes: Sequence[IndexState]
    flags: Mapping[str, JsonValue]
    gate: Sequence[Precondition]
    at: dt.datetime


def flag_time(flags: Mapping[str, JsonValue], name: str) -> dt.datetime | None:
    """Return the "at" of a flag that is an object, None if it is not set."""
    value = flags.get(name)
    at = value.get("at") if isinstance(value, Mapping) else None
    return dt.datetime.fromisoformat(at) if isinstance(at, str) else None


def flag_number(flags: Mapping[str, JsonValue], name: str, field: str) -> int:
    """Return a number out of a flag that is an object, 0 if it is not there."""
    value = flags.get(name)
    number = value.get(field) if isinstance(value, Mapping) else None
    return number if isinstance(number, int) else 0


async def health_of(name: str, sides: Sides, routing: Routing, engine: str) -> StoreHealth:
    """Ping one store and time it."""
    side = sides[name]
    began_s = asyncio.get_running_loop().time()
    detail = ""
    try:
        async with asyncio.timeout(_PING_S + 0.5):
            await side.store.ping(deadline_s=_PING_S)
    except (CrossfadeError, TimeoutError) as error:
        detail = str(error) or f"no answer within {_PING_S:g} s"
    return StoreHealth(
        name=name,
        role="primary" if name == routing.primary else "secondary",
        engine=engine,
        healthy=not detail,
        breaker=side.breaker.state,
        detail=detail,
        latency_ms=(asyncio.get_running_loop().time() - began_s) * 1000.0,
    )


async def check_store(store: Store) -> list[StoreProblem]:
    """Return what is wrong with a store's tables; an unreachable store is one problem."""
    try:
        return await store.check()
    except CrossfadeError as error:
        return [StoreProblem(store=store.name, what=str(error))]


async def index_states(store: Store) -> list[IndexState]:
    """Return a store's index states; no answer is one index that is not ready."""
    try:
        return await store.index_states()
    except CrossfadeError as error:
        unknown = IndexState(collection="*", name="", exists=False, ready=False, detail=str(error))
        return [unknown]


async def finished_backfill(ledger: Ledger, flags: Mapping[str, JsonValue]) -> Job | None:
    """Return the newest finished full backfill since both stores have been written."""
    since = flag_number(flags, "dual_write", "epoch")
    for job in await ledger.jobs(kind=JobKind.BACKFILL, limit=_BACKFILLS_MAX):
        whole = not job.params.get("dry_run") and not job.params.get("collections")
        if job.state is JobState.DONE and job.epoch >= since and whole:
            return job
    return None
