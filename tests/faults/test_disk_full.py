"""A full disk: of the ledger, of the old store, of LanceDB. Errors are clear, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from crossfade.client import AsyncClient
from crossfade.client.errors import CallError

from tests.faults.harness.databases import vector_of
from tests.faults.harness.disks import small_disk
from tests.faults.harness.servers import OwnServer, own_server
from tests.faults.harness.trial import PAIRS, open_trial
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
WIDE = "wide " * 2000


@pytest.fixture(scope="module")
def server(pg_admin: str) -> Iterator[OwnServer]:
    """Return a server on a small disk of its own; the shared one has started before."""
    with own_server(disk_mb=250) as found:
        yield found


async def refused(client: AsyncClient, collection: str = "pages") -> CallError:
    """Write wide records until one is refused; return why."""
    for number in range(2000):
        key = ("rust", "wide", f"page-{number}")
        try:
            await client.upsert(collection, key, {"content": WIDE}, vector=vector_of("v"))
        except CallError as error:
            return error
    raise AssertionError("the disk never was full")


async def writes(client: AsyncClient, path: str, *, clean: bool = True) -> bool:
    """Write a record; False if it is refused, or (clean) on the primary alone."""
    key = ("rust", "wide", path)
    try:
        ack = await client.upsert("pages", key, {"content": "c"}, vector=vector_of("v"))
    except CallError:
        return False
    return not (clean and ack.secondary_pending)


@pytest.mark.parametrize("engines", PAIRS, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
@pytest.mark.parametrize("full", ["ledger", "old"])
async def test_a_full_disk_of_the_database_server_refuses_writes_until_there_is_room(
    engines: tuple[str, str],
    full: str,
    server: OwnServer,
    new_database: Callable[[], str],
    tmp_path: Path,
) -> None:
    """First rows find no room, then the server itself goes down over its log."""
    made = [server.make() if name == full else new_database() for name in ("old", "new")]
    ledger = server.make() if full == "ledger" else new_database()
    assert server.disk is not None
    async with open_trial(engines, tmp_path, lambda: made.pop(0), ledger=ledger) as trial:
        await trial.begin()
        client = trial.replica.client
        async with trial.under_load(workers=3):
            server.disk.fill(server.pids())
            error = await refused(client)
            assert error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), error.message
            assert full in error.message or error.detail.metadata["where"] == full
            await trial.tried(10)
            log_switches(server)
            await trial.tried(10)
            server.disk.free()
            await server.start()
            await until(lambda: writes(client, "later", clean=False), what="a write with room")
            await trial.more(20)
        await trial.ends_well()


def log_switches(server: OwnServer) -> None:
    """Make the server need a new file for its log."""
    try:
        with psycopg.connect(server.admin, autocommit=True) as connection:
            connection.execute("SELECT pg_switch_wal()")
    except psycopg.Error as error:
        print(f"the server said: {error}")


async def test_a_full_disk_of_lancedb_fails_no_write_and_is_repaired_when_there_is_room(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    """LanceDB as the secondary: writes are acknowledged, pending; repair brings them over."""
    with small_disk(tmp_path / "disk", 16) as disk:
        async with open_trial(
            ("postgresql", "lancedb"), disk.folder, new_database, logs=tmp_path
        ) as trial:
            trial.scene.overrides["ledger"] = {"lease_s": 20.0}  # only the disk is tried here
            await trial.begin()
            client = trial.replica.client
            async with trial.under_load(workers=3) as load:
                disk.fill([trial.replica.process.child.pid])
                await until(
                    lambda: told_pending(client), what="a write on the primary alone", timeout_s=20
                )
                await trial.more(20)
                assert not {"UNAVAILABLE", "INTERNAL"} & {n.split()[0] for n in load.errors}
                disk.free()
                await until(lambda: writes(client, "later"), what="a write on both stores")
                await trial.more(10)
            await trial.ends_well()


async def told_pending(client: AsyncClient) -> bool:
    """Write a record; True if it is on the primary alone."""
    key = ("rust", "wide", "pending")
    ack = await client.upsert("pages", key, {"content": WIDE}, vector=vector_of("v"))
    return ack.secondary_pending
