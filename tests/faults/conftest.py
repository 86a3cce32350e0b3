"""Fixtures of the fault tests: a migration on fresh databases of the shared server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.faults.harness.databases import make_databases
from tests.faults.harness.scene import Scene, open_scene
from tests.faults.harness.trial import PAIRS, Trial, open_trial


@pytest.fixture
async def scene(new_database: Callable[[], str], tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a migration with empty tables; nothing of it is running yet."""
    async with open_scene(tmp_path, make_databases(new_database)) as found:
        yield found


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
async def trial(
    request: pytest.FixtureRequest, new_database: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Trial]:
    """Return a trial between two engines, for every pair of them; nothing of it is running yet."""
    async with open_trial(request.param, tmp_path, new_database) as found:
        yield found
