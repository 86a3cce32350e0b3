"""A bad network between a proxy and its servers, under load, for every pair of engines."""

from __future__ import annotations

import asyncio

import pytest
from crossfade.client import AsyncClient, Read

from tests.faults.harness.databases import vector_of
from tests.faults.harness.relay import Relay, TcpTarget
from tests.faults.harness.trial import Trial, weight

pytestmark = pytest.mark.faults


async def break_in_every_way(trial: Trial, relay: Relay) -> None:
    """Do to the wire all that a wire can do, a little of each, while clients work."""
    for fault in (relay.cut, relay.half_close, relay.hold):
        fault()
        await trial.tried(5)
        relay.heal()
        await trial.more(2)
    relay.delay_s = 0.03
    await trial.tried(10)
    relay.heal()
    relay.bytes_per_s_max = 20_000
    await trial.tried(10)
    relay.heal()
    await relay.refuse()
    await trial.tried(10)
    await relay.accept()
    await trial.more(10)


async def test_cuts_half_closes_holds_delays_throttles_and_refusals_lose_nothing(
    trial: Trial,
) -> None:
    relays = [await trial.relay(name) for name in ("old", "ledger")]
    await trial.begin()
    async with trial.under_load():
        for relay in relays:
            await break_in_every_way(trial, relay)
    assert await trial.ends_well() > 0


async def test_clients_that_cancel_at_random_lose_nothing_of_what_was_acknowledged(
    trial: Trial,
) -> None:
    trial.load.cancels = 0.5
    await trial.begin(proxies=2)
    async with trial.under_load(workers=10) as load:
        await trial.more(100)
    assert load.cancelled > 20
    await trial.ends_well()


async def test_a_client_that_does_not_read_its_answers_delays_nobody_else(trial: Trial) -> None:
    await trial.begin()
    wide = "wide " * 20_000
    client = trial.replica.client
    for number in range(10):
        await client.upsert(
            "pages", ("rust", "wide", f"{number}"), {"content": wide}, vector=vector_of("v")
        )
    host, port = trial.replica.target.split(":")
    async with Relay(TcpTarget(host, int(port))) as relay:
        slow = AsyncClient(f"127.0.0.1:{relay.port}", timeout_s=60.0)
        await slow.list("pages", limit=1)
        before_mb, _ = weight(trial.replica.process)
        relay.hold(up=False)
        lists = [
            asyncio.create_task(slow.list("pages", limit=10, read=Read(vector=True)))
            for _ in range(20)
        ]
        async with trial.under_load():
            await trial.more(40)
        after_mb, _ = weight(trial.replica.process)
        assert after_mb - before_mb < 200, "answers that nobody takes are bounded"
        relay.release()
        pages = await asyncio.gather(*lists)
        assert {len(page.records) for page in pages} == {10}
        await slow.close()
    await trial.ends_well()
