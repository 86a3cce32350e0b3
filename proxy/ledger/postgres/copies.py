"""The copy rule's bookkeeping in PostgreSQL: snapshots, step 5, dirty keys, dead letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from proxy.errors import Unavailable
from proxy.ledger.postgres.database import LedgerDatabase
from proxy.ledger.postgres.jobs import range_update
from proxy.ledger.types import CopyOutcome, CopySnapshot, DeadLetter, DirtyKey, RangeState
from proxy.model import Key, decode_key, encode_key

# The row is there before the snapshot is taken, and the gate is held until the commit: pruning
# and a swap either come first or see it.
_REGISTER = """
WITH gate AS MATERIALIZED (SELECT crossfade.enter_shared(%s))
INSERT INTO crossfade.copy_snapshots (migration, collection, copying, expires_at)
SELECT %s, %s, %s, clock_timestamp() + interval '60 s' FROM gate RETURNING snapshot_id
"""
# Waits for a copy that is just ending. In key order, so that two never deadlock.
_CLAIM = """
INSERT INTO crossfade.copy_claims AS c (migration, collection, key, snapshot_id, expires_at)
SELECT %s, %s, t.key, %s, clock_timestamp() + make_interval(secs => %s)
FROM unnest(%b::text[]) AS t (key) ORDER BY t.key
ON CONFLICT (migration, collection, key)
DO UPDATE SET snapshot_id = excluded.snapshot_id, expires_at = excluded.expires_at
WHERE c.expires_at <= clock_timestamp() OR c.snapshot_id = excluded.snapshot_id
"""
# A statement after the claim: it sees what a copy has done that ended just before.
_TAKE = """
UPDATE crossfade.copy_snapshots SET snapshot = pg_current_snapshot() WHERE snapshot_id = %(id)s
RETURNING (
    SELECT coalesce(array_agg(DISTINCT b.key), '{}') FROM (
        SELECT i.key FROM crossfade.intents i
        WHERE i.migration = %(migration)s AND i.settled_xid IS NULL
          AND i.collection = %(collection)s
        UNION ALL
        SELECT c.key FROM crossfade.copy_claims c
        WHERE c.migration = %(migration)s AND c.collection = %(collection)s
          AND c.snapshot_id <> %(id)s AND c.expires_at > clock_timestamp()
    ) b
), (
    SELECT coalesce(array_agg(c.key), '{}')
    FROM crossfade.copy_claims c JOIN crossfade.dirty d USING (migration, collection, key)
    WHERE c.snapshot_id = %(id)s
)
"""
# Who claims a clean key has nothing to copy, and holds up nobody who looks at it.
_LET_GO = "DELETE FROM crossfade.copy_claims WHERE snapshot_id = %s AND NOT key = ANY (%b::text[])"
_CLAIM_S = 25.0
_INTERRUPTED = """
INSERT INTO crossfade.dirty AS d (migration, collection, key, reason)
SELECT %s, %s, t.key, 'copy interrupted' FROM unnest(%b::text[]) AS t (key) ORDER BY t.key
ON CONFLICT (migration, collection, key)
DO UPDATE SET xid = pg_current_xact_id(), reason = excluded.reason
"""
_FORGET = """
WITH claims AS (
    DELETE FROM crossfade.copy_claims
    WHERE snapshot_id = %(id)s AND NOT key = ANY (%(kept)b::text[])
       OR expires_at < clock_timestamp() - interval '60 s'
)
DELETE FROM crossfade.copy_snapshots WHERE snapshot_id = %(id)s
-- Pruning goes by those that have just expired too.
   OR expires_at < now() - interval '30 s'
