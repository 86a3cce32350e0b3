"""Verify names exactly the records that differ, beside live traffic, and skips nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.errors import Corrupt
from proxy.ledger.types import JobKind, JobState, Phase
from proxy.model import JsonValue, Key
from reconcile import compare
from reconcile.snapshot import Step
from tests.doc_server import delete, document, source, vector
from tests.unit.reconcile.support import Killed, Mortal, Rig, Wrapped, doc


@pytest.fixture
async def rig() -> Rig:
    rig = await Rig().start()
    await rig.fill(80, on="both", crates=("serde", "tokio"))
    return rig


async def found(rig: Rig, job_id: int) -> dict[str, set[Key]]:
    kinds: dict[str, set[Key]] = {}
    for item in await rig.ledger.differences(job_id):
        kinds.setdefault(item.kind, set()).add(item.key)
    return kinds


async def damage(rig: Rig) -> dict[str, set[Key]]:
    """Change, remove and add rows behind the proxy's back."""
    await rig.put(document("00004.html", packed=None, number=4, content="changed"), on="new")
    await rig.put(document("00006.html", packed=vector(3), number=6), on="new")
    await rig.put(delete("documents", doc(0)), delete("documents", doc(40)), on="new")
    await rig.put(delete("documents", doc(78)), on="old")
    await rig.put(document("zzzz.html", name="tokio", packed=None), on="new")
    await rig.put(source("empty-crate"), on="old")
    return {
        "mismatched": {doc(4), doc(6)},
        "missing": {doc(0), doc(40), ("rust", "empty-crate")},
        "extra": {doc(78), ("rust", "tokio", "zzzz.html")},
    }


async def test_two_equal_stores_are_clean(rig: Rig) -> None:
    job = await rig.run(JobKind.VERIFY)
    assert job.state is JobState.DONE, job.error
    assert {name: job.summary[name] for name in ("matched", "mismatched", "missing", "extra")} == {
        "matched": 82,
        "mismatched": 0,
        "missing": 0,
        "extra": 0,
    }
    flag: Any = (await rig.ledger.flags())["last_verify"]
    assert (flag["clean"], flag["matched"], flag["job_id"]) == (True, 82, job.job_id)


async def test_it_names_exactly_the_damaged_rows_and_repair_puts_them_right(rig: Rig) -> None:
    expected = await damage(rig)
    job = await rig.run(JobKind.VERIFY)
    assert job.state is JobState.DONE, job.error
    assert await found(rig, job.job_id) == expected
    assert {kind: job.summary[kind] for kind in expected} == {
        kind: len(keys) for kind, keys in expected.items()
    }
    assert job.summary["clean"] is False
    by_key = {item.key: item for item in await rig.ledger.differences(job.job_id)}
    assert by_key[doc(4)].fields == ("content",)
    assert by_key[doc(4)].detail == {"content": ["About 00004.html", "changed"]}
    assert by_key[doc(6)].fields == ("vector",)
    samples: Any = job.summary["samples"]
    assert len(samples) == 7

    repaired = await rig.run(JobKind.REPAIR)
    assert repaired.summary["repaired"] == 7
    assert await rig.differing() == []
    flags: Any = await rig.ledger.flags()
    assert flags["last_repair"]["from_verify"] == 7
    assert (
        flags["last_verify"]["at"] < flags["last_repair"]["at"] or not flags["last_verify"]["clean"]
    )
    assert (await rig.run(JobKind.VERIFY)).summary["clean"] is True


async def test_report_only_queues_nothing(rig: Rig) -> None:
    expected = await damage(rig)
    job = await rig.run(JobKind.VERIFY, report_only=True)
    assert await found(rig, job.job_id) == expected
    assert await rig.dirty() == set()


async def test_a_large_differing_range_is_cut_before_it_is_listed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "LEAF_ROWS", 8)
    listed: list[int] = []

    async def key_digests(*args: Any, **kwargs: Any) -> Any:
        result = await rig.old.key_digests(*args, **kwargs)
        listed.append(len(result))
        return result

    rig.stores["old"] = Wrapped(rig.old, key_digests=key_digests)
    # One span where the new store holds far more than the old one.
    extras = [document(f"00010-{n:03}.html", packed=None) for n in range(60)]
    await rig.put(*extras, on="new")
    expected = await damage(rig)
    expected["extra"] |= {item.key for item in extras}
    job = await rig.reconciler(range_rows=10_000).run_once(JobKind.VERIFY, {})
    assert await found(rig, job.job_id) == expected
    assert job.summary["matched"] == 82 - 5
    assert max(listed) <= 8


