"""A write that waits for a row which somebody else holds gives up, and says what was applied."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import psycopg
import pytest
from psycopg import sql

from proxy.errors import Ambiguous, Unavailable
from proxy.model import Write
from proxy.stores.postgres import PostgresStore, connection
from tests.doc_server import create_tables, document, schemas, source

COUNT = 250
"""More than one transaction takes."""


@pytest.fixture
async def impatient(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[PostgresStore, str]]:
    """A store that waits for a lock for a moment only."""
    short = connection._SETUP.replace("lock_timeout = '10s'", "lock_timeout = '50ms'")
    assert short != connection._SETUP
    monkeypatch.setattr(connection, "_SETUP", short)
    dsn = new_database()
    create_tables(dsn, "new")
    store = PostgresStore("new", dsn, schemas()["new"], pool_min=1, pool_max=2)
    await store.open()
    writes = [source(), *numbered()]
    await store.apply(writes, atomic=False, deadline_s=10)
    yield store, dsn
    await store.close()


def numbered() -> list[Write]:
    return [document(f"{number:04}") for number in range(COUNT)]


@pytest.mark.parametrize(
    ("held", "error"), [(COUNT - 1, Ambiguous), (0, Unavailable)], ids=["last", "first"]
)
async def test_a_batch_that_waits_for_a_row_too_long_says_whether_some_of_it_was_applied(
    impatient: tuple[PostgresStore, str], held: int, error: type[Exception]
) -> None:
    store, dsn = impatient
    writes = numbered()
    with psycopg.connect(dsn) as other:
        table = sql.Identifier(*store.schema.layouts["documents"].table.split("."))
        row = sql.SQL("SELECT 1 FROM {} WHERE content = {} FOR UPDATE")
        locked = other.execute(row.format(table, f"About {held:04}"))
        assert locked.rowcount == 1
        with pytest.raises(error) as caught:
            await store.apply(writes, atomic=False, deadline_s=10)
        assert isinstance(caught.value, error)
        assert "lock timeout" in str(caught.value)
    await store.apply(writes, atomic=False, deadline_s=10)
