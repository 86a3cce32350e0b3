"""The replica that most tests of the write path write through."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.config.settings import WriteSettings
from proxy.ledger.types import Phase
from tests.rig import Rig, replica, with_source

_SOON = WriteSettings(late_write_s=0.01)
"""A write that was given up may land for so short a time that no test waits for it."""


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """Return a replica that writes to both stores, which hold a source."""
    async with replica(writes=_SOON) as made:
        await made.go(Phase.DUAL_WRITE)
        await with_source(made)
        yield made
