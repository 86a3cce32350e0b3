"""Rows of the old table, spoiled on purpose behind the proxy's back.

The new store has one writing process, the proxy; what bypasses it is an old program that still
writes PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from proxy.demo.damage import OUTCOME, Damage
from proxy.demo.work_items.items import COLLECTION
from proxy.model import Key

_STATEMENTS = {
    "changed": "UPDATE work_items SET status = status || ' (damaged)' WHERE id = %s",
    "removed": "DELETE FROM work_items WHERE id = %s",
    "added": "INSERT INTO work_items (id, title) VALUES (%s, 'never went through the proxy')",
}


def inflict(old_dsn: str, kinds: Sequence[str], quiet: Sequence[Key]) -> list[Damage]:
    """Spoil one row of the old table for each kind.

    Args:
        quiet: ids of items with a status that live traffic leaves alone, at least one a kind.
    """
    done: list[Damage] = []
    with psycopg.connect(old_dsn) as connection:
        for number, (kind, key) in enumerate(zip(kinds, quiet, strict=False)):
            spoiled = (f"damage-added-{number}",) if kind == "added" else key
            connection.execute(_STATEMENTS[kind].encode(), spoiled)
            done.append(
                Damage(kind=kind, collection=COLLECTION, key=spoiled, outcome=OUTCOME[kind])
            )
    return done
