"""The contract of writes that are applied only where the store holds what they expect."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace

from proxy.model import Applied, Expected, Value, Write
from proxy.stores.base import Store
from tests.contract.test_store_writes import apply, get, outcomes, refused_as_a_whole
from tests.doc_server import WHEN, delete, document, patch, source, vector


def expecting(write: Write, **fields: Value) -> Write:
    return replace(write, expected=Expected(fields=fields))


def as_new(write: Write) -> Write:
    return replace(write, expected=Expected(fields=None))


async def test_a_write_that_finds_what_it_expects_is_applied(store: Store) -> None:
    await apply(store, source(), document(token_count=None))
    content = "About serde/index.html"
    change = patch("documents", document().key, packed=vector(2), set_vector=True, token_count=4)
    (result,) = await apply(store, expecting(change, content=content, token_count=None))
    assert result.applied is Applied.DONE
    assert result.record is not None
    assert result.record == await get(store, change)
    again = document(content="new", packed=vector(3), keep=frozenset({"created_at"}))
    same = WHEN.astimezone(dt.timezone(dt.timedelta(hours=2)))
    assert await outcomes(store, expecting(again, token_count=4, created_at=same)) == [Applied.DONE]
    assert await outcomes(store, expecting(document(packed=vector(4)))) == [Applied.DONE]
    record = await get(store, again)
    assert record is not None
    assert record.vector == vector(4)
    fresh = as_new(document("fresh", number=2))
    assert await outcomes(store, fresh) == [Applied.DONE]
    record = await get(store, fresh)
    assert record is not None
    assert record.vector == vector(2)
    assert record.fields["content"] == "About fresh"


async def test_a_write_that_finds_another_record_than_it_expects_changes_nothing(
    store: Store,
) -> None:
    await apply(store, source(), document(token_count=None))
    before = await get(store, document())
    key, none = document().key, document("none", number=2)
    change = patch("documents", key, packed=vector(2), set_vector=True, token_count=4)
    wrong = [
        expecting(change, content="other"),
        expecting(change, content=None),
        expecting(change, token_count=0),
        as_new(change),
        expecting(document(content="x"), content="other"),
        as_new(document(content="x")),
        expecting(none, content="About none"),
        expecting(none),
    ]
    for write in wrong:
        assert await outcomes(store, write) == [Applied.CHANGED], write
    assert await outcomes(store, *wrong) == [Applied.CHANGED] * len(wrong)
    assert await get(store, document()) == before
    assert await get(store, none) is None
    gone = patch("documents", none.key, content="x")
    both = [expecting(gone, content="y"), as_new(gone)]
    assert await outcomes(store, *both) == [Applied.NOT_FOUND] * 2
    orphan = as_new(document("p", name="nobody"))
    assert await outcomes(store, orphan) == [Applied.PARENT_MISSING]


async def test_a_write_expects_what_the_writes_before_it_in_a_batch_have_left(
    store: Store,
) -> None:
    await apply(store, source())
    key = document().key
    batch = [
        as_new(document(content="a")),
        expecting(patch("documents", key, content="b"), content="a"),
        expecting(document(content="c"), content="a"),
        expecting(document(content="d", number=2), content="b"),
        as_new(document(content="e")),
        delete("documents", key),
        as_new(document(content="f")),
    ]
    assert await outcomes(store, *batch) == [
        *(Applied.DONE, Applied.DONE, Applied.CHANGED, Applied.DONE, Applied.CHANGED),
        *(Applied.DONE, Applied.DONE),
    ]
    record = await get(store, document())
    assert record is not None
    assert record.fields["content"] == "f"


async def test_an_atomic_batch_is_undone_by_a_write_that_finds_another_record(
    store: Store,
) -> None:
    await apply(store, source(), document())
    before, new = await get(store, document()), document("fresh", number=2)
    for bad in (expecting(document(content="x"), content="y"), as_new(document(content="x"))):
        if await refused_as_a_whole(store, new, bad, source(version="9")):
            return
        got = await outcomes(store, new, bad, source(version="9"), atomic=True)
        assert got == [Applied.ROLLED_BACK, Applied.CHANGED, Applied.ROLLED_BACK]
        assert await get(store, new) is None
        assert await get(store, document()) == before


async def test_of_writes_that_expect_the_same_record_at_once_one_is_applied(store: Store) -> None:
    await apply(store, source(), document(content="0"))
    for made in range(1, 4):
        rivals = [
            expecting(document(content=str(made), packed=vector(n)), content=str(made - 1))
            for n in range(2, 7)
        ]
        answers = await asyncio.gather(*(outcomes(store, rival) for rival in rivals))
        applied = [n for n, (answer,) in enumerate(answers, start=2) if answer is Applied.DONE]
        assert len(applied) == 1, answers
        record = await get(store, document())
        assert record is not None
        assert record.vector == vector(applied[0])
    born = [as_new(document("born", packed=vector(n), number=n)) for n in range(20, 25)]
    answers = await asyncio.gather(*(outcomes(store, write) for write in born))
    assert sorted(a.value for (a,) in answers) == ["changed"] * 4 + ["done"]
