"""PostgreSQL's rows as Arrow columns: the same values as its records, bit for bit."""

from __future__ import annotations

import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import Corrupt, Reason, Rejected
from proxy.model import Key, Write, WriteOp
from proxy.query import KeyRange, ListQuery
from proxy.stores.arrow import DIALECT, ArrowPlan, decode_chunk
from proxy.stores.base import BulkTarget
from proxy.stores.postgres import PostgresStore
from proxy.stores.postgres.pages import ARROW
from tests import things
from tests.chunks import encode_records
from tests.doc_server import create_tables, document, schemas, source

PLAN = ArrowPlan(fields=(*things.NAMES, "rest"), vector=True)
TARGET = BulkTarget(dialect=ARROW, plan=PLAN)


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    made = new_database()
    things.create(made)
    return made


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[PostgresStore]:
    made = PostgresStore("old", dsn, things.schema(), pool_min=1, pool_max=2)
    await made.open()
    yield made
    await made.close()


async def columns(
    store: PostgresStore,
    target: BulkTarget = TARGET,
    exclude: Iterable[Key] = (),
    collection: str = "things",
) -> list[Any]:
    """Return the rows of a page's chunks, as Python values."""
    async with store.page(collection, KeyRange(), limit=1000, order="C", deadline_s=20) as page:
        chunks = [chunk async for chunk in page.bulk(frozenset(exclude), target)]
    return [row for chunk in chunks for row in checked(chunk)]


async def by_record(
    store: PostgresStore, exclude: Iterable[Key] = (), plan: ArrowPlan = PLAN, name: str = "things"
) -> list[Any]:
    async with store.page(name, KeyRange(), limit=1000, order="C", deadline_s=20) as page:
        records = await page.records(frozenset(exclude))
    return checked(encode_records(store.schema.collections[name], plan, records))


def checked(chunk: bytes) -> list[Any]:
    table = decode_chunk(chunk)
    table.validate(full=True)
    return [repr(row) for row in table.to_pylist()]  # NaN equals itself this way


async def refill(store: PostgresStore, writes: Iterable[Write]) -> None:
    keys = await store.list_keys(ListQuery(collection="things", limit=1000), deadline_s=10)
    gone = [Write(op=WriteOp.DELETE, collection="things", key=key) for key in keys]
    await store.apply([*gone, *writes], atomic=True, deadline_s=20)


def sql(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


def test_the_dialect_is_known_without_arrow() -> None:
    assert ARROW == DIALECT


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(things.writes(), max_size=8))
async def test_columns_hold_what_records_hold(store: PostgresStore, writes: list[Write]) -> None:
    await refill(store, writes)
    assert await columns(store) == await by_record(store)


async def test_keys_left_out_do_not_come(store: PostgresStore) -> None:
    await refill(store, [thing(number) for number in range(5)])
    out: list[Key] = [("a", 1), ("a", 4)]
    found = await columns(store, exclude=out)
    assert len(found) == 3
    assert found == await by_record(store, out)


async def test_many_rows_come_in_chunks_that_each_decode(store: PostgresStore, dsn: str) -> None:
    sql(
        dsn,
        "INSERT INTO things (kind, num, \"the text\", list, v) SELECT 'a', n, repeat('é', 30000),"
        " CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE array_fill('x'::text, ARRAY[n]) END,"
        " '[1,2,3,4]' FROM generate_series(1, 300) AS n",
    )
    found = await columns(store)
    assert len(found) == 300
    assert found == await by_record(store)


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE things SET \"when\" = 'infinity'",
        "UPDATE things SET naive = '-infinity'",
        "UPDATE things SET list = ARRAY[['a', 'b'], ['c', 'd']]",
        "ALTER TABLE things ALTER v TYPE vector; UPDATE things SET v = '[1,2,3]'",
    ],
)
async def test_a_value_without_a_place_in_its_column_is_told(
    store: PostgresStore, dsn: str, broken: str
) -> None:
    await refill(store, [thing(1)])
    sql(dsn, broken)
    with pytest.raises(Corrupt, match="things"):
        await columns(store)


async def test_vectors_are_kept_bit_for_bit(store: PostgresStore, dsn: str) -> None:
    odd = struct.pack("<4I", 0x80000000, 0x00000001, 0x7F7FFFFF, 0x3DCCCCCD)
    await refill(store, [thing(1, odd), thing(2, None)])
    async with store.page("things", KeyRange(), limit=9, order="C", deadline_s=20) as page:
        (chunk,) = [chunk async for chunk in page.bulk(frozenset(), TARGET)]
    column = decode_chunk(chunk).column("vector").combine_chunks()
    assert column.is_valid().to_pylist() == [True, False]
    assert column.flatten().to_numpy().tobytes() == odd


@pytest.mark.parametrize("plan", [ArrowPlan(fields=(), vector=False), PLAN])
async def test_an_empty_page_has_no_chunks(store: PostgresStore, plan: ArrowPlan) -> None:
    assert await columns(store, BulkTarget(dialect=ARROW, plan=plan)) == []


async def test_another_plan_is_not_understood(store: PostgresStore) -> None:
    await refill(store, [thing(1)])
    with pytest.raises(Rejected) as raised:
        await columns(store, BulkTarget(dialect=ARROW, plan=("text",)))
    assert raised.value.reason is Reason.UNIMPLEMENTED


async def test_without_arrow_the_format_is_not_spoken(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refill(store, [thing(1)])
    monkeypatch.setitem(sys.modules, "proxy.stores.postgres.arrow", None)
    with pytest.raises(Rejected) as raised:
        await columns(store)
    assert raised.value.reason is Reason.UNIMPLEMENTED


@pytest.mark.parametrize("side", ["old", "new"])
async def test_constants_and_packed_fields_are_logical_columns(
    new_database: Callable[[], str], side: str
) -> None:
    dsn = new_database()
    create_tables(dsn, side)
    schema = schemas()[side]
    made = PostgresStore(side, dsn, schema, pool_min=1, pool_max=1)
    await made.open()
    try:
        await made.apply(
            [source("serde"), document("a b.html"), document("ü.html", packed=None)],
            atomic=False,
            deadline_s=20,
        )
        for name in ("sources", "documents"):
            plan = ArrowPlan(
                fields=tuple(sorted(schema.stored_value_fields(name))), vector=name == "documents"
            )
            target = BulkTarget(dialect=ARROW, plan=plan)
            found = await columns(made, target, collection=name)
            assert found
            assert found == await by_record(made, plan=plan, name=name)
    finally:
        await made.close()


def thing(number: int, vector: bytes | None = struct.pack("<4f", 1, 2, 3, 4)) -> Write:
    return Write(
        op=WriteOp.UPSERT,
        collection="things",
        key=("a", number),
        fields={**dict.fromkeys(things.NAMES), "rest": {}, "int": number, "list": ["x"] * number},
        vector=vector,
    )
