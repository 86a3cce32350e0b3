"""One connection: how it is set up, how a cancelled call ends, whether it still lives."""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncRawCursor, generators, waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import TupleRow

from proxy.stores.postgres.adapt import Adapters

_log = logging.getLogger(__name__)
_CANCEL_GRACE_S = 0.2
_T = TypeVar("_T")

# The second net under every deadline: the server itself ends what nobody waits for any more.
_SETUP = (
    "SET TIME ZONE 'UTC'; SET jit = off; SET statement_timeout = '15min';"
    " SET lock_timeout = '10s';"  # a write waits for a row less long than its lease lasts
    " SET idle_in_transaction_session_timeout = '5min'; SET extra_float_digits = 1;"
    # A statement of a client that is gone must not land long after (settings: late_write_s).
    " SET tcp_keepalives_idle = 1; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 2"
)
_NOTICE_DEAD_CLIENTS = (
    "SELECT set_config('client_connection_check_interval', '500ms', false)"
    " WHERE current_setting('client_connection_check_interval', true) IS NOT NULL"
)
_DEFAULTS: dict[str, str] = {
    "connect_timeout": "5",
    "application_name": "crossfade",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
}

Noted: TypeAlias = Callable[[str], None]


class Connection(psycopg.AsyncConnection[TupleRow]):
    """A connection whose cancelled calls end quickly.

    `searching` holds the nearest-neighbour settings in force, so that a search sets them only
    when they change. Past `ends_s` (`time.monotonic`) nothing more is sent: a process that was
    stopped goes on with what was ready before its timers tell it how late it is.
    """

    searching: tuple[int, str] | None = None
    ends_s: float | None = None

    @classmethod
    async def connect(  # type: ignore[override]  # one keyword more than the base has
        cls, conninfo: str = "", *, noted: Noted | None = None, **kwargs: Any
    ) -> Connection:
        """Connect and tell `noted` how it went: "" or what was wrong."""
        try:
            connection = await super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            if noted is not None:
                noted(str(error))
            raise
        if noted is not None:
            noted("")
        return connection

    async def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """Wait for the server; on cancellation cancel the statement there too, within a grace.

        A server that does not even answer the cancel request costs the connection, not time.

        Raises:
            TimeoutError: `ends_s` has passed.
        """
        timed = gen if self.ends_s is None or self._piping else _in_time(gen, self.ends_s)
        try:
            return await waiting.wait_async(timed, self.pgconn.socket, interval, timeout)
        except (asyncio.CancelledError, _TooLateError) as error:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self._end_statement(gen)
            if isinstance(error, _TooLateError):
                raise TimeoutError from error
            raise

    @property
    def _piping(self) -> bool:
        return self.pgconn.pipeline_status != PipelineStatus.OFF

    async def _end_statement(self, gen: PQGen[Any]) -> None:
        try:
            async with asyncio.timeout(_CANCEL_GRACE_S):
                await self.cancel_safe(timeout=_CANCEL_GRACE_S)
                await waiting.wait_async(self._rest(gen), self.pgconn.socket, 0.05)
        except psycopg.errors.QueryCanceled:
            return
        except (TimeoutError, psycopg.Error) as error:
            _log.info("closing a connection whose statement did not end: %r", error)
            self.pgconn.finish()
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise

    def _rest(self, gen: PQGen[Any]) -> PQGen[Any]:
        """Return what reads the rest of a cancelled statement, and sends nothing more of it.

        The statement's own generator would go on to execute what it had just prepared.
        """
        if self._piping:
            return gen
        gen.close()
        rest: PQGen[Any] = generators.fetch_many(self.pgconn)
        return rest


class _TooLateError(Exception):
    """The time of a call is over. No TimeoutError: the driver takes that for a lost socket."""


def _in_time(gen: PQGen[_T], ends_s: float) -> PQGen[_T]:
    """Go through what talks to the server, but not a step further once the time is over.

    Raises:
        _TooLateError: it is.
    """
    ready = None
    try:
        while True:
            if time.monotonic() >= ends_s:
                raise _TooLateError
            ready = yield (next(gen) if ready is None else gen.send(ready))
    except StopIteration as end:
        result: _T = end.value
        return result


def connect_parameters(dsn: str, adapters: Adapters) -> dict[str, Any]:
    """Return the keyword arguments of `Connection.connect`; what the DSN says wins.

    Raises:
        psycopg.ProgrammingError: the DSN is not a libpq connection string.
    """
    return {
        **_DEFAULTS,
        **conninfo_to_dict(dsn),
        "autocommit": True,
        "context": adapters,
        "cursor_factory": AsyncRawCursor,
    }


async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
    """Set up a fresh connection."""
    await connection.execute(_SETUP)
    await connection.execute(_NOTICE_DEAD_CLIENTS)


def still_alive(connection: psycopg.AsyncConnection[Any]) -> bool:
    """False if the server has hung up on an idle connection; costs no round trip.

    An idle connection has nothing to read. If its socket is readable, it is a notice, or the
    end.
    """
    pgconn = connection.pgconn
    poll = select.poll()
    try:
        poll.register(pgconn.socket, select.POLLIN)
        for _ in range(2):
            if not poll.poll(0):
                return True
            pgconn.consume_input()
    except psycopg.OperationalError:
        return False
    return not poll.poll(0)
