"""Routing, epochs, replica leases, flags, events and shadow statistics in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from proxy.errors import LeaseLost, Reason, Rejected, StaleEpoch
from proxy.ledger.postgres.changes import Changes
from proxy.ledger.postgres.database import Connection, LedgerDatabase
from proxy.ledger.types import Event, EventDraft, Phase, Replica, Routing, unverified
from proxy.model import JsonValue

_ROUTING = "epoch, phase, primary_store, percent, hold"
_CHANGE = (
    "UPDATE crossfade.migrations SET epoch = epoch + 1, phase = %s, primary_store = %s,"
    f" percent = %s, hold = %s WHERE number = %s AND epoch = %s RETURNING {_ROUTING}"
)
_UNDRAINED = """
SELECT
    (SELECT count(*) FROM crossfade.intents WHERE migration = %(m)s AND settled_xid IS NULL),
    (SELECT count(*) FROM crossfade.dirty WHERE migration = %(m)s),
    (SELECT count(*) FROM crossfade.copy_snapshots
     WHERE migration = %(m)s AND copying AND expires_at > clock_timestamp()),
    (SELECT coalesce(flags -> 'full_verify_needed', 'false') NOT IN ('false', 'null')
     FROM crossfade.migrations WHERE number = %(m)s)
"""
_EVENT = (
    "INSERT INTO crossfade.events (migration, kind, actor, reason, epoch, detail)"
    " SELECT number, %s, %s, %s, epoch, %s FROM crossfade.migrations WHERE number = %s"
)


class RoutingTable:
    """`RoutingLog` over the tables migrations, replicas, events and shadow_stats."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._db = database
        self._changes = Changes(database)

    async def routing(self) -> Routing:
        """See `RoutingLog.routing`."""
        rows = await self._db.fetch(
            f"SELECT {_ROUTING} FROM crossfade.migrations WHERE number = %s",
            (self._db.migration_number,),
        )
        return _routing(rows[0])

    async def change_routing(
        self,
        expected_epoch: int,
        routing: Routing,
        event: EventDraft,
        *,
        drained: bool = False,
        note: str = "",
    ) -> Routing:
        """See `RoutingLog.change_routing`; nobody appends or registers a copy beside it."""
        number = self._db.migration_number
        async with self._db.connection() as connection, connection.transaction():
            await connection.execute("SELECT crossfade.enter_alone(%s)", (number,))
            if drained:
                await _require_drained(connection, number)
            cursor = await connection.execute(
                _CHANGE,
                (
                    routing.phase.value,
                    routing.primary,
                    routing.percent,
                    routing.hold,
                    number,
                    expected_epoch,
                ),
            )
            row = await cursor.fetchone()
            if row is None:
                raise StaleEpoch(
                    f"The routing is not at epoch {expected_epoch} any more: somebody changed it.",
                    where="ledger",
                    hint="Look at `crossfade status` and try again.",
                )
            if note:
                await connection.execute(
                    "UPDATE crossfade.migrations SET flags = flags || %s WHERE number = %s",
                    (Jsonb({note: {"epoch": row[0]}}), number),
                )
            await connection.execute(_EVENT, _event_row(event, number))
            await connection.execute("SELECT pg_notify('crossfade', %s)", (str(number),))
        return _routing(row)

    async def register_replica(
        self, replica_id: str, *, address: str, lease_s: float, ledger_down: str
    ) -> Routing:
        """See `RoutingLog.register_replica`."""
        await self._db.fetch(
            "INSERT INTO crossfade.replicas"
            " (replica_id, migration, address, lease_until, ledger_down)"
            " VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s), %s)",
            (replica_id, self._db.migration_number, address, lease_s, ledger_down),
        )
        return await self.routing()

    async def renew_replica(self, replica_id: str, *, acked_epoch: int, lease_s: float) -> Routing:
        """See `RoutingLog.renew_replica`."""
        rows = await self._db.fetch(
            "UPDATE crossfade.replicas r SET acked_epoch = %s,"
            " lease_until = clock_timestamp() + make_interval(secs => %s)"
            " FROM crossfade.migrations m"
            # A lease that has run out is gone: others may have gone on without this replica.
            " WHERE r.replica_id = %s AND NOT r.swept AND r.lease_until > clock_timestamp()"
            " AND m.number = r.migration"
            " RETURNING m.epoch, m.phase, m.primary_store, m.percent, m.hold",
            (acked_epoch, lease_s, replica_id),
        )
        if not rows:
            raise LeaseLost("This replica was taken for dead; its intents were taken over.")
        return _routing(rows[0])

    async def release_replica(self, replica_id: str) -> None:
        """See `RoutingLog.release_replica`."""
        await self._db.fetch(
            "UPDATE crossfade.replicas SET clean_exit = true,"
            " lease_until = least(lease_until, clock_timestamp()) WHERE replica_id = %s",
            (replica_id,),
        )

    async def replicas(self) -> list[Replica]:
        """See `RoutingLog.replicas`."""
        rows = await self._db.fetch(
            "SELECT replica_id, acked_epoch, NOT swept AND lease_until > clock_timestamp(),"
            " extract(epoch FROM lease_until - clock_timestamp())::float8, started_at, address,"
            " ledger_down, clean_exit FROM crossfade.replicas"
            " WHERE migration = %s AND (lease_until > clock_timestamp() - interval '1 day'"
            " OR (ledger_down = 'primary_alone' AND NOT clean_exit))"
            " ORDER BY started_at",
            (self._db.migration_number,),
        )
        return [
            Replica(
                replica_id=row[0],
                acked_epoch=row[1],
                alive=row[2],
                lease_left_s=row[3],
                started_at=row[4],
                address=row[5],
                ledger_down=row[6],
                clean_exit=row[7],
            )
            for row in rows
        ]

    async def wait_change(self, epoch: int, *, timeout_s: float) -> None:
        """See `RoutingLog.wait_change`."""
        try:
            async with asyncio.timeout(timeout_s):
                changed = await self._changes.next()
                if (await self.routing()).epoch == epoch:
                    await changed.wait()
        except TimeoutError:
            return
        except psycopg.Error:
            await asyncio.sleep(min(timeout_s, 0.2))

    async def close(self) -> None:
        """Close the LISTEN connection."""
        await self._changes.close()

    async def set_flag(
        self,
        name: str,
        value: JsonValue,
        *,
        actor: str,
        reason: str,
        only_if: JsonValue = None,
    ) -> None:
        """See `RoutingLog.set_flag`."""
        number = self._db.migration_number
        async with self._db.connection() as connection, connection.transaction():
            cursor = await connection.execute(
                "UPDATE crossfade.migrations SET flags = flags || %s WHERE number = %s"
                " AND (%s::jsonb IS NULL OR flags -> %s = %s::jsonb)",
                (
                    Jsonb({name: value}),
                    number,
                    None if only_if is None else Jsonb(only_if),
                    name,
                    None if only_if is None else Jsonb(only_if),
                ),
            )
            if not cursor.rowcount:
                return
            event = EventDraft(
                kind=f"flag.{name}", actor=actor, reason=reason, detail={name: value}
            )
            await connection.execute(_EVENT, _event_row(event, number))

    async def flags(self) -> dict[str, JsonValue]:
        """See `RoutingLog.flags`."""
        rows = await self._db.fetch(
            "SELECT flags FROM crossfade.migrations WHERE number = %s",
            (self._db.migration_number,),
        )
        return dict(rows[0][0])

    async def log_event(self, event: EventDraft) -> None:
        """See `RoutingLog.log_event`."""
        await self._db.fetch(_EVENT, _event_row(event, self._db.migration_number))

    async def events(self, *, limit: int = 100, after: int = 0) -> list[Event]:
        """See `RoutingLog.events`."""
        rows = await self._db.fetch(
            "SELECT event_id, at, kind, actor, reason, epoch, detail FROM crossfade.events"
            " WHERE migration = %s AND event_id > %s ORDER BY event_id LIMIT %s",
            (self._db.migration_number, after, limit),
        )
        return [
            Event(
                event_id=row[0],
                at=row[1],
                kind=row[2],
                actor=row[3],
                reason=row[4],
                epoch=row[5],
                detail=row[6],
            )
            for row in rows
        ]

    async def put_shadow(
        self, replica_id: str, window: str, stats: Mapping[str, JsonValue]
    ) -> None:
        """See `RoutingLog.put_shadow`."""
        await self._db.fetch(
            "INSERT INTO crossfade.shadow_stats"
            " SELECT number, %s, %s, epoch, %s FROM crossfade.migrations WHERE number = %s"
            " ON CONFLICT (migration, replica_id, time_window)"
            " DO UPDATE SET stats = excluded.stats",
            (replica_id, window, Jsonb(dict(stats)), self._db.migration_number),
        )

    async def shadow(self, *, since_epoch: int = 0) -> list[Mapping[str, JsonValue]]:
        """See `RoutingLog.shadow`."""
        rows = await self._db.fetch(
            "SELECT stats FROM crossfade.shadow_stats WHERE migration = %s AND epoch >= %s"
            " ORDER BY time_window, replica_id",
            (self._db.migration_number, since_epoch),
        )
        return [row[0] for row in rows]


async def _require_drained(connection: Connection, number: int) -> None:
    cursor = await connection.execute(_UNDRAINED, {"m": number})
    row = await cursor.fetchone()
    if row is None:
        return
    if row[3]:
        raise unverified()
    if any(row):
        raise Rejected(
            f"Not drained: {row[0]} unsettled intents, {row[1]} dirty keys, {row[2]} open copies.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Run `crossfade repair` and try again; a copy that a killed reconciler left"
            " open is forgotten within a minute.",
        )


def _event_row(event: EventDraft, number: int) -> tuple[object, ...]:
    return event.kind, event.actor, event.reason, Jsonb(dict(event.detail)), number


def _routing(row: tuple[Any, ...]) -> Routing:
    return Routing(epoch=row[0], phase=Phase(row[1]), primary=row[2], percent=row[3], hold=row[4])
