"""The demo of the work items, small: it passes; its check convicts whatever differs, by name."""

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import lancedb
import numpy as np
import psycopg
import pyarrow as pa
import pytest

from proxy.demo.checks import compare, lost_writes
from proxy.demo.options import DemoOptions, pace_of
from proxy.demo.oracle import Expectation
from proxy.demo.work_items.contents import TABLE, read_contents
from proxy.demo.work_items.corpus import make_corpus
from proxy.demo.work_items.damage import inflict
from proxy.demo.work_items.items import COLLECTION, FIELDS, Item, image_of
from proxy.demo.work_items.load import create_table, load_old
from proxy.demo.work_items.origin import Origin, Seedling
from tests.integration.test_demo import assert_nothing_lost, databases_of, run_demo

_LISTS = {"tags", "dependencies", "context_tags", "acceptance_criteria"}
_FLOATS = {"estimated_hours", "actual_hours", "progress"}
_OTHERS = {"order_index": pa.int64(), "executable": pa.bool_()}


@pytest.mark.demo
@pytest.mark.timeout(240)  # three processes load the model one after the other
def test_a_small_demo_of_work_items_passes_with_nothing_lost(tmp_path: Path, pg_admin: str) -> None:
    before = databases_of(pg_admin)
    code, _, report = run_demo(tmp_path / "out", "--preset", "work-items", dsn=pg_admin)
    assert_nothing_lost(code, report)
    assert (report["preset"], report["migration"]) == ("work-items", "work-items")
    assert report["verify"]["matched"] >= 500
    assert {step["step"] for step in report["steps"]} >= {"load", "serve", "backfill", "check"}
    kinds = {group["kind"] for group in report["shadow"]["groups"]}
    assert {"text search", "hybrid search", "keyword search"} <= kinds
    assert report["shadow"]["gate"]["passed"]
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    assert databases_of(pg_admin) == before, "its databases are dropped"


@dataclass(frozen=True)
class Twins:
    """A PostgreSQL table and a LanceDB one with the same items, and those items."""

    old: str
    new: str
    items: list[Item]


@pytest.fixture
def twins(new_database: Callable[[], str], tmp_path: Path) -> Twins:
    """Return two stores that were filled alike, the second without any part of Crossfade."""
    seedlings = [
        Seedling(id=f"item-{number}", title=f"Item {number}", description="", kind="task")
        for number in range(20)
    ]
    pace = replace(pace_of(DemoOptions(quick=True)), documents=60, live_documents=0)
    items = list(make_corpus(Origin(source="test", seedlings=seedlings), pace, 3).items)
    vectors = {
        text: np.random.default_rng(number).standard_normal(384).astype("<f4").tobytes()
        for number, text in enumerate({item.text for item in items if item.text})
    }
    old, new = new_database(), str(tmp_path / "new")
    create_table(old)
    load_old(old, items, vectors)
    asyncio.run(fill_by_hand(new, items, vectors))
    return Twins(old=old, new=new, items=items)


async def fill_by_hand(folder: str, items: list[Item], vectors: dict[str, bytes]) -> None:
    """Write the new table as its own application would."""
    columns = {
        name: pa.array([stored(name, item.fields[name]) for item in items], column_type(name))
        for name in FIELDS
    }
    made = [vectors.get(item.text) for item in items]
    unpacked = [None if one is None else np.frombuffer(one, dtype="<f4").tolist() for one in made]
    table = pa.table(
        {
            "id": pa.array([item.id for item in items]),
            "vector": pa.array(unpacked, pa.list_(pa.float32(), 384)),
            **columns,
        }
    )
    connection = await lancedb.connect_async(folder)
    empty = await connection.create_table(TABLE, schema=table.schema)
    await empty.add(table, on_bad_vectors="null")


def column_type(name: str) -> pa.DataType:
    if name in ("created_at", "updated_at"):
        return pa.timestamp("us")
    if name in _LISTS:
        return pa.list_(pa.string())
    return pa.float64() if name in _FLOATS else _OTHERS.get(name, pa.string())


def stored(name: str, value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None)
    return json.dumps(value) if name == "metadata" and value is not None else value


def test_stores_that_were_filled_alike_have_no_difference(twins: Twins) -> None:
    contents = read_contents(twins.old, twins.new)
    matched, differences = compare(contents, primary="new")
    assert differences == []
    assert matched == len(twins.items) == contents.rows("new")


def test_each_kind_of_damage_is_named_by_id_and_kind(twins: Twins) -> None:
    quiet = [item.key for item in twins.items]
    spoiled = inflict(twins.old, ("changed", "removed", "added", "changed"), quiet)
    _, differences = compare(read_contents(twins.old, twins.new), primary="new")
    assert {(item.key, item.kind) for item in differences} == {
        (item.key, item.outcome) for item in spoiled
    }
    assert {item.collection for item in differences} == {COLLECTION}


def test_a_difference_in_any_field_of_a_work_item_is_found(twins: Twins) -> None:
    changes = {
        "vector": "embedding = NULL",
        "created_at": "created_at = created_at + interval '1 microsecond'",
        "progress": "progress = 0.12345678901",
        "tags": "tags = '{NULL}'",
        "acceptance_criteria": "acceptance_criteria = '{a,b}'",
        "metadata": "metadata = metadata || '{\"x\": 1}'",
        "executable": "executable = NOT executable",
        "execution_instructions": "execution_instructions = ''",
    }
    with psycopg.connect(twins.old) as connection:
        for number, change in enumerate(changes.values()):
            statement = f"UPDATE work_items SET {change} WHERE id = 'item-{number}'"
            assert connection.execute(statement.encode()).rowcount == 1
    _, differences = compare(read_contents(twins.old, twins.new), primary="new")
    assert {item.key: item.fields for item in differences} == {
        (f"item-{number}",): (field,) for number, field in enumerate(changes)
    }


def test_an_acknowledged_item_that_a_store_lacks_is_lost(twins: Twins) -> None:
    item = twins.items[0]
    expected = [
        Expectation(collection=COLLECTION, key=item.key, images=(image_of(item),)),
        Expectation(collection=COLLECTION, key=("never",), images=(image_of(item),)),
    ]
    lost = lost_writes(read_contents(twins.old, twins.new), expected)
    assert [(one.key, one.store) for one in lost] == [(("never",), "old"), (("never",), "new")]
