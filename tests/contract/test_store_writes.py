"""The contract of Store.apply and Store.get, for every store and both layouts."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from proxy.errors import Reason, Rejected
from proxy.model import Applied, Key, Record, Value, Write, WriteOp, WriteResult
from proxy.stores.base import Store
from tests.doc_server import WHEN, delete, document, patch, source, vector

LATER = dt.datetime(2026, 4, 2, 3, 4, 5, 678, tzinfo=dt.UTC)


async def apply(store: Store, *writes: Write, atomic: bool = False) -> list[WriteResult]:
    return await store.apply(writes, atomic=atomic, deadline_s=10)


async def outcomes(store: Store, *writes: Write, atomic: bool = False) -> list[Applied]:
    return [result.applied for result in await apply(store, *writes, atomic=atomic)]


async def refused_as_a_whole(store: Store, *writes: Write) -> bool:
    """True for a store without transactions, once it has refused an atomic batch whole."""
    if store.capabilities.transactions:
        return False
    before = [await get(store, write) for write in writes]
    with pytest.raises(Rejected) as caught:
        await apply(store, *writes, atomic=True)
    assert caught.value.reason is Reason.UNIMPLEMENTED
    assert [await get(store, write) for write in writes] == before
    return True


async def get(store: Store, write: Write, *, vectors: bool = True) -> Record | None:
    found = await store.get(write.collection, [write.key], vectors=vectors, deadline_s=10)
    return found.get(write.key)


def held(store: Store, write: Write) -> dict[str, Value]:
    names = store.schema.stored_value_fields(write.collection)
    return {name: value for name, value in write.fields.items() if name in names}


async def test_what_was_upserted_reads_back_bit_for_bit(store: Store) -> None:
    parent, child = source(), document(content="ünï\n\t\"'\\%_$1 日本")
    assert await outcomes(store, parent) == [Applied.DONE]
    assert await outcomes(store, child) == [Applied.DONE]
    record = await get(store, child)
    assert record is not None
    assert record.key == child.key
    assert record.vector == child.vector
    for name, value in held(store, child).items():
        assert record.fields[name] == value, name
    stored = await get(store, parent)
    assert stored is not None
    assert {name: stored.fields[name] for name in held(store, parent)} == held(store, parent)


async def test_reading_without_vectors_gives_none(store: Store) -> None:
    await apply(store, source(), document())
    record = await get(store, document(), vectors=False)
    assert record is not None
    assert record.vector is None


async def test_a_record_has_every_field_the_store_holds_and_no_other(store: Store) -> None:
    await apply(store, source(), document(token_count=None))
    record = await get(store, document())
    assert record is not None
    spec = store.schema.collections["documents"]
    stored = store.schema.layouts["documents"].stored_fields() - set(spec.key)
    assert set(record.fields) == stored
    assert record.fields["token_count"] is None


async def test_a_field_the_store_does_not_hold_is_ignored(store: Store) -> None:
    write = source(enabled=False, last_checked=WHEN, config={"depth": 3})
    assert await outcomes(store, write) == [Applied.DONE]
    record = await get(store, write)
    assert record is not None
    if store.name == "new":
        assert record.fields["enabled"] is False
        assert record.fields["config"] == {"depth": 3}
    else:
        assert "enabled" not in record.fields


async def test_several_keys_are_read_at_once_and_absent_ones_left_out(store: Store) -> None:
    writes = [document(f"p/{n}", number=n + 1) for n in range(5)]
    await apply(store, source(), *writes)
    keys = [write.key for write in writes] + [("rust", "serde", "none")]
    found = await store.get("documents", [*keys, keys[0]], vectors=True, deadline_s=10)
    assert set(found) == {write.key for write in writes}
    assert [found[write.key].vector for write in writes] == [write.vector for write in writes]


async def test_an_insert_of_an_existing_key_changes_nothing(store: Store) -> None:
    await apply(store, source())
    assert await outcomes(store, document(op=WriteOp.INSERT)) == [Applied.DONE]
    again = document(op=WriteOp.INSERT, content="other", packed=vector(9), number=2)
    assert await outcomes(store, again) == [Applied.EXISTS]
    record = await get(store, again)
    assert record is not None
    assert record.fields["content"] == "About serde/index.html"
    assert record.vector == vector(1)


async def test_an_upsert_replaces_given_fields_and_keeps_the_rest(store: Store) -> None:
    await apply(store, source(), document(token_count=7))
    change = Write(
        op=WriteOp.UPSERT,
        collection="documents",
        key=document().key,
        fields={"content": "new", "created_at": LATER, "original_id": 99},
        vector=vector(5),
        keep=frozenset({"created_at", "original_id"}),
    )
    assert await outcomes(store, change) == [Applied.DONE]
    record = await get(store, change)
    assert record is not None
    assert record.fields["content"] == "new"
    assert record.fields["token_count"] == 7
    assert record.fields["created_at"] == WHEN
    assert record.fields["original_id"] == 1
    assert record.vector == vector(5)


async def test_an_upsert_that_keeps_a_field_still_stores_it_in_a_new_record(store: Store) -> None:
    keep = frozenset({"created_at", "original_id"})
    await apply(store, source(), document(number=41, keep=keep))
    record = await get(store, document())
    assert record is not None
    assert record.fields["original_id"] == 41
    assert record.fields["created_at"] == WHEN


async def test_an_upsert_without_set_vector_keeps_the_vector(store: Store) -> None:
    await apply(store, source(), document())
    await apply(store, replace(document(content="x"), vector=None, set_vector=False))
    record = await get(store, document())
    assert record is not None
    assert record.vector == vector(1)
    await apply(store, document(packed=None))
    record = await get(store, document())
    assert record is not None
    assert record.vector is None


async def test_a_null_can_be_written_over_a_value(store: Store) -> None:
    await apply(store, source(version="1"), document(token_count=7))
    await apply(store, source(version=None), document(token_count=None))
    for write, name in ((source(), "version"), (document(), "token_count")):
        record = await get(store, write)
        assert record is not None
        assert record.fields[name] is None


async def test_a_delete_says_whether_there_was_a_record(store: Store) -> None:
    await apply(store, source(), document())
    key = document().key
    assert await outcomes(store, delete("documents", key)) == [Applied.DONE]
    assert await outcomes(store, delete("documents", key)) == [Applied.NOT_FOUND]
    assert await get(store, document()) is None


async def test_a_patch_merges_json_replaces_the_rest_and_returns_the_whole(store: Store) -> None:
    await apply(store, source(config={"a": {"b": 1, "c": 2}, "d": 3}), document(token_count=7))
    (result,) = await apply(store, patch("documents", document().key, content="patched"))
    assert result.applied is Applied.DONE
    assert result.record is not None
    assert result.record.fields["content"] == "patched"
    assert result.record.fields["token_count"] == 7
    assert result.record.vector == vector(1)
    assert await get(store, document()) == result.record
    change = patch(
        "sources", source().key, config={"a": {"b": None, "e": [1]}, "d": 4}, version="2"
    )
    (result,) = await apply(store, change)
    assert result.record is not None
    assert result.record.fields["version"] == "2"
    assert result.record.fields["total_docs"] == 0
    if store.name == "new":
        assert result.record.fields["config"] == {"a": {"c": 2, "e": [1]}, "d": 4}
    assert await get(store, source()) == result.record


async def test_a_patch_can_set_the_vector_alone(store: Store) -> None:
    await apply(store, source(), document())
    key = document().key
    (result,) = await apply(store, patch("documents", key, packed=vector(8), set_vector=True))
    assert result.record is not None
    assert result.record.vector == vector(8)
    record = await get(store, document())
    assert record is not None
    assert record.vector == vector(8)


async def test_a_patch_of_no_record_is_not_found(store: Store) -> None:
    change = patch("documents", ("rust", "serde", "none"), content="x")
    assert await outcomes(store, change) == [Applied.NOT_FOUND]


async def test_a_child_needs_its_parent(store: Store) -> None:
    for op in (WriteOp.INSERT, WriteOp.UPSERT):
        assert await outcomes(store, document(op=op)) == [Applied.PARENT_MISSING]
    assert await get(store, document()) is None
    job = Write(
        op=WriteOp.INSERT,
        collection="population_jobs",
        key=(1,),
        fields={"crate_config_id": 5, "status": "pending"},
    )
    assert await outcomes(store, job) == [Applied.PARENT_MISSING]
    orphan = replace(job, fields={"crate_config_id": None, "status": "pending"})
    assert await outcomes(store, orphan) == [Applied.DONE]


async def test_a_parent_with_children_stays(store: Store) -> None:
    await apply(store, source(), document())
    assert await outcomes(store, delete("sources", source().key)) == [Applied.HAS_CHILDREN]
    assert await get(store, source()) is not None
    assert await get(store, document()) is not None
    await apply(store, delete("documents", document().key))
    assert await outcomes(store, delete("sources", source().key)) == [Applied.DONE]
    assert await outcomes(store, delete("sources", source().key)) == [Applied.NOT_FOUND]


async def test_a_child_that_moved_away_does_not_keep_its_old_parent(store: Store) -> None:
    def job(number: int, parent: int) -> Write:
        fields: dict[str, Value] = {"crate_config_id": parent, "status": "pending"}
        return Write(op=WriteOp.UPSERT, collection="population_jobs", key=(number,), fields=fields)

    def config(number: int) -> Write:
        fields: dict[str, Value] = {"name": f"c{number}", "created_at": WHEN, "updated_at": WHEN}
        return Write(op=WriteOp.UPSERT, collection="crate_configs", key=(number,), fields=fields)

    assert await outcomes(store, config(1), config(2), job(1, 1)) == [Applied.DONE] * 3
    batch = [delete("crate_configs", (1,)), job(1, 2), delete("crate_configs", (1,))]
    assert await outcomes(store, *batch, delete("crate_configs", (2,))) == [
        *(Applied.HAS_CHILDREN, Applied.DONE, Applied.DONE, Applied.HAS_CHILDREN),
    ]
    assert await outcomes(store, job(1, 1)) == [Applied.PARENT_MISSING]


async def test_children_and_then_their_parent_go_in_one_atomic_batch(store: Store) -> None:
    children = [document(f"p/{n}", number=n + 1) for n in range(3)]
    await apply(store, source(), *children)
    deletes = [delete("documents", child.key) for child in children]
    if await refused_as_a_whole(store, *deletes, delete("sources", source().key)):
        return
    result = await outcomes(store, *deletes, delete("sources", source().key), atomic=True)
    assert result == [Applied.DONE] * 4
    assert await get(store, source()) is None


async def test_an_atomic_batch_that_would_orphan_a_child_changes_nothing(store: Store) -> None:
    children = [document(f"p/{n}", number=n + 1) for n in range(3)]
    await apply(store, source(), *children)
    deletes = [delete("documents", child.key) for child in children[:2]]
    if await refused_as_a_whole(store, *deletes, delete("sources", source().key)):
        return
    result = await outcomes(store, *deletes, delete("sources", source().key), atomic=True)
    assert result == [Applied.ROLLED_BACK, Applied.ROLLED_BACK, Applied.HAS_CHILDREN]
    assert await get(store, children[0]) is not None


async def test_an_atomic_batch_is_undone_by_any_failure(store: Store) -> None:
    await apply(store, source(), document("there"))
    new = document("fresh", number=2)
    failures: list[tuple[Write, Applied]] = [
        (document("there", op=WriteOp.INSERT, number=3), Applied.EXISTS),
        (patch("documents", ("rust", "serde", "none"), content="x"), Applied.NOT_FOUND),
        (document("x", name="nobody", number=4), Applied.PARENT_MISSING),
        (document("y", content=None, number=5), Applied.REFUSED),
    ]
    for bad, expected in failures:
        for position in (0, 1, 2):
            batch = [new, document("there", content="changed", number=1)]
            batch.insert(position, bad)
            if await refused_as_a_whole(store, *batch):
                continue
            got = await outcomes(store, *batch, atomic=True)
            wanted = [Applied.ROLLED_BACK] * 3
            wanted[position] = expected
            assert got == wanted, (expected, position)
            assert await get(store, new) is None
            record = await get(store, document("there"))
            assert record is not None
            assert record.fields["content"] == "About there"


async def test_a_delete_of_nothing_does_not_undo_an_atomic_batch(store: Store) -> None:
    gone: Key = ("rust", "serde", "gone")
    if await refused_as_a_whole(store, source(), delete("documents", gone), document()):
        return
    result = await outcomes(store, source(), delete("documents", gone), document(), atomic=True)
    assert result == [Applied.DONE, Applied.NOT_FOUND, Applied.DONE]


async def test_without_atomic_one_failure_does_not_touch_the_others(store: Store) -> None:
    batch = [
        source(),
        document("a", number=1),
        document("b", content=None, number=2),
        document("a", op=WriteOp.INSERT, number=3),
        document("c", name="nobody", number=4),
        patch("documents", ("rust", "serde", "a"), content="patched"),
        delete("sources", source().key),
        document("d", number=5),
        delete("documents", ("rust", "serde", "zzz")),
    ]
    assert await outcomes(store, *batch) == [
        Applied.DONE,
        Applied.DONE,
        Applied.REFUSED,
        Applied.EXISTS,
        Applied.PARENT_MISSING,
        Applied.DONE,
        Applied.HAS_CHILDREN,
        Applied.DONE,
        Applied.NOT_FOUND,
    ]
    record = await get(store, document("a"))
    assert record is not None
    assert record.fields["content"] == "patched"
    assert await get(store, document("d")) is not None


async def test_a_refusal_names_the_field(store: Store) -> None:
    await apply(store, source())
    for write, name in (
        (document(content=None), "content"),
        (source(version="x" * 51), "version"),
        (document(packed=vector(1, 8)), "dimensions"),
    ):
        (result,) = await apply(store, write)
        if store.name == "new" and name == "version" and result.applied is Applied.DONE:
            continue  # packed in JSON, which has no length
        assert result.applied is Applied.REFUSED
        assert name in result.detail


async def test_a_key_the_store_cannot_hold_is_refused_and_never_found(store: Store) -> None:
    write = replace(source(), key=("jupyter", "notes"))
    result = await outcomes(store, write)
    found = await store.get("sources", [write.key], vectors=False, deadline_s=10)
    if store.name == "new":
        assert result == [Applied.DONE]
        assert set(found) == {write.key}
    else:
        assert result == [Applied.REFUSED]
        assert not found


async def test_names_of_a_packed_column_that_belong_to_nobody_survive(store: Store) -> None:
    await apply(store, source(config={"left": "alone"}, version="1"))
    await apply(
        store,
        Write(op=WriteOp.UPSERT, collection="sources", key=source().key, fields={"version": "2"}),
    )
    record = await get(store, source())
    assert record is not None
    assert record.fields["version"] == "2"
    assert record.fields["total_docs"] == 0
    if store.name == "new":
        assert record.fields["config"] == {"left": "alone"}


async def test_numbers_are_allocated_once_and_aligned_past_what_is_stored(store: Store) -> None:
    first = await store.next_ids("documents", "original_id", 3)
    more = await store.next_ids("documents", "original_id", 2)
    assert len({*first, *more}) == 5
    assert sorted(first) == first
    await apply(store, source(), document(number=1000))
    await store.align_sequences()
    (following,) = await store.next_ids("documents", "original_id", 1)
    assert following > 1000
    await store.align_sequences()
    (again,) = await store.next_ids("documents", "original_id", 1)
    assert again > following
