"""Intents in PostgreSQL: append, settle, fence, sweep, prune."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from proxy.errors import LeaseLost, Reason, Rejected, StaleEpoch, Unavailable
from proxy.ledger.postgres.database import LedgerDatabase
from proxy.ledger.types import Intent, IntentDraft, Settlement
from proxy.model import JsonValue, Key, decode_key, encode_key

_APPEND = (
    "SELECT status, seq, collection, key, idem, snapshot, answer FROM crossfade.append_intents("
    "%s, %s, %s, %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])"
)
_SETTLE = (
    "SELECT crossfade.settle_intents(%s, %s::bigint[], %s::text[], %s::text[], %s::text[],"
    " %s::text[], %s::boolean[], %s::text[], %s::bigint[], %s::text[], %s::text[])"
)
_FENCED = (
    "SELECT key FROM crossfade.dirty WHERE migration = %s AND collection = %s AND key = ANY (%s)"
    " UNION SELECT key FROM crossfade.intents WHERE migration = %s AND collection = %s"
    " AND key = ANY (%s) AND settled_xid IS NULL"
)
_MARK = (
    "INSERT INTO crossfade.dirty AS d (migration, collection, key, reason)"
    " SELECT DISTINCT %s::int, %s, t.key, %s FROM unnest(%s::text[]) AS t (key) ORDER BY 3"
    " ON CONFLICT (migration, collection, key)"
    " DO UPDATE SET xid = pg_current_xact_id(), reason = excluded.reason"
)
# Settled intents below the horizon are visible to every open snapshot and to every unsettled
# intent's, so nobody can need them any more. The gate keeps appends out while it is computed.
_HORIZON = """
WITH gate AS MATERIALIZED (SELECT crossfade.enter_alone(%(m)s))
SELECT 1 FROM gate
"""
_HORIZON_XMIN = """
SELECT least(
    pg_snapshot_xmin(pg_current_snapshot()),
    (SELECT min(pg_snapshot_xmin(snapshot)) FROM crossfade.intents
     WHERE migration = %(m)s AND settled_xid IS NULL),
    (SELECT min(coalesce(pg_snapshot_xmin(snapshot), '0'::xid8)) FROM crossfade.copy_snapshots
     -- A copy that is ending as its time runs out is judged by its snapshot still.
     WHERE migration = %(m)s AND expires_at > clock_timestamp() - interval '30 s')
)::text
"""
_PRUNE = """
WITH old AS (
    SELECT seq FROM crossfade.intents
    WHERE migration = %s AND settled_xid IS NOT NULL AND settled_xid < %s::xid8 AND xid < %s::xid8
    ORDER BY settled_xid LIMIT 20000
) DELETE FROM crossfade.intents i USING old WHERE i.seq = old.seq
"""
_FORGET = (
    "DELETE FROM crossfade.idempotency WHERE migration = %s AND at < now() - interval '24 hours'"
)


class IntentTable:
    """`IntentLog` over the tables intents, dirty and idempotency."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._db = database

    async def append(
        self, drafts: Sequence[IntentDraft], *, epoch: int, replica_id: str
    ) -> list[Intent]:
        """See `IntentLog.append`; one round trip, one commit."""
        keys = [encode_key(draft.key) for draft in drafts]
        has_idems = any(draft.idempotency_key for draft in drafts)
        rows = await self._db.fetch(
            _APPEND,
            (
                self._db.migration_number,
                epoch,
                replica_id,
                [draft.collection for draft in drafts],
                keys,
                [draft.op for draft in drafts],
                [draft.idempotency_key for draft in drafts] if has_idems else None,
                [draft.request_digest for draft in drafts] if has_idems else None,
            ),
        )
        if rows and rows[0][0] not in ("ok", "resumed"):
            _refuse(rows[0][0], rows[0][4], epoch)
        # A key may come twice: rows of one key and one idempotency key are all alike.
        found: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}
        for row in rows:
            found.setdefault(row[2:5], []).append(row)
        intents = []
        for draft, key in zip(drafts, keys, strict=True):
            same = found[draft.collection, key, draft.idempotency_key]
            status, seq, _, _, _, snapshot, answer = same.pop(0)
            intents.append(
                Intent(
                    seq=seq,
                    collection=draft.collection,
                    key=draft.key,
                    snapshot=snapshot,
                    replica_id=replica_id,
                    idempotency_key=draft.idempotency_key,
                    earlier=answer,
                    resumed=status == "resumed",
                )
            )
        return intents

    async def recall(self, idempotency_key: str) -> Key | None:
        """See `IntentLog.recall`."""
        rows = await self._db.fetch(
            "SELECT key FROM crossfade.idempotency WHERE migration = %s AND idem = %s",
            (self._db.migration_number, idempotency_key),
        )
        return decode_key(rows[0][0]) if rows else None

    async def answered(
        self, idempotency_key: str, request_digest: str
    ) -> Mapping[str, JsonValue] | None:
        """See `IntentLog.answered`."""
        rows = await self._db.fetch(
            "SELECT digest, answer FROM crossfade.idempotency WHERE migration = %s AND idem = %s",
            (self._db.migration_number, idempotency_key),
        )
        if rows and rows[0][0] != request_digest:
            _refuse("reused", idempotency_key, 0)
        return rows[0][1] if rows else None

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """See `IntentLog.settle`; one round trip, one commit."""
        if not settlements:
            return
        intents = [item.intent for item in settlements]
        named = [item for item in settlements if item.intent.idempotency_key]
        undone = [item.intent.seq for item in named if item.forget]
        answers = {
            item.intent.idempotency_key: json.dumps(item.answer) for item in named if item.answer
        }
        await self._db.fetch(
            _SETTLE,
            (
                self._db.migration_number,
                [intent.seq for intent in intents],
                [intent.collection for intent in intents],
                [encode_key(intent.key) for intent in intents],
                [intent.snapshot for intent in intents],
                [intent.replica_id for intent in intents],
                [item.clean for item in settlements],
                [item.reason for item in settlements],
                undone or None,
                list(answers) or None,
                list(answers.values()) or None,
            ),
        )

    async def fenced(self, collection: str, keys: Collection[Key]) -> frozenset[Key]:
        """See `IntentLog.fenced`."""
        texts = [encode_key(key) for key in keys]
        number = self._db.migration_number
        rows = await self._db.fetch(_FENCED, (number, collection, texts, number, collection, texts))
        return frozenset(decode_key(row[0]) for row in rows)

    async def mark_dirty(self, collection: str, keys: Collection[Key], *, reason: str) -> None:
        """See `IntentLog.mark_dirty`."""
        if keys:
            texts = sorted(encode_key(key) for key in keys)
            await self._db.fetch(_MARK, (self._db.migration_number, collection, reason, texts))

    async def unsettled(self, collection: str | None = None) -> int:
        """See `IntentLog.unsettled`."""
        rows = await self._db.fetch(
            "SELECT count(*) FROM crossfade.intents WHERE migration = %s AND settled_xid IS NULL"
            " AND (%s::text IS NULL OR collection = %s)",
            (self._db.migration_number, collection, collection),
        )
        return int(rows[0][0])

    async def dirty_counts(self) -> dict[str, int]:
        """See `IntentLog.dirty_counts`."""
        rows = await self._db.fetch(
            "SELECT collection, count(*) FROM crossfade.dirty WHERE migration = %s GROUP BY 1",
            (self._db.migration_number,),
        )
        return dict(rows)

    async def sweep(self) -> int:
        """See `IntentLog.sweep`."""
        rows = await self._db.fetch("SELECT crossfade.sweep(%s)", (self._db.migration_number,))
        return int(rows[0][0])

    async def prune(self) -> int:
        """See `IntentLog.prune`."""
        number = self._db.migration_number
        async with self._db.connection() as connection, connection.transaction():
            await connection.execute(_HORIZON, {"m": number})
            cursor = await connection.execute(_HORIZON_XMIN, {"m": number})
            row = await cursor.fetchone()
        horizon = row[0] if row else "0"
        async with self._db.connection() as connection:
            cursor = await connection.execute(_PRUNE, (number, horizon, horizon))
            await connection.execute(_FORGET, (number,))
            return cursor.rowcount


def _refuse(status: str, key: str, epoch: int) -> None:
    if status == "stale":
        raise StaleEpoch(f"The routing of epoch {epoch} is no longer in force.", where="ledger")
    if status == "lease":
        raise LeaseLost("This replica's lease has run out.", where="ledger")
    if status == "busy":
        raise Unavailable(
            f"The first try with idempotency key {key!r} has not ended yet.",
            where="proxy",
            hint="Retry in a moment with the same key.",
        )
    raise Rejected(
        f"Idempotency key {key!r} was used for another request.",
        reason=Reason.FAILED_PRECONDITION,
        hint="Use a new key for every new request.",
    )
