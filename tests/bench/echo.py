"""A gRPC server that does nothing: what a call of the same size costs before any work is done.

Run: python -m tests.bench.echo. It prints its port; a request names the bytes of its answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import uvloop
from crossfade.client.transport import MESSAGE_BYTES_MAX, open_channel

from proxy.demo.processes import ChildFailed, Household
from tests.bench.sampling import Way

METHOD: Final = "/crossfade.bench.Echo/Call"
_SERVICE, _NAME = METHOD.strip("/").split("/")
_HEAD: Final = 4
_DEADLINE_S: Final = 60.0


@asynccontextmanager
async def empty_calls(
    household: Household, *, request_bytes: int, answer_bytes: int
) -> AsyncIterator[Way]:
    """Yield calls to such a server, in a process of its own, with messages of these sizes."""
    child = await household.start("echo", ["-m", "tests.bench.echo"], talk=True)
    try:
        if child.process.stdout is None:
            raise ChildFailed("The echo server has no output to read.")
        port = int(await child.process.stdout.readline())
        request = answer_bytes.to_bytes(_HEAD, "big") + bytes(max(0, request_bytes - _HEAD))
        async with open_channel(f"127.0.0.1:{port}", None, MESSAGE_BYTES_MAX) as channel:
            method = channel.unary_unary(METHOD, None, None)

            async def call(number: int) -> object:
                return await method(request, timeout=_DEADLINE_S)

            yield call
    finally:
        await household.stop(child)


async def _answer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return bytes(int.from_bytes(request[:_HEAD], "big"))


async def _serve() -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(_answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {_NAME: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())
