"""Fixtures of several tests of the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.doc_server import create_tables
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
