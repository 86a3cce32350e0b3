"""One writing process a LanceDB folder: a second is refused, a dead one's place is free at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from crossfade.client.control_types import JobKind, Phase
from crossfade.client.errors import CallError

from tests.faults.harness.databases import Databases, vector_of
from tests.faults.harness.grounds import Pair
from tests.faults.harness.scene import Replica, Scene, open_scene
from tests.faults.harness.waiting import until
from tests.faults.test_lance_killed import settings
from tests.faults.test_paused import alive

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
_START_S = 90.0
"""A busy machine takes its time to import everything."""
KEYS = [("rust", "serde", f"page-{number}") for number in range(30)]


@pytest.fixture
async def pair(new_database: Callable[[], str], tmp_path: Path) -> Pair:
    """Return two stores with empty tables."""
    return Pair.make("postgresql", "lancedb", tmp_path, new_database)


@pytest.fixture
async def stage(
    pair: Pair, new_database: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Scene]:
    """Return a migration between them; nothing of it is running yet."""
    dbs = Databases(old=str(pair.old.section["dsn"]), new="", ledger=new_database())
    async with open_scene(tmp_path, dbs) as scene:
        scene.base = settings(pair, dbs.ledger)
        yield scene


def begun(replica: Replica, content: str) -> list[asyncio.Task[object]]:
    """Send one write of each key, and do not wait for the answers."""
    return [
        asyncio.create_task(
            replica.client.upsert("documents", key, {"content": content}, vector=vector_of("v"))
        )
        for key in KEYS
    ]


async def write_again(replica: Replica, content: str) -> None:
    """Write every key until it is written on both stores."""

    refusals: list[BaseException] = []

    async def written() -> bool:
        ended = await asyncio.gather(*begun(replica, content), return_exceptions=True)
        refusals[:] = [one for one in ended if isinstance(one, BaseException)]
        return not refusals

    try:
        await until(written, what="writes to go through", timeout_s=20)
    finally:
        print("refused at last:", refusals[:1])


async def test_a_proxy_that_slept_past_its_lease_comes_back_and_nothing_is_lost(
    stage: Scene, pair: Pair
) -> None:
    replica = await stage.serve()
    await stage.phase(replica, Phase.DUAL_WRITE)
    await asyncio.gather(*begun(replica, "first"))
    writing = begun(replica, "slept")
    await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
    replica.process.pause()
    gone = alive(stage)
    assert len(gone) == 1
    await until(lambda: not alive(stage), what="the end of its lease")
    replica.process.resume()
    ended = await asyncio.gather(*writing, return_exceptions=True)
    assert all(isinstance(one, CallError) for one in ended if isinstance(one, BaseException))
    await until(lambda: bool(alive(stage)), what="its return")
    stored = await pair.old.rows("documents")
    for key, one in zip(KEYS, ended, strict=True):
        if not isinstance(one, BaseException):
            assert stored[key][0] == "slept", f"{key} was acknowledged"
    await write_again(replica, "awake")
    await stage.quiet()
    await pair.assert_equal()
    assert {row[0] for row in (await pair.new.rows("documents")).values()} == {"awake"}


async def test_a_second_proxy_is_refused_while_the_first_lives_and_serves_at_once_after_kill_9(
    stage: Scene, pair: Pair
) -> None:
    first = await stage.serve("first")
    await stage.phase(first, Phase.DUAL_WRITE)
    await asyncio.gather(*begun(first, "first"))
    await refused(stage, pair)
    first.process.pause()
    await refused(stage, pair)
    first.process.resume()
    writing = begun(first, "last")
    await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
    await first.process.kill()
    await asyncio.gather(*writing, return_exceptions=True)
    second = await stage.serve("second")
    await write_again(second, "second")
    assert (await stage.job(second, JobKind.BACKFILL)).state.value == "done"
    await stage.quiet()
    await pair.assert_equal()
    assert {row[0] for row in (await pair.new.rows("documents")).values()} == {"second"}


async def refused(stage: Scene, pair: Pair) -> None:
    """Start another proxy on the same folder: it ends and says why, where, and what to do."""
    intruder = await stage.start_serve("intruder")
    try:
        code = await intruder.ended(_START_S)
    finally:
        with contextlib.suppress(AssertionError):
            await intruder.kill()
    said = await intruder.output() + intruder.tail(200)
    assert code not in (0, -9), said
    assert str(pair.new.section["uri"]) in said, said
    assert "another process" in said.lower() or "writ" in said.lower(), said
    assert "Traceback" not in said, said