"""
# Of what came after a snapshot that is gone, or expired, some may be pruned by now.
_NEWER = """
SELECT t.key FROM unnest(%s::text[]) AS t (key)
LEFT JOIN crossfade.copy_snapshots c ON c.snapshot_id = %s AND c.expires_at > clock_timestamp()
WHERE c.snapshot_id IS NULL OR EXISTS (
    SELECT 1 FROM crossfade.intents i
    WHERE i.migration = %s AND i.collection = %s AND i.key = t.key
      AND (i.settled_xid IS NULL OR NOT pg_visible_in_snapshot(i.xid, c.snapshot))
)
"""


class CopyTable:
    """`CopyLog` over the tables copy_snapshots, dirty and dead_letters."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._db = database

    async def begin_copy(
        self, collection: str, *, copying: bool = True, keys: Collection[Key] = ()
    ) -> CopySnapshot:
        """See `CopyLog.begin_copy`."""
        number = self._db.migration_number
        async with self._db.connection() as connection, connection.transaction():
            cursor = await connection.execute(_REGISTER, (number, number, collection, copying))
            row = await cursor.fetchone()
            snapshot_id = int(row[0]) if row else 0
            if keys:
                wanted = sorted({encode_key(key) for key in keys})
                await connection.execute(
                    _CLAIM, (number, collection, snapshot_id, _CLAIM_S, wanted)
                )
            about = {"id": snapshot_id, "migration": number, "collection": collection}
            cursor = await connection.execute(_TAKE, about)
            row = await cursor.fetchone()
            busy, mine = row if row else ([], [])
            if len(mine) < len(keys):
                await connection.execute(_LET_GO, (snapshot_id, mine))
        return CopySnapshot(
            snapshot_id=snapshot_id,
            collection=collection,
            in_flight=frozenset(decode_key(key) for key in busy),
            claimed=frozenset(decode_key(key) for key in mine),
        )

    async def finish_copy(
        self,
        snapshot: CopySnapshot,
        *,
        touched: Collection[Key],
        left_out: Collection[Key] = (),
        progress: RangeState | None = None,
    ) -> CopyOutcome:
        """See `CopyLog.finish_copy`; one transaction."""
        arguments = (
            self._db.migration_number,
            snapshot.snapshot_id,
            snapshot.collection,
            sorted(encode_key(key) for key in touched),
            sorted(encode_key(key) for key in left_out),
        )
        async with self._db.connection() as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT status, dirty_keys, cleared"
                # A list of thousands of keys is sent in binary: as text it is quoted key by key.
                " FROM crossfade.finish_copy(%s, %s, %s, %b::text[], %b::text[])",
                arguments,
            )
            row = await cursor.fetchone()
            expired = row is None or row[0] != "ok"
            if progress is not None and not expired:
                await connection.execute(*range_update(progress))
        if row is None or expired:
            raise Unavailable(
                "A copy took longer than its snapshot is good for (60 s); its keys are dirty.",
                where="ledger",
                hint="Use smaller batches (reconcile.batch_rows).",
            )
        return CopyOutcome(dirty=frozenset(decode_key(key) for key in row[1]), cleared=row[2])

    async def abandon_copy(
        self, snapshot: CopySnapshot, *, written: Collection[Key] = (), late_s: float = 0.0
    ) -> None:
        """See `CopyLog.abandon_copy`; one transaction."""
        number, collection = self._db.migration_number, snapshot.collection
        kept = sorted({encode_key(key) for key in written})
        async with self._db.connection() as connection, connection.transaction():
            if kept:
                claim = (number, collection, snapshot.snapshot_id, late_s, kept)
                await connection.execute(_CLAIM, claim)
                await connection.execute(_INTERRUPTED, (number, collection, kept))
            await connection.execute(_FORGET, {"id": snapshot.snapshot_id, "kept": kept})

    async def settled_since(self, snapshot: CopySnapshot, keys: Collection[Key]) -> frozenset[Key]:
        """See `CopyLog.settled_since`."""
        texts = [encode_key(key) for key in keys]
        number, collection = self._db.migration_number, snapshot.collection
        rows = await self._db.fetch(_NEWER, (texts, snapshot.snapshot_id, number, collection))
        return frozenset(decode_key(row[0]) for row in rows)

    async def dirty_keys(self, collection: str, *, limit: int) -> list[DirtyKey]:
        """See `CopyLog.dirty_keys`."""
        rows = await self._db.fetch(
            "SELECT key, reason, since FROM crossfade.dirty"
            " WHERE migration = %s AND collection = %s ORDER BY since, key LIMIT %s",
            (self._db.migration_number, collection, limit),
        )
        return [
            DirtyKey(collection=collection, key=decode_key(key), reason=reason, since=since)
            for key, reason, since in rows
        ]

    async def add_dead_letters(
        self, job_id: int, collection: str, letters: Mapping[Key, str]
    ) -> None:
        """See `CopyLog.add_dead_letters`."""
        if not letters:
            return
        await self._db.fetch(
            "INSERT INTO crossfade.dead_letters (migration, job_id, collection, key, reason)"
            " SELECT %s, %s, %s, t.key, t.reason"
            " FROM unnest(%s::text[], %s::text[]) AS t (key, reason)"
            " ON CONFLICT (migration, collection, key) WHERE resolved_at IS NULL"
            " DO UPDATE SET reason = excluded.reason, job_id = excluded.job_id",
            (
                self._db.migration_number,
                job_id,
                collection,
                [encode_key(key) for key in letters],
                list(letters.values()),
            ),
        )

    async def dead_letters(self, *, limit: int = 1000) -> list[DeadLetter]:
        """See `CopyLog.dead_letters`."""
        rows = await self._db.fetch(
            "SELECT letter_id, collection, key, reason, job_id, created_at"
            " FROM crossfade.dead_letters WHERE migration = %s AND resolved_at IS NULL"
            " ORDER BY letter_id LIMIT %s",
            (self._db.migration_number, limit),
        )
        return [
            DeadLetter(
                letter_id=row[0],
                collection=row[1],
                key=decode_key(row[2]),
                reason=row[3],
                job_id=row[4],
                created_at=row[5],
            )
            for row in rows
        ]

    async def resolve_dead_letters(
        self, collection: str, keys: Collection[Key], *, resolution: str
    ) -> int:
        """See `CopyLog.resolve_dead_letters`."""
        if not keys:
            return 0
        rows = await self._db.fetch(
            "UPDATE crossfade.dead_letters SET resolved_at = clock_timestamp(), resolution = %s"
            " WHERE migration = %s AND collection = %s AND key = ANY (%s) AND resolved_at IS NULL"
            " RETURNING 1",
            (
                resolution,
                self._db.migration_number,
                collection,
                [encode_key(key) for key in keys],
            ),
        )
        return len(rows)