async def test_a_dirty_key_is_in_flight_and_not_declared(rig: Rig) -> None:
    await rig.put(delete("documents", doc(4)), on="new")
    await rig.ledger.mark_dirty("documents", [doc(4)], reason="test")
    job = await rig.run(JobKind.VERIFY)
    assert (job.summary["in_flight"], job.summary["missing"]) == (1, 0)
    assert await found(rig, job.job_id) == {}


async def test_a_write_in_flight_is_looked_at_again_until_it_is_settled(rig: Rig) -> None:
    write = document("00004.html", packed=None, number=4, content="live")
    intent = await rig.begin_write(write)
    await rig.put(write, on="old")
    looks = 0
    abandon = rig.ledger.abandon_copy

    async def land(snapshot: Any, **given: Any) -> None:
        nonlocal looks
        looks += 1
        await abandon(snapshot, **given)
        if looks == 2:
            await rig.put(write, on="new")
            await rig.end_write(intent)

    rig.ledger.abandon_copy = land
    job = await rig.run(JobKind.VERIFY)
    assert (job.summary["matched"], job.summary["in_flight"]) == (82, 0)
    assert looks == 3


async def test_a_write_that_begins_and_ends_between_the_two_reads_is_not_declared(
    rig: Rig,
) -> None:
    """The reads see the old store before the write and the new one after it."""
    write = document("00004.html", packed=None, number=4, content="live")
    await rig.put(delete("documents", doc(8)), on="new")  # so that the range differs
    reads = 0

    async def get(collection: str, keys: Any, **kwargs: Any) -> Any:
        nonlocal reads
        before = await rig.old.get(collection, keys, **kwargs)
        reads += 1
        if reads == 1:
            await rig.write(write)
        return before

    async def key_digests(*args: Any, **kwargs: Any) -> Any:
        result = await rig.old.key_digests(*args, **kwargs)
        return [
            replace(item, digest=item.digest ^ 1) if item.key == doc(4) else item for item in result
        ]

    rig.stores["old"] = Wrapped(rig.old, get=get, key_digests=key_digests)
    job = await rig.run(JobKind.VERIFY)
    assert await found(rig, job.job_id) == {"missing": {doc(8)}}
    assert job.summary["matched"] == 81


async def test_verify_holds_no_swap_up(rig: Rig) -> None:
    await damage(rig)
    copying: list[bool] = []
    begin = rig.ledger.begin_copy

    async def watch(collection: str, *, copying_: bool = True, **kwargs: Any) -> Any:
        copying.append(kwargs.get("copying", True))
        return await begin(collection, **kwargs)

    rig.ledger.begin_copy = watch
    await rig.run(JobKind.VERIFY)
    assert set(copying) == {False}
    assert rig.open_snapshots() == 0


async def test_killed_it_resumes_with_what_it_had_found(rig: Rig) -> None:
    expected = await damage(rig)
    mortal = Mortal(rig.ledger)
    saved = 0

    async def die_later(progress: Any) -> None:
        nonlocal saved
        saved += 1
        if saved == 3:
            mortal.die()
            raise Killed
        await save(progress)

    save = rig.ledger.save_range
    rig.ledger.save_range = die_later
    with pytest.raises(Killed):
        await rig.reconciler("first", mortal).run_once(JobKind.VERIFY, {})
    rig.ledger.save_range = save
    rig.clock.passed_s += 120
    job = await rig.reconciler("second").run_once(JobKind.VERIFY, {})
    assert job.job_id == max(rig.ledger.state.jobs)
    assert await found(rig, job.job_id) == expected
    assert {kind: job.summary[kind] for kind in expected} == {
        kind: len(keys) for kind, keys in expected.items()
    }


