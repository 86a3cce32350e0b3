"""Fixtures of the fault tests: a migration on fresh databases of the shared server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.faults.harness.databases import make_databases
from tests.faults.harness.scene import Scene, open_scene


@pytest.fixture
async def scene(new_database: Callable[[], str], tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a migration with empty tables; nothing of it is running yet."""
    async with open_scene(tmp_path, make_databases(new_database)) as found:
        yield found
