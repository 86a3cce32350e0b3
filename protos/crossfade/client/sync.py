"""The synchronous client: the asynchronous one, run on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast

import grpc

from crossfade.client.aio import AsyncClient, Scope
from crossfade.client.filters import Filter
from crossfade.client.transport import MESSAGE_BYTES_MAX
from crossfade.client.types import Read, Record

P = ParamSpec("P")
R = TypeVar("R")


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="crossfade-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine to its end; a caller that is interrupted cancels it."""
        if self.closed:
            work.close()
            raise RuntimeError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._loop.is_closed()

    def close(self) -> None:
        """End the thread; safe to call twice."""
        if not self.closed:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _synchronous(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Client, P], R]:
    """Return the method that waits for an asynchronous one; the signature stays."""

    @functools.wraps(method)
    def call(self: Client, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(method(self._client, *args, **kwargs))

    # mypy's name for a wrapped function has a parameter `self` by name, a method's has not.
    return cast("Callable[Concatenate[Client, P], R]", call)


class Client:
    """`AsyncClient` without `await`; safe to use from several threads, not across a fork."""

    def __init__(
        self,
        target: str,
        *,
        targeting_key: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = 10.0,
        retries: int = 3,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        """Connect lazily; the arguments are those of `AsyncClient`."""
        self._loop = _Loop()

        async def make() -> AsyncClient:
            return AsyncClient(
                target,
                targeting_key=targeting_key,
                credentials=credentials,
                timeout_s=timeout_s,
                retries=retries,
                message_bytes_max=message_bytes_max,
            )

        self._client = self._loop.run(make())

    def scoped(self, **changes: Unpack[Scope]) -> Self:
        """Return a client over the same connection with another targeting key, timeout, ..."""
        scoped = object.__new__(type(self))
        scoped._loop, scoped._client = self._loop, self._client.scoped(**changes)
        return scoped

    def close(self) -> None:
        """Close the connection and end the thread; safe to call twice."""
        if not self._loop.closed:
            self._loop.run(self._client.close())
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    insert = _synchronous(AsyncClient.insert)
    upsert = _synchronous(AsyncClient.upsert)
    update = _synchronous(AsyncClient.update)
    delete = _synchronous(AsyncClient.delete)
    delete_where = _synchronous(AsyncClient.delete_where)
    batch_write = _synchronous(AsyncClient.batch_write)
    get = _synchronous(AsyncClient.get)
    batch_get = _synchronous(AsyncClient.batch_get)
    list = _synchronous(AsyncClient.list)
    count = _synchronous(AsyncClient.count)
    search = _synchronous(AsyncClient.search)
    search_text = _synchronous(AsyncClient.search_text)
    search_hybrid = _synchronous(AsyncClient.search_hybrid)

    def iterate(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        order_by: Sequence[str] = (),
        page_size: int = 100,
        read: Read | None = None,
    ) -> Iterator[Record]:
        """Yield every record, page by page."""
        token = ""
        while True:
            page = self.list(
                collection,
                filter=filter,
                order_by=order_by,
                limit=page_size,
                page_token=token,
                read=read or Read(),
            )
            yield from page.records
            token = page.next_page_token
            if not token:
                return
