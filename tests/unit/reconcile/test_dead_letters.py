"""What cannot be converted is named, counted and kept; nothing is dropped."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.errors import Corrupt, Rejected
from proxy.ledger.types import JobKind, JobState, Phase
from proxy.model import Applied, Key, Record, WriteOp, WriteResult
from tests.doc_server import delete, document
from tests.unit.reconcile.support import Rig, Wrapped, doc

BAD = {doc(3), doc(17)}


@pytest.fixture
async def rig() -> Rig:
    rig = await Rig().start()
    await rig.fill(30)
    return rig


def picky(rig: Rig, bad: set[Key], how: str) -> Wrapped:
    """Return the new store as one that cannot hold some records."""

    async def bulk_load(collection: str, target: Any, chunks: Any, **kwargs: Any) -> int:
        data = [chunk async for chunk in chunks]
        if any(str(key[-1]).encode() in b"".join(data) for key in bad):
            raise Rejected("a row does not fit")

        async def again() -> Any:
            for chunk in data:
                yield chunk

        return await rig.new.bulk_load(collection, target, again(), **kwargs)

    async def unconvertible(record: Record) -> str:
        return "token_count is too large" if how == "told" and record.key in bad else ""

    async def apply(writes: Any, **kwargs: Any) -> Any:
        results = []
        for write in writes:
            if write.key in bad and write.op is not WriteOp.DELETE:
                results.append(WriteResult(applied=Applied.REFUSED, detail="a constraint"))
            else:
                results += await rig.new.apply([write], **kwargs)
        return results

    return Wrapped(rig.new, bulk_load=bulk_load, unconvertible=unconvertible, apply=apply)


@pytest.mark.parametrize(("how", "reason"), [("told", "too large"), ("refused", "a constraint")])
async def test_records_that_do_not_fit_are_named_and_all_others_are_copied(
    rig: Rig, how: str, reason: str
) -> None:
    bad = set(BAD)
    rig.stores["new"] = picky(rig, bad, how)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    letters = await rig.ledger.dead_letters()
    assert {letter.key for letter in letters} == BAD
    assert all(reason in letter.reason for letter in letters)
    assert job.summary["dead_letters"] == 2
    assert await rig.dirty() == {("documents", key) for key in BAD}
    assert len(await rig.records("new", "documents")) == 28

    bad.clear()  # somebody widened the column
    rig.clock.passed_s += 60
    repaired = await rig.run(JobKind.REPAIR)
    assert repaired.summary["repaired"] == 2
    assert await rig.ledger.dead_letters() == []
    assert await rig.dirty() == set()
    assert await rig.differing() == []


async def test_a_dead_letter_is_closed_when_its_record_is_deleted(rig: Rig) -> None:
    rig.stores["new"] = picky(rig, set(BAD), "told")
    await rig.run(JobKind.BACKFILL)
    await rig.put(*[delete("documents", key) for key in BAD], on="old")
    rig.clock.passed_s += 60
    await rig.run(JobKind.REPAIR)
    assert await rig.ledger.dead_letters() == []
    assert await rig.dirty() == set()


async def test_a_row_that_cannot_be_decoded_is_named_and_the_page_goes_on(rig: Rig) -> None:
    async def get(collection: str, keys: Any, **kwargs: Any) -> Any:
        if BAD.intersection(keys):
            raise Corrupt("created_at: year 294276 is out of range")
        return await rig.old.get(collection, keys, **kwargs)

    class Page:
        def __init__(self, page: Any) -> None:
            self.keys = page.keys
            self._page = page

        async def records(self, exclude: frozenset[Key]) -> list[Record]:
            if BAD.intersection(self.keys) - exclude:
                raise Corrupt("created_at: year 294276 is out of range")
            records: list[Record] = await self._page.records(exclude)
            return records

        async def bulk(self, exclude: frozenset[Key], target: Any) -> Any:
            if BAD.intersection(self.keys) - exclude:
                raise Corrupt("created_at: year 294276 is out of range")
            async for chunk in self._page.bulk(exclude, target):
                yield chunk

    @asynccontextmanager
    async def page(*args: Any, **kwargs: Any) -> Any:
        async with rig.old.page(*args, **kwargs) as inner:
            yield Page(inner)

    rig.stores["old"] = Wrapped(rig.old, get=get, page=page)
    job = await rig.run(JobKind.BACKFILL)
    assert job.state is JobState.DONE, job.error
    assert {letter.key for letter in await rig.ledger.dead_letters()} == BAD
    assert len(await rig.records("new", "documents")) == 28

    dry = await rig.run(JobKind.BACKFILL, dry_run=True, full=True)
    assert dry.summary["unconvertible"] == 2


async def test_an_orphan_whose_parent_exists_nowhere_is_named(rig: Rig) -> None:
    orphan = document("lost.html", name="nowhere", packed=None)
    record = Record(collection="documents", key=orphan.key, fields=orphan.fields)

    async def get(collection: str, keys: Any, **kwargs: Any) -> Any:
        found = await rig.old.get(collection, keys, **kwargs)
        return {**found, orphan.key: record} if orphan.key in keys else found

    rig.stores["old"] = Wrapped(rig.old, get=get)
    await rig.ledger.mark_dirty("documents", [orphan.key], reason="test")
    await rig.run(JobKind.REPAIR)
    (letter,) = await rig.ledger.dead_letters()
    assert letter.key == orphan.key
    assert "sources does not exist" in letter.reason


async def test_a_dry_run_writes_nothing_and_names_what_would_not_convert(rig: Rig) -> None:
    rig.stores["new"] = picky(rig, set(BAD), "told")
    job = await rig.run(JobKind.BACKFILL, dry_run=True, full=True)
    assert job.state is JobState.DONE, job.error
    summary: Any = job.summary
    documents = summary["collections"]["documents"]
    assert (documents["rows_total"], documents["path"]) == (30, "bulk")
    assert documents["unconvertible"] == job.summary["unconvertible"] == 2
    assert {tuple(item["key"]) for item in documents["samples"]} == BAD
    assert documents["secondary_only"] == ["metadata"]
    assert job.summary["indexes_to_build"] == ["documents_embedding_hnsw"]
    assert not await rig.records("new", "documents")
    assert await rig.ledger.dead_letters() == []
    assert await rig.ledger.ranges(job.job_id) == []


async def test_a_sampled_dry_run_looks_at_a_part(rig: Rig) -> None:
    await rig.fill(1500)
    job = await rig.run(JobKind.BACKFILL, dry_run=True)
    summary: Any = job.summary
    documents = summary["collections"]["documents"]
    assert 500 <= documents["checked"] <= 1000


async def test_a_plan_can_be_made_in_old_only(rig: Rig) -> None:
    await rig.route(phase=Phase.OLD_ONLY)
    plan = await rig.reconciler().plan()
    assert [item.collection for item in plan.collections][:2] == ["sources", "documents"]
    assert plan.rows()["documents"] == 30
