"""A replica that is cut off from the ledger does not serve stale reads for ever."""

from __future__ import annotations

import asyncio

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import ReadSettings
from proxy.errors import Unavailable
from proxy.ledger.types import Phase
from proxy.model import Key
from proxy.query import CountQuery, ListQuery, Projection, SearchQuery
from proxy.server.health import LeaseHealth
from tests.doc_server import vector
from tests.rig import Rig, context, replica, upsert, with_source

KEY: Key = ("rust", "serde", "a")
PRIMARIES = [
    (Phase.OLD_ONLY, "old"),
    (Phase.DUAL_WRITE, "old"),
    (Phase.SHADOW, "old"),
    (Phase.RAMP, "old"),
    (Phase.NEW_PRIMARY, "new"),
    (Phase.NEW_ONLY, "new"),
]


async def written(rig: Rig) -> None:
    await rig.go(Phase.DUAL_WRITE)
    await with_source(rig)
    await rig.plane.write(upsert(KEY, "first"), context())
    await rig.settle.flush()


async def cut_off(rig: Rig, *, over_s: float) -> None:
    """End what renews the lease, as without the ledger; it ended `over_s` ago."""
    rig.following.cancel()
    await asyncio.wait({rig.following})
    rig.member.reachable = False
    rig.member._lease_until_s = SystemClock().monotonic_s() - over_s


async def content(rig: Rig) -> object:
    got = await rig.plane.get("documents", [KEY], Projection(), context())
    (record,) = got.records
    return None if record is None else record.fields["content"]


@pytest.mark.parametrize(("phase", "primary"), PRIMARIES)
async def test_past_lease_and_grace_every_read_is_refused_until_the_lease_is_renewed(
    phase: Phase, primary: str
) -> None:
    async with replica() as rig:
        await written(rig)
        await rig.go(phase, primary=primary)
        await cut_off(rig, over_s=5.1)
        search = SearchQuery(collection="documents", vector=vector(1))
        for read in (
            rig.plane.get("documents", [KEY], Projection(), context()),
            rig.plane.list_records(ListQuery(collection="documents"), context()),
            rig.plane.count(CountQuery(collection="documents"), context()),
            rig.plane.search(search, context()),
        ):
            with pytest.raises(Unavailable, match="has not reached the ledger") as caught:
                await read
            assert caught.value.where == "ledger"
            assert "another replica" in caught.value.hint
        await rig.member.refresh()
        assert await content(rig) == "first"


async def test_within_the_grace_reads_go_on() -> None:
    async with replica(reads=ReadSettings(lease_grace_s=60)) as rig:
        await written(rig)
        await cut_off(rig, over_s=30)
        assert await content(rig) == "first"


async def test_a_replica_that_is_told_to_serve_goes_on_without_its_lease() -> None:
    async with replica(reads=ReadSettings(lease_lost="serve")) as rig:
        await written(rig)
        await cut_off(rig, over_s=3600)
        assert await content(rig) == "first"


async def test_health_says_not_serving_from_the_end_of_the_lease_until_it_is_renewed() -> None:
    async with replica() as rig:
        told: list[bool] = []

        async def set_serving(serving: bool) -> None:
            told.append(serving)

        health = LeaseHealth(rig.member.lease_left_s, set_serving, SystemClock())
        await health.look()
        assert told == []
        await cut_off(rig, over_s=0.0)
        await health.look()
        await health.look()
        assert told == [False], "before reads are refused, and once"
        await rig.member.refresh()
        await health.look()
        assert told == [False, True]