async def test_a_range_that_cannot_be_verified_fails_the_job(rig: Rig) -> None:
    async def digest(collection: str, keys: Any, **kwargs: Any) -> Any:
        if collection == "documents" and keys.after is None:
            raise Corrupt("a row cannot be decoded")
        return await rig.new.digest(collection, keys, **kwargs)

    rig.stores["new"] = Wrapped(rig.new, digest=digest)
    job = await rig.run(JobKind.VERIFY)
    assert job.state is JobState.FAILED
    assert "documents range 0" in job.error
    assert job.summary["matched"] == 82 - 25  # the others were looked at
    assert "last_verify" not in await rig.ledger.flags()


async def test_a_record_that_cannot_be_decoded_is_a_difference(rig: Rig) -> None:
    await rig.put(document("00004.html", packed=None, number=4, content="changed"), on="new")

    async def get(collection: str, keys: Any, **kwargs: Any) -> Any:
        if doc(4) in keys:
            raise Corrupt("content is not UTF-8")
        return await rig.new.get(collection, keys, **kwargs)

    rig.stores["new"] = Wrapped(rig.new, get=get)
    job = await rig.run(JobKind.VERIFY)
    (item,) = await rig.ledger.differences(job.job_id)
    assert (item.key, item.kind) == (doc(4), "mismatched")
    assert "UTF-8" in str(item.detail)


async def test_a_swap_while_it_runs_ends_it(rig: Rig) -> None:
    await damage(rig)

    async def swap(progress: Any) -> None:
        rig.ledger.save_range = save
        await save(progress)
        await rig.route(phase=Phase.NEW_PRIMARY, primary="new")

    save = rig.ledger.save_range
    rig.ledger.save_range = swap
    job = await rig.run(JobKind.VERIFY)
    assert job.state is JobState.FAILED
    assert "Start a new verify" in job.error
    assert (await rig.run(JobKind.VERIFY)).state is JobState.DONE


async def test_after_the_swap_missing_and_extra_change_sides(rig: Rig) -> None:
    await rig.put(delete("documents", doc(4)), on="new")
    await rig.route(phase=Phase.NEW_PRIMARY, primary="new")
    job = await rig.run(JobKind.VERIFY, report_only=True)
    assert await found(rig, job.job_id) == {"extra": {doc(4)}}


async def test_only_a_clean_full_verify_clears_the_flag_of_an_outage(rig: Rig) -> None:
    await rig.ledger.set_flag("full_verify_needed", True, actor="test", reason="ledger down")
    await rig.put(delete("documents", doc(4)), on="new")
    await rig.run(JobKind.VERIFY)
    await rig.run(JobKind.VERIFY, collections=["sources"])
    assert (await rig.ledger.flags())["full_verify_needed"] is True
    await rig.run(JobKind.REPAIR)
    await rig.run(JobKind.VERIFY)
    assert (await rig.ledger.flags())["full_verify_needed"] is False


async def test_a_verify_does_not_make_up_for_an_outage_that_came_while_it_ran(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark: JsonValue = {"at": "2026-01-01T00:00:00+00:00", "replica": "b"}
    add = rig.ledger.add_ranges

    async def outage(*args: Any) -> None:
        await add(*args)
        await rig.ledger.set_flag("full_verify_needed", mark, actor="t", reason="ledger down")

    await rig.ledger.set_flag("full_verify_needed", {"at": "x"}, actor="t", reason="ledger down")
    monkeypatch.setattr(rig.ledger, "add_ranges", outage)
    assert (await rig.run(JobKind.VERIFY)).state is JobState.DONE
    assert (await rig.ledger.flags())["full_verify_needed"] == mark
    monkeypatch.setattr(rig.ledger, "add_ranges", add)
    await rig.run(JobKind.VERIFY)
    assert (await rig.ledger.flags())["full_verify_needed"] is False


async def test_differences_are_counted_past_the_limit_of_what_is_kept(rig: Rig) -> None:
    await rig.put(*(delete("documents", doc(n)) for n in range(0, 40, 2)), on="new")
    job = await rig.reconciler(differences_max=3).run_once(JobKind.VERIFY, {})
    assert (job.summary["missing"], len(await rig.ledger.differences(job.job_id))) == (20, 3)
    assert len(await rig.dirty()) == 20


async def test_a_verify_beside_a_backfill_that_has_not_come_by_says_missing(rig: Rig) -> None:
    await rig.put(document("99999.html", packed=None), on="old")
    assert Step.BEGUN not in rig.reached
    job = await rig.run(JobKind.VERIFY)
    assert await found(rig, job.job_id) == {"missing": {doc(99999)}}
