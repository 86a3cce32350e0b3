"""A process that speaks gRPC must be able to start another one: gRPC's fork handlers are off."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from proxy.cli.main import app

_FORKS = """
import asyncio, grpc, uvloop

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [asyncio.create_task(call(channel)) for _ in range(4)]
        for _ in range(20):
            process = await asyncio.create_subprocess_exec("true", start_new_session=True)
            assert await process.wait() == 0
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await server.stop(None)

async def call(channel):
    while True:
        try:
            await channel.unary_unary("/no/method")(b"")
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0)

uvloop.run(main())
"""


def test_every_command_turns_the_fork_handlers_of_grpc_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_ENABLE_FORK_SUPPORT", raising=False)
    assert CliRunner().invoke(app, ["plan", "--example"]).exit_code == 0
    assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "0"


def test_without_them_processes_start_while_calls_are_under_way() -> None:
    surroundings = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", _FORKS],
        env=surroundings,
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
