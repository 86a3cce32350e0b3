"""Connections to the ledger's database, and the one place where its errors are translated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from proxy.errors import Corrupt, CrossfadeError, Unavailable
from proxy.stores.postgres.cancelling import Cancellations
from proxy.stores.postgres.connection import Connection as PromptConnection

SCHEMA_VERSION = 2
_SCHEMA_LOCK = 1668441715
_DEADLOCK_TRIES = 5
_PATIENCE_S = 0.1
"""A ledger that was down a moment ago gets little time: writes are refused, not kept waiting."""

_REACH = "Check ledger.dsn and that the server is up."

Connection = AsyncConnection[TupleRow]


class LedgerDatabase:
    """A bounded pool of autocommit connections; every call has a deadline.

    Args:
        dsn: libpq connection string or URI.
        pool_size_max: connections at most.
        deadline_s: of one call; past it the call raises Unavailable.
    """

    def __init__(self, dsn: str, *, pool_size_max: int = 4, deadline_s: float = 5.0) -> None:
        self.dsn = dsn
        self.deadline_s = deadline_s
        self.migration_number = 0
        self._down = ""
        self._busy = 0
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            # A call that is given up must not wait for a server that hangs: the lease does not.
            connection_class=PromptConnection,
            kwargs={
                "autocommit": True,
                "prepare_threshold": 1,
                "application_name": "crossfade",
                "noted": self._note,
            },
            configure=_configure,
            check=None,
            min_size=1,
            max_size=pool_size_max,
            max_idle=300.0,
            reconnect_timeout=5.0,
            open=False,
        )

    async def open(self, migration: str) -> None:
        """Connect, create or check the schema, and find or create the migration."""
        try:
            await self._pool.open(wait=True, timeout=self.deadline_s)
        except PoolTimeout as error:
            await self._pool.close()
            raise Unavailable(
                f"The ledger database does not answer within {self.deadline_s:g} s.",
                where="ledger",
                hint=_REACH,
            ) from error
        try:
            await self._create_or_check()
            rows = await self.fetch(
                "INSERT INTO crossfade.migrations AS m (name) VALUES (%s)"
                " ON CONFLICT (name) DO UPDATE SET name = m.name RETURNING number",
                (migration,),
            )
        except BaseException:
            await self._pool.close()
            raise
        self.migration_number = rows[0][0]

    async def close(self) -> None:
        """Close the pool; safe to call twice."""
        await self._pool.close(timeout=2.0)

    async def _create_or_check(self) -> None:
        async with self.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
            cursor = await connection.execute("SELECT to_regclass('crossfade.schema_version')")
            row = await cursor.fetchone()
            if row is not None and row[0] is None:
                text = resources.files(__package__).joinpath("schema.sql").read_text("utf-8")
                await connection.execute(text.encode())
                return
            cursor = await connection.execute("SELECT version FROM crossfade.schema_version")
            versions = [found[0] for found in await cursor.fetchall()]
        if versions != [SCHEMA_VERSION]:
            raise Corrupt(
                f"The ledger schema has version {versions}, this Crossfade needs"
                f" [{SCHEMA_VERSION}].",
                hint="Use the Crossfade version that made it, or a ledger database of its own.",
            )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; driver errors come out as ours."""
        patience_s = _PATIENCE_S if self._down and not self._busy else self.deadline_s
        lent = self._pool.connection(timeout=patience_s)
        cancellations = Cancellations()
        try:
            async with asyncio.timeout(self.deadline_s), lent as connection:
                cancellations.heed()
                self._busy += 1
                try:
                    yield connection
                finally:
                    self._busy -= 1
        except CrossfadeError:
            raise
        except (TimeoutError, PoolTimeout) as error:
            if self._down:
                raise Unavailable(
                    f"The ledger is unreachable: {self._down}.",
                    where="ledger",
                    hint=_REACH,
                ) from error
            raise Unavailable(
                f"The ledger did not answer within {self.deadline_s:g} s.", where="ledger"
            ) from error
        except (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction) as error:
            raise Corrupt(
                f"The ledger schema is damaged: {_first_line(error)}.",
                hint="Restore the schema `crossfade`, or use a new ledger database.",
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unavailable(
                f"The ledger is unreachable: {_first_line(error)}.",
                where="ledger",
                hint=_REACH,
            ) from error
        except psycopg.DataError as error:
            raise Corrupt(
                f"The ledger does not take a value: {_first_line(error)}.",
                hint="This is a bug in Crossfade, or the ledger's schema was changed by hand.",
            ) from error
        except psycopg.Error as error:
            # A standby, a privilege that was taken away: it can be put right while we run.
            raise Unavailable(
                f"The ledger refused a statement: {_first_line(error)}.",
                where="ledger",
                hint="Check that ledger.dsn names a writable server and owns the schema.",
            ) from error

    def _note(self, trouble: str) -> None:
        """Take note of how an attempt to connect went; "" for well."""
        self._down = (trouble.strip().splitlines() or [""])[0].rstrip(".")

    async def fetch(
        self, query: str, params: Sequence[object] | Mapping[str, object] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement in its own transaction and return its rows.

        A deadlock (two settlers and a copier on the same keys) is tried again, bounded.
        """
        for attempt in range(_DEADLOCK_TRIES):
            try:
                async with self.connection() as connection:
                    cursor = await connection.execute(query.encode(), params, binary=True)
                    return list(await cursor.fetchall()) if cursor.description else []
            except Unavailable as error:
                deadlock = isinstance(error.__cause__, errors.DeadlockDetected)
                if not deadlock or attempt + 1 == _DEADLOCK_TRIES:
                    raise
        raise AssertionError  # the loop returns or raises

    async def dedicated(self) -> Connection:
        """Return a new connection of its own, for LISTEN."""
        try:
            return await AsyncConnection.connect(
                self.dsn, autocommit=True, application_name="crossfade", connect_timeout=5
            )
        except psycopg.Error as error:
            raise Unavailable(
                f"The ledger is unreachable: {_first_line(error)}.",
                where="ledger",
                hint=_REACH,
            ) from error


# Every statement here looks rows up by key, so one plan serves every call, and planning each anew
# would take longer than running it. Such a plan is kept for as long as its connection. One made
# while the tables were small would read them whole for ever after: so nothing but look-ups by index
# is offered to the planner.
_CONFIGURE = (
    "SET statement_timeout = '30s'; SET TimeZone = 'UTC'; SET plan_cache_mode = force_generic_plan;"
    " SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_material = off;"
    " SET enable_hashjoin = off; SET enable_mergejoin = off"
)


async def _configure(connection: Connection) -> None:
    await connection.execute(_CONFIGURE)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
