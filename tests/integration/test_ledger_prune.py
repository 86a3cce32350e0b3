"""Pruning keeps what a copy that is just ending is judged by."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.types import IntentDraft, Settlement


async def test_a_copy_that_has_just_expired_keeps_the_intents_it_is_judged_by(
    new_database: Callable[[], str],
) -> None:
    dsn = new_database()
    ledger = PostgresLedger(dsn, "m")
    await ledger.open()
    try:
        routing = await ledger.register_replica("r", address="", lease_s=300, ledger_down="refuse")
        copy = await ledger.begin_copy("documents")
        draft = IntentDraft(collection="documents", key=("a", "b", "c"), op="upsert")
        intents = await ledger.append([draft], epoch=routing.epoch, replica_id="r")
        await ledger.settle([Settlement(intent=item, clean=True) for item in intents])
        _expired_since(dsn, "10 s")
        await ledger.abandon_copy(await ledger.begin_copy("documents"))
        assert await ledger.prune() == 0
        assert await ledger.settled_since(copy, [draft.key]) == {draft.key}
        _expired_since(dsn, "40 s")
        assert await ledger.prune() == 1
    finally:
        await ledger.close()


def _expired_since(dsn: str, age: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE crossfade.copy_snapshots SET expires_at = clock_timestamp() - %s::interval",
            (age,),
        )
