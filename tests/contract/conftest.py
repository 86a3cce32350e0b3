"""The stores under contract: one line each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from proxy.clock import SystemClock
from proxy.stores.base import Store
from proxy.stores.memory import MemoryStore
from proxy.stores.postgres import PostgresStore
from tests.doc_server import create_tables, schemas

MakeStore = Callable[[str, Callable[[], str]], Store]


def _memory(side: str, new_database: Callable[[], str]) -> Store:
    return MemoryStore(side, schemas()[side], SystemClock())


def _postgres(side: str, new_database: Callable[[], str]) -> Store:
    dsn = new_database()
    create_tables(dsn, side)
    return PostgresStore(side, dsn, schemas()[side], pool_min=1, pool_max=4)


STORES: dict[str, tuple[str, MakeStore]] = {
    "memory-old": ("old", _memory),
    "memory-new": ("new", _memory),
    "postgresql-old": ("old", _postgres),
    "postgresql-new": ("new", _postgres),
}


@pytest.fixture(params=sorted(STORES))
async def store(
    request: pytest.FixtureRequest, new_database: Callable[[], str]
) -> AsyncIterator[Store]:
    """Return each store in turn, open and empty."""
    side, make = STORES[request.param]
    made = make(side, new_database)
    await made.open()
    yield made
    await made.close()
