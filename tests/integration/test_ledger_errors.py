"""Whatever the ledger's driver raises comes out as one of Crossfade's own errors."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from proxy.errors import Corrupt, Unavailable
from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.types import EventDraft


async def test_a_ledger_that_became_read_only_is_unavailable(
    new_database: Callable[[], str],
) -> None:
    dsn = new_database()
    ledger = PostgresLedger(dsn, "m")
    await ledger.open()
    await ledger.close()
    standby = make_conninfo(dsn, options="-c default_transaction_read_only=on")
    ledger = PostgresLedger(standby, "m")
    with pytest.raises(Unavailable, match="read-only") as caught:
        await ledger.open()
    assert caught.value.where == "ledger"
    assert "writable" in caught.value.hint


async def test_a_privilege_that_was_taken_away_is_unavailable(
    new_database: Callable[[], str],
) -> None:
    dsn = new_database()
    ledger = PostgresLedger(dsn, "m")
    await ledger.open()
    try:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("CREATE ROLE crossfade_nobody")
            admin.execute("GRANT USAGE ON SCHEMA crossfade TO crossfade_nobody")
        nobody = PostgresLedger(make_conninfo(dsn, options="-c role=crossfade_nobody"), "m")
        with pytest.raises(Unavailable, match="permission denied"):
            await nobody.open()
    finally:
        await ledger.close()
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("DROP OWNED BY crossfade_nobody")
            admin.execute("DROP ROLE crossfade_nobody")


async def test_a_value_the_ledger_cannot_hold_is_corrupt(new_database: Callable[[], str]) -> None:
    ledger = PostgresLedger(new_database(), "m")
    await ledger.open()
    try:
        with pytest.raises(Corrupt, match="does not take"):
            await ledger.log_event(EventDraft(kind="test", actor="\0"))
    finally:
        await ledger.close()
