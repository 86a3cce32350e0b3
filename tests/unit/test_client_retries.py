"""A call with retries tells the truth about all of its tries."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from crossfade.client import CallError
from crossfade.client.transport import CallOptions, call


def failing(*codes: grpc.StatusCode) -> Callable[..., grpc.aio.UnaryUnaryCall[object, object]]:
    """Return a method whose tries end in these codes, one after the other."""
    left = list(codes)

    async def method(request: object, **_: object) -> object:
        code = left.pop(0)
        details = _status(code) if code is not grpc.StatusCode.UNAVAILABLE else grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), details, "no", None)

    return method  # type: ignore[return-value]  # awaited like a call


def _status(code: grpc.StatusCode) -> grpc.aio.Metadata:
    """Return details as a proxy attaches them: the code's own reason."""
    import google.rpc.error_details_pb2 as details_pb
    from google.protobuf.any_pb2 import Any as PbAny
    from google.rpc.status_pb2 import Status

    packed = PbAny()
    packed.Pack(details_pb.ErrorInfo(reason=code.name, domain="crossfade"))
    number: int = code.value[0]
    status = Status(code=number, details=[packed])
    return grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))


async def test_a_refusal_after_a_lost_answer_still_may_have_been_applied() -> None:
    method = failing(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION)
    with pytest.raises(CallError) as caught:
        await call(method, object(), CallOptions(retries=3))
    assert caught.value.code == "FAILED_PRECONDITION"
    assert caught.value.maybe_applied


async def test_a_refusal_at_once_was_not_applied() -> None:
    with pytest.raises(CallError) as caught:
        await call(failing(grpc.StatusCode.NOT_FOUND), object(), CallOptions(retries=3))
    assert not caught.value.maybe_applied
