"""Each differing id gets the first cause that explains it, on real (in-memory) stores."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import Unavailable
from proxy.model import Metric
from proxy.query import IsNull, Like, ListQuery
from shadow.attribute import Side
from shadow.compare import Comparison
from shadow.evidence import Failed, Inconclusive
from shadow.semantics import Query
from tests.unit.shadow.support import Bench, causes, key, nearest


def filters_are_read_differently(query: Query) -> str:
    """A known difference of meaning: every filter."""
    return "filters are read differently" if query.filter is not None else ""


async def test_equal_stores_have_no_findings_and_full_marks() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    found = await bench.compared(nearest())
    assert found.findings == ()
    assert found.likeness.overlap == found.likeness.overlap_excused == found.likeness.jaccard == 1
    assert found.likeness.rbo == pytest.approx(1)
    assert found.likeness.tau == 1
    assert found.likeness.score_delta_max == 0
    assert found.likeness.top1
    assert bench.old.searches == 1  # agreement costs the control nothing


async def test_a_dirty_key_is_in_flight_and_excused() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    await bench.new.drop("b")
    bench.ledger.in_flight = {key("b")}
    found = await bench.compared(nearest())
    assert causes(found) == {"b": "in_flight", "d": "displaced"}
    assert found.likeness.overlap == pytest.approx(2 / 3)
    assert found.likeness.overlap_excused == 1
    assert bench.old.searches == 1  # nothing unexcused, no second look


async def test_a_key_fenced_only_at_the_start_is_in_flight() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    await bench.new.drop("b")
    bench.ledger.in_flight = {key("b")}
    bench.new.after_search = bench.ledger.in_flight.clear
    found = await bench.compared(nearest())
    assert causes(found)["b"] == "in_flight"


async def test_a_key_fenced_only_at_the_end_is_in_flight() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    await bench.new.drop("b")
    bench.new.after_search = lambda: bench.ledger.in_flight.add(key("b"))
    found = await bench.compared(nearest())
    assert causes(found)["b"] == "in_flight"


async def test_a_record_written_to_both_after_the_control_was_read_is_in_flight() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    reading = await bench.served(nearest())
    await bench.fill(z=0.95)
    found = await bench.judge(reading)
    assert isinstance(found, Comparison)
    assert causes(found) == {"c": "displaced", "z": "in_flight"}
    assert found.case.evidence.looks == 2
    assert found.likeness.overlap_excused == 1


async def test_a_record_deleted_from_both_after_the_control_was_read_is_in_flight() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    reading = await bench.served(nearest())
    for store in (bench.old, bench.new):
        await store.drop("a")
    found = await bench.judge(reading)
    assert isinstance(found, Comparison)
    assert causes(found) == {"a": "in_flight", "d": "displaced"}


async def test_content_changed_on_both_after_the_control_was_read_is_in_flight() -> None:
    bench = await Bench().fill(a=0.9, b=0.8)
    reading = await bench.served(nearest())
    for store in (bench.old, bench.new):
        await store.put("a", 0.9, "another text")
    found = await bench.judge(reading)
    assert isinstance(found, Comparison)
    assert causes(found) == {"a": "in_flight"}


async def test_a_write_that_settles_between_the_two_looks_is_in_flight() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7)
    await bench.old.put("a", 0.9, "new text")  # the write has reached only the primary

    async def settle_unseen(fences: int) -> None:
        if fences == 2:
            await bench.new.put("a", 0.9, "new text")

    bench.ledger.after_fence = settle_unseen
    found = await bench.compared(nearest())
    assert causes(found) == {"a": "in_flight"}


async def test_a_key_deleted_and_written_again_and_deleted_between_the_looks_is_in_flight() -> None:
    bench = await Bench().fill(a=0.9, b=0.8)
    await bench.new.put("c", 0.95)  # on the candidate alone, at both looks

    async def write_unseen(fences: int) -> None:
        if fences == 3:  # inside the second look; nothing of it can be seen in the two stores
            with bench.ledger.writing(key("c")):
                pass

    bench.ledger.after_fence = write_unseen
    found = await bench.compared(nearest())
    assert causes(found) == {"c": "in_flight"}
    assert bench.ledger.watermarks == 0


async def test_ids_tied_at_the_cut_are_ties_and_excused() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.8, d=0.5)
    bench.new.unseen = {key("b")}
    found = await bench.compared(nearest(limit=2))
    assert causes(found) == {"b": "tie", "c": "tie"}
    assert found.likeness.overlap == found.likeness.overlap_excused == 1
    assert found.likeness.jaccard == pytest.approx(1 / 3)


async def test_an_id_tied_only_with_its_own_cut_is_no_tie() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.8, d=0.5)
    bench.new.unseen = {key("b")}
    found = await bench.compared(nearest(limit=3))  # the new store returns d, far worse than b
    assert causes(found) == {"b": "index_recall", "d": "displaced"}


async def test_a_known_difference_of_meaning_is_semantic() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    bench.new.unseen = {key("b")}
    query = nearest(filter=Like(field="content", pattern="%"))
    found = await bench.compared(query, filters_are_read_differently)
    assert set(causes(found).values()) == {"semantic"}
    assert found.likeness.overlap_excused == 1
    assert "index_recall" in causes(await bench.compared(query)).values()


async def test_a_filter_on_a_field_that_one_store_lacks_is_semantic() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    bench.new.unseen = {key("b")}
    found = await bench.compared(nearest(filter=IsNull(field="extra")))
    assert set(causes(found).values()) == {"semantic"}


async def test_a_record_that_the_other_layout_cannot_hold_is_semantic() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    await bench.new.put("z", 0.95, kind="birdeye")
    found = await bench.compared(nearest())
    assert causes(found) == {"z": "semantic", "c": "displaced"}


async def test_a_ranking_rule_does_not_excuse_stale_content() -> None:
    bench = await Bench().fill(a=0.9, b=0.8)
    await bench.new.put("a", 0.9, "stale")
    query = nearest(filter=Like(field="kind", pattern="%"))
    assert causes(await bench.compared(query, filters_are_read_differently)) == {"a": "stale"}


async def test_a_record_absent_from_the_candidate_is_missing() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    await bench.new.drop("b")
    found = await bench.compared(nearest())
    assert causes(found) == {"b": "missing", "d": "displaced"}
    assert found.charged == 1
    assert found.likeness.overlap_excused == pytest.approx(2 / 3)
    assert found.case.evidence.looks == 2


async def test_a_record_that_only_the_candidate_has_is_extra() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    await bench.new.put("z", 0.95)
    found = await bench.compared(nearest())
    assert causes(found) == {"c": "displaced", "z": "extra"}
    assert found.charged == 1


async def test_stale_content_is_found_though_both_return_the_id() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7)
    await bench.new.put("a", 0.9, "an old text")
    found = await bench.compared(nearest())
    assert causes(found) == {"a": "stale"}
    assert found.findings[0].side is Side.BOTH
    assert found.findings[0].detail == "content differ"
    assert found.likeness.overlap == 1


async def test_stale_content_explains_an_id_that_is_not_returned() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    await bench.new.put("b", 0.1, "an old text")
    assert causes(await bench.compared(nearest())) == {"b": "stale", "d": "displaced"}


async def test_another_vector_with_the_same_content_is_vector() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    await bench.new.put("b", 0.1)
    assert causes(await bench.compared(nearest())) == {"b": "vector", "d": "displaced"}


async def test_another_metric_is_vector() -> None:
    bench = await Bench(Metric.L2).fill(a=0.9, b=0.8)
    found = await bench.compared(nearest())
    assert set(causes(found).values()) == {"vector"}


async def test_a_score_that_is_not_the_exact_one_is_vector() -> None:
    bench = await Bench().fill(a=0.9, b=0.8)
    bench.new.score_shift = 0.01
    found = await bench.compared(nearest())
    assert set(causes(found).values()) == {"vector"}
    assert "scored it" in found.findings[0].detail


async def test_present_and_right_but_not_returned_is_index_recall() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    bench.new.unseen = {key("b")}
    found = await bench.compared(nearest())
    assert causes(found) == {"b": "index_recall", "d": "displaced"}
    assert found.charged == 0
    assert found.likeness.overlap_excused == pytest.approx(2 / 3)
    assert bench.old.searches == 1  # solid at the first look


async def test_what_the_control_itself_missed_is_index_recall_after_a_second_look() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    bench.old.unseen = {key("b")}
    found = await bench.compared(nearest())
    assert causes(found) == {"d": "displaced", "b": "index_recall"}
    assert found.case.evidence.looks == 2


async def test_a_short_answer_has_no_cut_so_nothing_is_a_tie() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.8)
    await bench.new.drop("c")
    found = await bench.compared(nearest(limit=3))
    assert causes(found) == {"c": "missing"}
    assert found.counts_differ
    assert not found.empty_on_one_side


async def test_every_differing_id_is_attributed_once() -> None:
    bench = await Bench().fill(**{f"d{n:03}": 0.99 - n / 1000 for n in range(200)})
    bench.new.unseen = {key(f"d{n:03}") for n in range(0, 200, 2)}
    found = await bench.compared(nearest(limit=150))
    named = [finding.key for finding in found.findings]
    control, candidate = found.case.control.ranked.ids, found.case.candidate.ranked.ids
    assert len(named) == len(set(named))
    assert set(named) == set(control) ^ set(candidate)


async def test_lists_are_compared_as_sets_and_order() -> None:
    bench = await Bench().fill(a=0.9, b=0.8, c=0.7, d=0.6)
    found = await bench.compared(ListQuery(collection="documents", limit=3))
    assert found.findings == ()
    assert found.likeness.order_agrees
    await bench.new.drop("b")
    found = await bench.compared(ListQuery(collection="documents", limit=3))
    assert causes(found) == {"b": "missing", "d": "displaced"}


async def test_a_row_inserted_while_a_page_is_read_is_in_flight() -> None:
    bench = await Bench().fill(b=0.9, c=0.8, d=0.7)
    reading = await bench.served(ListQuery(collection="documents", limit=3))
    await bench.fill(a=0.5)
    found = await bench.judge(reading)
    assert isinstance(found, Comparison)
    assert causes(found) == {"d": "displaced", "a": "in_flight"}
    assert found.likeness.overlap_excused == 1


async def test_a_page_by_offset_that_is_shifted_by_one_row_has_one_cause() -> None:
    bench = await Bench().fill(b=0.9, c=0.8, d=0.7, e=0.6)
    await bench.new.put("a", 0.5)
    found = await bench.compared(ListQuery(collection="documents", limit=2, offset=1))
    assert causes(found) == {"d": "displaced", "b": "index_recall"}


async def test_a_failing_candidate_is_an_outcome_not_an_exception() -> None:
    bench = await Bench().fill(a=0.9)
    bench.new.error = Unavailable("The new store is down.", where="new")
    outcome = await bench.judge(await bench.served(nearest()))
    assert outcome == Failed(error="Unavailable", message="The new store is down.")


async def test_a_candidate_past_its_deadline_is_an_error() -> None:
    bench = await Bench().fill(a=0.9)
    bench.new.hang = asyncio.Event()
    outcome = await bench.judge(await bench.served(nearest()), deadline_s=0.01)
    assert isinstance(outcome, Failed)
    assert outcome.error == "deadline"


async def test_without_the_ledger_nothing_is_judged() -> None:
    bench = await Bench().fill(a=0.9)
    bench.ledger.error = Unavailable("The ledger is down.", where="ledger")
    outcome = await bench.judge(await bench.served(nearest()))
    assert outcome == Inconclusive(reason="Unavailable")


async def test_a_cancelled_investigation_ends_at_once() -> None:
    bench = await Bench().fill(a=0.9)
    bench.new.hang = asyncio.Event()
    reading = await bench.served(nearest())
    task = asyncio.create_task(bench.judge(reading))
    await bench.new.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
