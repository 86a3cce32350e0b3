"""A record goes after all that hangs on it, on stores with transactions and on those without."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxy.errors import Unavailable
from proxy.model import Key, Write, WriteOp, WriteResult
from proxy.query import Compare, CompareOp, SearchMode
from proxy.stores.base import Capabilities
from tests.rig import Rig, context, upsert, with_source

SOURCE: Key = ("rust", "serde")
KEYS: list[Key] = [(*SOURCE, name) for name in "abc"]
DELETE = Write(op=WriteOp.DELETE, collection="sources", key=SOURCE)
PLAIN = Capabilities(transactions=False, search_modes=frozenset({SearchMode.VECTOR}))


@pytest.fixture(params=["transactions", "none"])
async def rig(rig: Rig, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Return a replica with a source and its documents; its primary may have no transactions."""
    if request.param == "none":
        monkeypatch.setattr(rig.stores["old"], "capabilities", PLAIN, raising=False)
    for key in KEYS:
        await rig.plane.write(upsert(key), context())
    rig.stores["old"].applied.clear()
    return rig


async def left(rig: Rig, side: str) -> list[Key]:
    """Return what a store still has of the source and its documents."""
    parent = [SOURCE] if await rig.stored(side, SOURCE, "sources") is not None else []
    return parent + [key for key in KEYS if await rig.stored(side, key) is not None]


async def test_a_delete_of_a_source_takes_its_documents_first(rig: Rig) -> None:
    assert (await rig.plane.write(DELETE, context("k"))).existed
    assert [write.key for write in rig.stores["old"].applied] == [*KEYS, SOURCE]
    for side in ("old", "new"):
        assert await left(rig, side) == []
    assert await rig.dirty() == set()
    assert await rig.dirty("sources") == set()
    assert (await rig.plane.write(DELETE, context("k"))).replayed


async def test_delete_where_over_sources_takes_their_documents(rig: Rig) -> None:
    await with_source(rig, "tokio")
    every = Compare(field="doc_type", op=CompareOp.EQ, value="rust")
    assert await rig.plane.delete_where("sources", every, context=context()) == 2
    for side in ("old", "new"):
        assert await left(rig, side) == []


@pytest.mark.parametrize("calls", [0, 1])
async def test_no_document_is_without_its_source_wherever_the_store_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """After so many calls the primary is gone: what it has then is what a kill -9 leaves."""
    old = rig.stores["old"]
    real = old.apply

    async def apply(
        writes: Sequence[Write], *, atomic: bool, deadline_s: float
    ) -> list[WriteResult]:
        if made.pop():
            raise Unavailable("gone", where="old")
        return await real(writes, atomic=atomic, deadline_s=deadline_s)

    made = [False] * 9 + [True] + [False] * calls
    monkeypatch.setattr(old, "apply", apply)
    if calls and old.capabilities.transactions:
        assert (await rig.plane.write(DELETE, context("k"))).existed  # there is no "between"
        return
    with pytest.raises(Unavailable):
        await rig.plane.write(DELETE, context("k"))
    assert await left(rig, "old") == ([SOURCE] if calls else [SOURCE, *KEYS])
    await rig.settled()
    assert (await rig.plane.write(DELETE, context("k"))).existed
    assert await left(rig, "old") == []
