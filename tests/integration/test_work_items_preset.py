"""The preset "work-items" over its own PostgreSQL table: it fits, and holds every field."""

from __future__ import annotations

from collections.abc import Callable

from proxy.stores.postgres import PostgresStore
from tests.work_items import COLLECTION, create_tables, item, key, schemas


async def test_the_table_fits_the_preset_and_gives_every_field_back(
    new_database: Callable[[], str],
) -> None:
    dsn = new_database()
    create_tables(dsn)
    store = PostgresStore("old", dsn, schemas()["old"], pool_min=1, pool_max=2)
    await store.open()
    try:
        assert await store.check() == []
        writes = [item(number) for number in range(20)]
        await store.apply(writes, atomic=True, deadline_s=10)
        found = await store.get(
            COLLECTION, [key(number) for number in range(20)], vectors=True, deadline_s=10
        )
        for write in writes:
            assert found[write.key].vector == write.vector
            assert dict(found[write.key].fields) == dict(write.fields)
    finally:
        await store.close()
