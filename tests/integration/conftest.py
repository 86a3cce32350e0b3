"""Fixtures of several tests of the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.doc_server import create_tables
from tests.faults.harness.relay import Relay, relay_to
from tests.integration.databases import Databases


@pytest.fixture
async def both(new_database: Callable[[], str]) -> AsyncIterator[Databases]:
    """Return both databases with their tables, and their stores open."""
    dsns = {}
    for side in ("old", "new"):
        dsns[side] = new_database()
        create_tables(dsns[side], side)
    made = Databases(dsns)
    await made.old.open()
    await made.new.open()
    yield made
    await made.old.close()
    await made.new.close()


@pytest.fixture
async def relay(new_database: Callable[[], str]) -> AsyncIterator[Relay]:
    """Return a relay before a database of the new layout, which `direct` leads to."""
    dsn = new_database()
    create_tables(dsn, "new")
    async with relay_to(dsn) as relay:
        relay.direct = dsn  # type: ignore[attr-defined]  # for the tests alone
        yield relay
