"""A gRPC server that does nothing: what a call of the same size costs before any work is done.

Run: python -m tests.bench.echo. It prints its port; a request names the bytes of its answer.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
import uvloop

METHOD: Final = "/crossfade.bench.Echo/Call"
_SERVICE, _NAME = METHOD.strip("/").split("/")
_HEAD: Final = 4


def request_of(request_bytes: int, answer_bytes: int) -> bytes:
    """Return a request of so many bytes that asks for an answer of so many."""
    return answer_bytes.to_bytes(_HEAD, "big") + bytes(max(0, request_bytes - _HEAD))


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
