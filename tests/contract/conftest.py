"""The stores under contract, one line each, and the ledgers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import StoreSettings
from proxy.layouts import StoreSchema
from proxy.ledger.base import Ledger
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.postgres import PostgresLedger
from proxy.stores.base import Store
from proxy.stores.lancedb import LanceStore
from proxy.stores.memory import MemoryStore
from proxy.stores.postgres import PostgresStore
from tests.doc_server import create_tables, in_lance, schemas, schemas_with_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a store of a test may live."""

    new_database: Callable[[], str]
    folder: Path


MakeStore = Callable[[str, StoreSchema, Place], Store]


def _memory(side: str, schema: StoreSchema, place: Place) -> Store:
    return MemoryStore(side, schema, SystemClock())


def _postgres(side: str, schema: StoreSchema, place: Place) -> Store:
    dsn = place.new_database()
    create_tables(dsn, side)
    return PostgresStore(side, dsn, schema, pool_min=1, pool_max=4)


def _lance(side: str, schema: StoreSchema, place: Place) -> Store:
    settings = StoreSettings(engine="lancedb", uri=str(place.folder))
    return LanceStore(side, settings, in_lance(schema), SystemClock())


STORES: dict[str, tuple[str, MakeStore]] = {
    "lancedb-old": ("old", _lance),
    "lancedb-new": ("new", _lance),
    "memory-old": ("old", _memory),
    "memory-new": ("new", _memory),
    "postgresql-old": ("old", _postgres),
    "postgresql-new": ("new", _postgres),
}


@pytest.fixture
def place(new_database: Callable[[], str], tmp_path: Path) -> Place:
    """Return where the test's stores may live."""
    return Place(new_database=new_database, folder=tmp_path)


@pytest.fixture(params=sorted(STORES))
async def store(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Store]:
    """Return each store in turn, open and empty."""
    side, make = STORES[request.param]
    made = make(side, schemas()[side], place)
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=sorted(STORES))
async def wordy(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Store]:
    """Return each store in turn, open and empty, with collections that are searched by words."""
    side, make = STORES[request.param]
    made = make(side, schemas_with_words()[side], place)
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=["memory", "postgresql"])
async def ledger(
    request: pytest.FixtureRequest, new_database: Callable[[], str]
) -> AsyncIterator[Ledger]:
    """Return each ledger in turn, open, with two replicas."""
    made: Ledger
    if request.param == "memory":
        made = MemoryLedger(SystemClock())
    else:
        made = PostgresLedger(new_database(), "m1")
    await made.open()
    for replica in ("r1", "r2"):
        await made.register_replica(replica, address="", lease_s=60, ledger_down="refuse")
    yield made
    await made.close()
