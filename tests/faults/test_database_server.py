"""kill -9 and SIGSTOP of the database server itself, under load, for every pair of engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.harness.servers import OwnServer, own_server
from tests.faults.harness.trial import PAIRS, Trial, name_of, open_trial

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server(pg_admin: str) -> Iterator[OwnServer]:
    """Return a server of these tests' own; the shared one has started before."""
    with own_server() as found:
        yield found


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
async def hosted(
    request: pytest.FixtureRequest, server: OwnServer, tmp_path: Path
) -> AsyncIterator[Trial]:
    """Return a trial whose every database is on that server."""
    async with open_trial(request.param, tmp_path, server.make) as trial:
        yield trial


async def test_a_server_that_is_killed_suspended_and_killed_in_part_loses_nothing(
    hosted: Trial, server: OwnServer
) -> None:
    await hosted.begin()
    async with hosted.under_load():
        await server.kill()
        await hosted.failed(5)
        await server.start()
        await hosted.more(20)
        server.freeze()
        try:
            await hosted.failed(2)
        finally:
            server.thaw()
        await hosted.more(20)
        for dsn in (hosted.scene.dbs.old, hosted.scene.dbs.ledger):
            await server.kill_backend(name_of(dsn))
            await hosted.more(10)
    await server.start()  # writes may have been acknowledged without it
    await hosted.ends_well()
