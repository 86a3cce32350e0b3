"""An old and a new database of the documents, each with its store."""

from __future__ import annotations

import psycopg

from proxy.model import Applied, Write
from proxy.stores.postgres import PostgresStore
from tests.doc_server import schemas

FIELDS = ["content", "created_at", "original_id", "token_count"]


class Databases:
    """The two databases and their stores."""

    def __init__(self, dsns: dict[str, str]) -> None:
        self.dsns = dsns
        self.old = PostgresStore("old", dsns["old"], schemas()["old"], pool_min=1, pool_max=4)
        self.new = PostgresStore("new", dsns["new"], schemas()["new"], pool_min=1, pool_max=4)

    def sql(self, side: str, statement: str) -> list[tuple[object, ...]]:
        """Run a statement on one side."""
        with psycopg.connect(self.dsns[side], autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


async def done(store: PostgresStore, *writes: Write) -> None:
    """Apply writes that must succeed."""
    results = await store.apply(writes, atomic=False, deadline_s=10)
    assert {result.applied for result in results} == {Applied.DONE}, results
