"""What other programs wrote into the tables: it is seen, and what cannot be is named."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest

from proxy.clock import SystemClock
from proxy.config.settings import ReconcileSettings
from proxy.errors import Corrupt
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.types import JobKind, JobState, Phase
from proxy.query import KeyRange
from proxy.stores.base import Store
from proxy.stores.lancedb import LanceStore
from proxy.stores.memory import MemoryStore
from reconcile.jobs import Reconciler, Tools
from tests.lance import item, lance, schema
from tests.rig import Faulty, replica

ALL = KeyRange()


async def filled(folder: Path, *keys: str) -> LanceStore:
    store = lance(folder)
    await store.open()
    await store.apply([item(key, title="one") for key in keys], atomic=False, deadline_s=20)
    return store


async def around(folder: Path) -> Any:
    """Return the table as another program has it."""
    connection = await lancedb.connect_async(str(folder))
    return await connection.open_table("item")


async def doubled(folder: Path, key: str) -> None:
    """Add a row under a key that is there."""
    table = await around(folder)
    rows = await table.query().where(f"id = '{key}'").limit(1).to_arrow()
    at = rows.schema.get_field_index("title")
    await table.add(rows.set_column(at, "title", pa.array(["two"])))


async def keys_of_page(store: LanceStore, limit: int) -> list[str]:
    async with store.page("items", ALL, limit=limit, order="C", deadline_s=20) as page:
        return [str(key[0]) for key in page.keys]


def reconciler_of(stores: dict[str, Store], ledger: MemoryLedger) -> Reconciler:
    """Return a reconciler between two stores."""
    clock = SystemClock()
    return Reconciler(stores, ledger, ReconcileSettings(), owner="me", tools=Tools(clock=clock))


async def test_the_reconciler_sees_what_bypassed_the_proxy(tmp_path: Path) -> None:
    store = await filled(tmp_path, "a", "b", "c", "d", "e")
    table = await around(tmp_path)
    await table.delete("id = 'a'")
    assert await keys_of_page(store, 9) == ["b", "c", "d", "e"]
    await table.delete("id = 'b'")
    digest = await store.digest("items", ALL, fields=("title",), order="C", deadline_s=20)
    assert digest.rows == 3
    await table.delete("id = 'c'")
    digests = await store.key_digests("items", ALL, fields=("title",), order="C", deadline_s=20)
    assert [item.key for item in digests] == [("d",), ("e",)]
    await table.delete("id = 'd'")
    assert await store.range_keys("items", ALL, order="C", deadline_s=20) == [("e",)]
    await table.delete("id = 'e'")
    await store.landed("items", deadline_s=20)
    assert not await store.get("items", [("e",)], vectors=False, deadline_s=20)
    await store.close()


async def test_a_key_that_a_table_has_twice_is_named_wherever_a_page_ends(tmp_path: Path) -> None:
    store = await filled(tmp_path, "a", "b", "c")
    await doubled(tmp_path, "b")
    twice = r"the key .*b.* of items twice"
    assert await keys_of_page(store, 1) == ["a"]
    for limit in (2, 3, 9):
        with pytest.raises(Corrupt, match=twice):
            await keys_of_page(store, limit)
    with pytest.raises(Corrupt, match=twice):
        await store.range_keys("items", ALL, order="C", deadline_s=20)
    with pytest.raises(Corrupt, match=twice):
        await store.key_digests("items", ALL, fields=("title",), order="C", deadline_s=20)
    await store.close()


async def test_keys_of_several_rows_are_told_before_anything_begins(tmp_path: Path) -> None:
    store = await filled(tmp_path, *"abcdefgh")
    assert await store.check() == []
    for key in "hhgbcdef":
        await doubled(tmp_path, key)
    (problem,) = await store.check()
    named = '["b"], ["c"], ["d"], ["e"], ["f"], ...'
    assert problem.what == f"table item has 7 key(s) more than once: {named}"
    assert "leave one row of each" in problem.hint
    await store.close()


async def test_no_row_of_a_key_that_is_there_twice_is_chosen_by_chance(tmp_path: Path) -> None:
    store = await filled(tmp_path, "a", "b")
    await doubled(tmp_path, "a")
    clock = SystemClock()
    ledger, new = MemoryLedger(clock), MemoryStore("new", schema(), clock)
    async with replica(ledger, {"old": Faulty(store), "new": Faulty(new)}) as rig:
        await rig.go(Phase.DUAL_WRITE)
        await ledger.mark_dirty("items", [("a",), ("b",)], reason="test")
        reconciler = reconciler_of({"old": store, "new": new}, ledger)
        job = await reconciler.run_once(JobKind.REPAIR, {})
        assert job.state is JobState.DONE
        (letter,) = await ledger.dead_letters(limit=9)
        assert letter.key == ("a",)
        assert "of items twice" in letter.reason
        both = [("a",), ("b",)]
        assert set(await new.get("items", both, vectors=False, deadline_s=20)) == {("b",)}
    with pytest.raises(Corrupt, match="of items twice"):
        await store.get("items", both, vectors=False, deadline_s=20)
    await store.close()


async def test_a_backfill_and_a_verify_of_a_table_with_a_key_twice_fail_and_name_it(
    tmp_path: Path,
) -> None:
    store = await filled(tmp_path, "a", "b")
    await doubled(tmp_path, "a")
    clock = SystemClock()
    ledger, new = MemoryLedger(clock), MemoryStore("new", schema(), clock)
    async with replica(ledger, {"old": Faulty(store), "new": Faulty(new)}) as rig:
        await rig.go(Phase.DUAL_WRITE)
        reconciler = reconciler_of({"old": store, "new": new}, ledger)
        for kind in (JobKind.BACKFILL, JobKind.VERIFY):
            job = await reconciler.run_once(kind, {})
            assert job.state is JobState.FAILED
            assert "of items twice" in job.error
    await store.close()


async def test_rows_without_a_key_are_told_before_anything_begins(tmp_path: Path) -> None:
    store = await filled(tmp_path, "a", "b")
    await store.close()
    made = await (await around(tmp_path)).query().to_arrow()
    loose = pa.schema([pa.field(field.name, field.type) for field in made.schema])
    columns = [made.column(name) for name in loose.names]
    keyless = pa.table([pa.array([None, "b"]), *columns[1:]], schema=loose)
    connection = await lancedb.connect_async(str(tmp_path))
    for rows, problems in (
        (keyless, ["column id of table item is part of the key of items, and null in 1 row(s)"]),
        (loose.empty_table(), []),
    ):
        await connection.create_table("item", data=rows, mode="overwrite")
        store = lance(tmp_path)
        await store.open()
        assert [problem.what for problem in await store.check()] == problems
        for reads in (
            keys_of_page(store, 9),
            store.range_keys("items", ALL, order="C", deadline_s=20),
            store.key_digests("items", ALL, fields=("title",), order="C", deadline_s=20),
            store.split("items", rows_per_range=1, order="C"),
        ):
            with pytest.raises(Corrupt, match="is null") if problems else nullcontext():
                await reads
        await store.close()
