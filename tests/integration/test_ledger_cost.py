"""The ledger's work for one write stays the same however many writes came before it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.types import IntentDraft, Settlement

WRITES = 400
ROWS_A_WRITE_MAX = 12
"""Rows looked at in each table to append and settle one write and to ask whether its key is
fenced; a plan that reads a table whole would look at about WRITES / 2."""


async def test_appending_settling_and_fencing_look_rows_up_and_never_read_a_table_whole(
    new_database: Callable[[], str],
) -> None:
    dsn = new_database()
    ledger = PostgresLedger(dsn, "cost", pool_size_max=2)
    await ledger.open()
    try:
        await _write_many(ledger)
    finally:
        await ledger.close()  # a session that ends reports its last counts
    rows = _rows_looked_at(dsn)
    assert set(rows) >= {"intents", "idempotency"}
    too_many = {name: count for name, count in rows.items() if count > ROWS_A_WRITE_MAX * WRITES}
    assert not too_many


async def _write_many(ledger: PostgresLedger) -> None:
    routing = await ledger.register_replica(
        "replica", address="", lease_s=300.0, ledger_down="refuse"
    )
    for number in range(WRITES):
        key = ("rust", "serde", f"page/{number}")
        draft = IntentDraft(
            collection="documents",
            key=key,
            op="upsert",
            idempotency_key=f"request-{number}",
            request_digest="0",
        )
        intents = await ledger.append([draft], epoch=routing.epoch, replica_id="replica")
        assert await ledger.fenced("documents", [key]) == {key}
        (intent,) = intents
        refused = Settlement(intent=intent, clean=True, forget=True)
        done = Settlement(intent=intent, clean=True, answer={"key": list(key)})
        await ledger.settle([refused if number % 4 == 0 else done])


def _rows_looked_at(dsn: str) -> dict[str, int]:
    """Return how many rows were read, in any way, of each of the ledger's tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0)"
            " FROM pg_stat_user_tables WHERE schemaname = 'crossfade'"
        ).fetchall()
    return dict(rows)
