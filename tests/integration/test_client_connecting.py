"""A client connects over a network, or to a machine, that takes its time for a handshake."""

from __future__ import annotations

import asyncio

from crossfade.client import AsyncClient

from tests.faults.harness.relay import Relay, TcpTarget
from tests.wire_fakes import FakeDataPlane
from tests.wire_server import serving


async def test_a_slow_handshake_is_waited_for() -> None:
    async with (
        serving(FakeDataPlane()) as server,
        Relay(TcpTarget("127.0.0.1", server.port)) as relay,
    ):
        relay.hold(up=False)  # what the server says first
        asyncio.get_running_loop().call_later(1.0, relay.release)
        client = AsyncClient(f"127.0.0.1:{relay.port}", retries=0, timeout_s=20.0)
        try:
            assert await client.get("documents", ("serde", "a")) is None
            assert relay.accepted == 1, "no connection was given up"
        finally:
            await client.close()
