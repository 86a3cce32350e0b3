"""LanceDB's tables: made from the layout, checked against it, and what lies in them survives."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest

from proxy.clock import SystemClock
from proxy.config.settings import LanceSettings, StoreSettings
from proxy.errors import ConfigInvalid, Corrupt, Reason, Rejected, Unavailable
from proxy.layouts import Column, ColumnKind, IndexSpec, StoreSchema
from proxy.model import Applied, Write, WriteOp
from proxy.query import Compare, CompareOp, CountQuery, KeyRange, ListQuery, Order, SearchQuery
from proxy.server.build import build_store
from proxy.stores.lancedb import LanceStore
from proxy.stores.lancedb.table import OpenTable, compile_table
from proxy.stores.lancedb.upkeep import Upkeep
from tests.doc_server import vector
from tests.lance import DIM, QUICK, WHEN, gone, item, lance, schema, shelf


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LanceStore]:
    made = lance(tmp_path)
    await made.open()
    yield made
    await made.close()


async def put(store: LanceStore, *writes: Write) -> None:
    for result in await store.apply(writes, atomic=False, deadline_s=20):
        assert result.applied is Applied.DONE, result


def changed(**columns: Column) -> StoreSchema:
    """Return the schema with some columns of "items" replaced by name."""
    made = schema()
    layout = made.layouts["items"]
    found = tuple(columns.get(column.name, column) for column in layout.columns)
    return replace(made, layouts={**made.layouts, "items": replace(layout, columns=found)})


async def test_tables_have_the_types_of_the_layout_before_any_data(
    store: LanceStore, tmp_path: Path
) -> None:
    assert await store.check() == []
    table = await (await lancedb.connect_async(str(tmp_path))).open_table("item")
    types = {field.name: str(field.type) for field in await table.schema()}
    assert types == {
        **dict.fromkeys(("id", "shelf", "title", "metadata", "extra"), "string"),
        "count": "int64",
        "progress": "double",
        "done": "bool",
        "at": "timestamp[us]",
        "tags": "list<item: string>",
        "vector": f"fixed_size_list<item: float>[{DIM}]",
    }
    with pytest.raises(ValueError, match="already set"):
        await table.set_unenforced_primary_key("id")


async def test_a_collection_of_nulls_alone_takes_values_later(store: LanceStore) -> None:
    names = store.schema.stored_value_fields("items")
    blank = Write(op=WriteOp.UPSERT, collection="items", key=("null",), fields=dict.fromkeys(names))
    await put(store, blank)
    await put(store, item("full"), replace(blank, key=("null2",)))
    found = await store.get("items", [("null",), ("full",)], vectors=True, deadline_s=20)
    assert set(found["null",].fields.values()) == {None}
    assert found["null",].vector is None
    assert found["full",].fields["progress"] == 0.5
    assert found["full",].vector == vector(1, DIM)


async def test_times_keep_their_microseconds_and_their_zone(store: LanceStore) -> None:
    east = dt.timezone(dt.timedelta(hours=5, minutes=30))
    times = [
        WHEN,
        dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC),
        dt.datetime(2026, 3, 29, 2, 30, tzinfo=east),
    ]
    await put(store, *(item(f"t{n}", at=when) for n, when in enumerate(times)))
    found = await store.list_records(ListQuery(collection="items"), deadline_s=20)
    assert [record.fields["at"] for record in found] == times
    for when in times:
        equal = Compare(field="at", op=CompareOp.EQ, value=when)
        keys = await store.list_keys(ListQuery(collection="items", filter=equal), deadline_s=20)
        assert len(keys) == 1, when
    (refused,) = await store.apply(
        [item("naive", at=dt.datetime(2026, 1, 1))],  # noqa: DTZ001  # that is the point
        atomic=False,
        deadline_s=20,
    )
    assert refused.applied is Applied.REFUSED


async def test_what_arrow_cannot_hold_is_refused_by_name(store: LanceStore) -> None:
    nan = b"\x00\x00\xc0\x7f" * DIM
    for write, word in (
        (replace(item("x"), vector=nan), "finite"),
        (replace(item("x"), vector=vector(1, DIM + 1)), "dimensions"),
        (item("x", count=2**63), "count"),
        (item("x", title="\ud800"), "title"),
        (item("x", metadata={"a": [float("nan")]}), "metadata"),
        (item("x", metadata={"\ud800": 1}), "metadata"),
        (item("x", tags=["a", None]), "tags"),
        (item("x", colour=7), "colour"),
    ):
        (result,) = await store.apply([write], atomic=False, deadline_s=20)
        assert result.applied is Applied.REFUSED
        assert word in result.detail
    assert await store.row_estimate("items") == 0
    await put(store, item("\0 ' \\ `", tags=[], metadata={}, title=""))


async def test_names_in_a_packed_column_that_belong_to_nobody_survive(
    store: LanceStore, tmp_path: Path
) -> None:
    await put(store, item("x"))
    table = store.database.table("items").handle
    await table.update(updates_sql={"extra": """'{"colour": "red", "theirs": [1, {"a": null}]}'"""})
    await put(store, item("x", colour="blue"))
    (row,) = await table.query().select(["extra"]).to_list()
    assert json.loads(row["extra"]) == {"colour": "blue", "theirs": [1, {"a": None}]}
    await table.update(updates_sql={"extra": "'not json'"})
    with pytest.raises(Corrupt, match="extra"):
        await store.get("items", [("x",)], vectors=False, deadline_s=20)


async def test_columns_that_the_layout_does_not_name_are_left_alone(tmp_path: Path) -> None:
    database = await lancedb.connect_async(str(tmp_path))
    made = lance(tmp_path)
    await made.open()
    full = pa.schema([*made.database.table("items").table.schema, pa.field("theirs", pa.int64())])
    await made.close()
    await database.drop_table("item")
    table: Any = await database.create_table("item", schema=full)
    store = lance(tmp_path)
    await store.open()
    assert await store.check() == []
    await put(store, item("x"))
    await table.checkout_latest()
    await table.update(updates={"theirs": 7})
    await store.close()
    await store.open()
    await put(store, item("x", title="new"), item("y"))
    rows = await store.database.table("items").handle.query().select(["id", "theirs"]).to_list()
    assert {row["id"]: row["theirs"] for row in rows} == {"x": 7, "y": None}
    await store.close()


async def test_a_table_that_does_not_fit_is_told_by_name_and_not_served(tmp_path: Path) -> None:
    first = lance(tmp_path)
    await first.open()
    await put(first, shelf("s"), item("x"))
    await first.close()
    other = changed(
        count=Column(name="count", field="count", type="int32"),
        tags=Column(name="labels", field="tags"),
        at=Column(name="at", field="at"),
    )
    store = lance(tmp_path, data=other)
    await store.open()
    told = [problem.what for problem in await store.check()]
    assert any("count" in what and "int32" in what and "int64" in what for what in told)
    assert any("labels" in what for what in told)
    assert any("UTC" in what and "at" in what for what in told)
    with pytest.raises(Corrupt, match="crossfade plan"):
        await store.row_estimate("items")
    assert await store.row_estimate("shelves") == 1
    await store.close()


async def test_layouts_that_lancedb_cannot_hold_are_told_by_name(tmp_path: Path) -> None:
    lookup = Column(name="shelf", kind=ColumnKind.PARENT_ID, lookup_table="shelf")
    made = changed(
        shelf=lookup,
        count=Column(name="count", field="count", type="int8"),
        title=Column(name="ti`tle", field="title"),
    )
    index = IndexSpec(name="v", method="hnsw")
    layouts = {**made.layouts, "items": replace(made.layouts["items"], index=index)}
    store = lance(tmp_path, data=replace(made, layouts=layouts))
    await store.open()
    told = " | ".join(problem.what for problem in await store.check())
    for word in ("looks its parent up", "int8", "ti`tle", "hnsw"):
        assert word in told
    await store.close()


async def test_a_namespace_is_a_folder_and_a_database_of_its_own(tmp_path: Path) -> None:
    root, other = lance(tmp_path), lance(tmp_path, namespace="team-a")
    await root.open()
    await other.open()
    await put(root, item("x"))
    assert await other.row_estimate("items") == 0
    assert (tmp_path / "team-a" / "item.lance").is_dir()
    assert (tmp_path / "item.lance").is_dir()
    await root.close()
    await other.close()


async def test_an_object_store_is_accepted_and_has_no_folder_to_lock(tmp_path: Path) -> None:
    place = StoreSettings(engine="lancedb", uri="memory://bucket/path", namespace="n")
    store = LanceStore("new", place, schema(), SystemClock())
    assert store.database.folder.path is None
    assert store.database.folder.uri == "memory://bucket/path/n"
    assert store.capabilities.single_writer  # no lock keeps others out, so it is a rule
    with pytest.raises(ConfigInvalid, match="where it lies"):
        build_store("new", StoreSettings(engine="lancedb"), schema(), SystemClock())


async def test_on_an_object_store_every_read_looks_for_what_another_process_wrote(
    tmp_path: Path,
) -> None:
    place = StoreSettings(engine="lancedb", uri=f"file-object-store://{tmp_path}/x", lance=QUICK)
    one, other = (LanceStore("new", place, schema(), SystemClock()) for _ in range(2))
    await one.open()
    await other.open()
    for number in (1, 2):
        await put(one, item("k", number=number))
        found = await other.get("items", [("k",)], vectors=False, deadline_s=20)
        assert found["k",].fields["count"] == number
    await put(other, item("z"))
    await put(one, item("k", number=3))
    assert await one.row_estimate("items") == 2
    await one.close()
    await other.close()


async def test_a_long_list_has_no_end_at_ten_thousand(store: LanceStore) -> None:
    total = 12_345
    for start in range(0, total, 2500):
        rows = range(start, min(start + 2500, total))
        await put(store, *(item(f"{n:06d}", number=n % 9) for n in rows))
    seen: list[object] = []
    after = None
    while True:
        query = ListQuery(
            collection="items", order=(Order(field="count"),), after=after, limit=1000
        )
        page = await store.list_records(query, deadline_s=20)
        seen += [record.key for record in page]
        if len(page) < 1000:
            break
        after = (page[-1].fields["count"], *page[-1].key)
    assert len(seen) == len(set(seen)) == total
    assert len(await store.range_keys("items", KeyRange(), order="C", deadline_s=20)) == total
    (group,) = await store.count(CountQuery(collection="items"), deadline_s=20)
    assert group.count == total
    beyond = ListQuery(collection="items", offset=10_000, limit=1000)
    assert len(await store.list_keys(beyond, deadline_s=20)) == 1000


async def test_a_page_is_one_moment_while_tables_are_optimised_and_cleaned(tmp_path: Path) -> None:
    hasty = LanceSettings.model_construct(
        **{**LanceSettings(flush_ms=0).model_dump(), "keep_versions_s": 0.001}
    )
    store = lance(tmp_path, settings=hasty)
    await store.open()
    await put(store, *(item(f"k{n}") for n in range(9)))
    upkeep = store.writers["items"].upkeep["items"]
    files = tmp_path / "item.lance" / "_versions"
    async with store.page("items", KeyRange(), limit=50, order="C", deadline_s=20) as page:
        await put(store, item("k0", title="changed"), item("new"))
        await put(store, gone("items", "k1"))
        await upkeep.run()
        assert upkeep.failures == 0
        records = await page.records(frozenset())
        assert [record.fields["title"] for record in records] == [f"About k{n}" for n in range(9)]
        assert len(list(files.iterdir())) > 2
    await upkeep.run()
    assert len(list(files.iterdir())) <= 2
    assert upkeep.failures == 0
    assert await store.row_estimate("items") == 9
    await store.close()


async def test_upkeep_comes_by_rule_and_its_failure_is_never_a_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = lance(tmp_path, settings=LanceSettings(flush_ms=0, optimize_commits=3))
    await store.open()
    upkeep = store.writers["items"].upkeep["items"]
    for number in range(3):
        assert upkeep.commits == number
        await put(store, item(f"k{number}"))
    await put(store, shelf("s"))  # the writer has come back from the upkeep
    assert (upkeep.commits, upkeep.rows, upkeep.failures) == (0, 0, 0)

    async def broken() -> None:
        raise RuntimeError("lance error: commit conflict")

    monkeypatch.setattr(upkeep, "optimize", broken)
    monkeypatch.setattr(upkeep, "_not_before_s", 0.0)
    for number in range(4):
        await put(store, item(f"k{number}"))
    await put(store, shelf("s"))
    assert upkeep.failures == 1
    assert store.stats()["optimize_failures"] == 1
    assert upkeep.commits == 4
    await store.close()


async def test_at_rest_nothing_is_optimised_and_what_was_under_way_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = lance(tmp_path, settings=LanceSettings(flush_ms=0, optimize_commits=3))
    await store.open()
    upkeep = store.writers["items"].upkeep["items"]
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        await may_end.wait()

    monkeypatch.setattr(upkeep, "optimize", slow)
    await put(store, *(item(f"k{number}") for number in range(3)))
    upkeep.committed(3, 3)
    async with asyncio.timeout(20):
        await begun.wait()
    with pytest.raises(Unavailable, match="still optimises"):
        await store.rest(for_s=60, deadline_s=0.01)
    resting = asyncio.create_task(store.rest(for_s=60, deadline_s=20))
    await asyncio.sleep(0)
    assert not resting.done()
    writing = asyncio.create_task(put(store, item("waited")))
    await asyncio.sleep(0)
    may_end.set()
    await resting
    assert "waited" in {
        key[0] for key in await store.range_keys("items", KeyRange(), order="C", deadline_s=20)
    }
    await writing
    upkeep.committed(10_000, 1_000_000)
    assert not upkeep.due(idle_s=60)
    await put(store, item("k0"))
    assert upkeep.commits == 10_002  # the one that waited, and this
    await store.close()


def test_upkeep_that_takes_long_waits_for_quiet_or_for_many_commits() -> None:
    class Clock(SystemClock):
        now_s = 1000.0

        def monotonic_s(self) -> float:
            return self.now_s

    clock = Clock()
    opened = OpenTable(
        compile_table(schema().collections["items"], schema().layouts["items"]), None
    )

    class Slow(Upkeep):
        async def optimize(self) -> None:
            clock.now_s += 3.0

    upkeep = Slow(opened, LanceSettings(), clock)
    upkeep.committed(20, 20)
    assert upkeep.due(idle_s=0.25)
    assert not upkeep.due(idle_s=0)
    clock.now_s += 10  # nothing is known to be slow: a tenth of the commits is enough after a while
    assert upkeep.due(idle_s=0)
    asyncio.run(upkeep.run())
    upkeep.committed(150, 150)
    assert not upkeep.due(idle_s=9)  # most of the time belongs to writes
    clock.now_s += 100
    assert not upkeep.due(idle_s=0)
    assert not upkeep.due(idle_s=0.25)
    assert upkeep.due(idle_s=3.0)
    upkeep.committed(40, 40)  # ten times as long as a short one: about three times the commits
    assert upkeep.due(idle_s=0)


async def test_versions_are_kept_for_less_while_upkeep_comes_often(store: LanceStore) -> None:
    upkeep = store.writers["items"].upkeep["items"]
    assert upkeep.keep_s() == 600
    for _ in range(10):
        await upkeep.run()
    assert upkeep.keep_s() == pytest.approx(30, abs=1)


async def test_a_reader_sees_what_the_writer_wrote_and_writes_nothing(tmp_path: Path) -> None:
    reader = lance(tmp_path / "db", read_only=True)
    with pytest.raises(Unavailable, match="no folder"):
        await reader.open()
    writer = lance(tmp_path / "db")
    await writer.open()
    await put(writer, item("x"))
    await reader.open()
    assert await reader.check() == []
    await put(writer, item("y"), item("x", title="new"))
    found = await reader.get("items", [("x",), ("y",)], vectors=True, deadline_s=20)
    assert found["x",].fields["title"] == "new"
    assert found["y",].vector is not None
    near = await reader.search(
        SearchQuery(collection="items", vector=vector(1, DIM)), deadline_s=20
    )
    assert len(near.hits) == 2
    with pytest.raises(Rejected) as caught:
        await reader.apply([item("z")], atomic=False, deadline_s=20)
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    await writer.close()
    await reader.close()


async def test_an_index_is_built_from_little_and_finds_what_was_written_since(
    tmp_path: Path,
) -> None:
    for method in ("ivf_flat", "ivf_pq"):
        made = schema()
        index = IndexSpec(name="by_vector", method=method)
        layouts = {**made.layouts, "items": replace(made.layouts["items"], index=index)}
        store = lance(tmp_path / method, data=replace(made, layouts=layouts))
        await store.open()
        await store.build_index("items")
        await put(store, *(item(f"k{n:03d}", number=n) for n in range(300)))
        query = SearchQuery(collection="items", vector=vector(7, DIM), limit=5, exact=False)
        found = await store.search(query, deadline_s=20)
        exact = await store.search(replace(query, exact=True), deadline_s=20)
        assert found.indexed
        assert not exact.indexed
        assert [hit.record.key for hit in found.hits] == [hit.record.key for hit in exact.hits]
        assert not (await store.search(replace(query, exact=None), deadline_s=20)).indexed
        await put(store, item("newest", number=7))
        found = await store.search(query, deadline_s=20)
        assert [hit.record.key for hit in found.hits[:2]] == [("k007",), ("newest",)]
        await store.close()


@pytest.mark.parametrize("below", ["", "namespace"])
async def test_a_look_ahead_sees_that_the_place_is_no_folder(tmp_path: Path, below: str) -> None:
    file = tmp_path / "data"
    place = StoreSettings(engine="lancedb", uri=str(file), namespace=below)
    ahead = build_store("new", place, schema(), SystemClock(), look_ahead=True)
    await ahead.open()
    assert await ahead.check() == []
    file.write_text("something else")
    (problem,) = await ahead.check()
    assert f"cannot be written: {file} is no folder" in problem.what
    assert problem.hint == "correct `uri`"
    await ahead.close()
