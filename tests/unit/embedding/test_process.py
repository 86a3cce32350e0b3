"""The embedder around its worker: batches, bounds, deadlines, deaths."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import ConfigInvalid, Reason, Rejected, Unavailable
from tests.embedding import vector_of
from tests.unit.embedding.support import MODEL, OTHER, Bench, settled


def expected(*texts: str, model: str = MODEL) -> list[bytes]:
    return [vector_of(model, text, {MODEL: 4, OTHER: 6}[model]) for text in texts]


async def test_texts_of_several_callers_share_a_batch_after_a_short_wait() -> None:
    async with Bench(batch_wait_ms=5) as bench:
        one, two = bench.ask("a", "b"), bench.ask("c")
        await settled()
        assert bench.sent == []
        await bench.clock.advance(0.005)
        (embed,) = bench.sent
        assert sorted(embed.texts) == ["a", "b", "c"]
        await bench.starts.link.answer(embed)
        assert await one == expected("a", "b")
        assert await two == expected("c")


async def test_a_full_batch_does_not_wait() -> None:
    async with Bench(batch_texts_max=3, batch_wait_ms=100) as bench:
        asked = bench.ask("a", "b", "c")
        await settled()
        assert [list(embed.texts) for embed in bench.sent] == [["a", "b", "c"]]
        await bench.starts.link.answer(bench.sent[0])
        assert len(await asked) == 3


async def test_a_search_is_sent_at_once_and_past_a_full_window() -> None:
    async with Bench(batch_texts_max=2, batch_wait_ms=100) as bench:
        asked = bench.ask("a", "b", "c")
        await settled()
        found = bench.search("q")
        await settled()
        assert [(embed.urgent, list(embed.texts)) for embed in bench.sent] == [
            (False, ["a", "b"]),
            (True, ["q"]),
        ]
        await bench.starts.link.answer(bench.sent[1])
        assert [await found] == expected("q")
        asked.cancel()


async def test_the_worker_holds_a_batch_and_gets_more_as_it_answers() -> None:
    async with Bench(batch_texts_max=2, batch_wait_ms=0) as bench:
        asked = bench.ask("a", "b", "c", "d", "e")
        await settled()
        answered = 0
        while not asked.done():
            assert len(bench.sent) == answered + 1
            await bench.starts.link.answer(bench.sent[answered])
            answered += 1
        assert answered == 3
        assert await asked == expected("a", "b", "c", "d", "e")


async def test_a_slow_model_keeps_no_text_of_another_from_the_worker() -> None:
    async with Bench(batch_texts_max=4, batch_wait_ms=0, queue_texts_max=4) as bench:
        slow = [bench.ask(*(f"{at} {n}" for n in range(2)), model=OTHER) for at in range(4)]
        await settled()
        assert [embed.model for embed in bench.sent] == [OTHER, OTHER]
        with pytest.raises(Rejected, match=f"by {OTHER} already"):
            await bench.embedder.documents(OTHER, ["x"], deadline_s=1)
        quick = bench.ask("quick")
        await settled()
        assert list(bench.sent[-1].texts) == ["quick"]
        await bench.starts.link.answer(bench.sent[-1])
        assert await quick == expected("quick")
        for caller in slow:
            caller.cancel()


async def test_the_worker_is_told_of_texts_that_nobody_waits_for_any_more() -> None:
    async with Bench(batch_wait_ms=0) as bench:
        late = bench.ask("only mine", "ours")
        await settled()
        stays = bench.ask("ours")
        await settled()
        late.cancel()
        await settled()
        ids = dict(zip(bench.sent[0].texts, bench.sent[0].ids, strict=True))
        link = bench.starts.link
        assert link.cancelled == [ids["only mine"]]
        again = bench.ask("only mine")  # begins anew: the first may be refused by now
        await settled()
        assert list(bench.sent[-1].texts) == ["only mine"]
        await link.refuse([ids["only mine"]], "nobody waits for it", text=False)
        assert bench.embedder.stats()["texts_refused"] == 0
        await link.answer(bench.sent[-1])
        assert await again == expected("only mine")
        assert bench.embedder.stats()["texts_computing"] == 1
        await link.answer(bench.sent[0])
        assert await stays == expected("ours")
        assert bench.embedder.stats()["texts_computing"] == 0


async def test_equal_texts_of_several_callers_are_embedded_once() -> None:
    async with Bench(batch_wait_ms=0) as bench:
        callers = [bench.ask("same", "same"), bench.ask("same"), bench.ask("same", model=OTHER)]
        await settled()
        assert [(embed.model, list(embed.texts)) for embed in bench.sent] == [
            (MODEL, ["same"]),
            (OTHER, ["same"]),
        ]
        for embed in bench.sent:
            await bench.starts.link.answer(embed)
        assert await callers[0] == expected("same", "same")
        assert await callers[1] == expected("same")
        assert await callers[2] == expected("same", model=OTHER)
        assert bench.embedder.stats()["texts_joined"] == 2


async def test_past_the_bound_the_caller_is_told_and_nothing_waits() -> None:
    async with Bench(queue_texts_max=4, batch_texts_max=1, batch_wait_ms=0) as bench:
        calls = [bench.ask(f"{number}a", f"{number}b") for number in range(3)]
        await settled()
        # Two texts are in the worker (its window is two lanes' worth), four wait.
        with pytest.raises(Rejected, match="queue_texts_max") as caught:
            await bench.embedder.documents(MODEL, ["x"], deadline_s=1)
        assert caught.value.reason is Reason.RESOURCE_EXHAUSTED
        assert bench.embedder.stats()["texts_waiting"] == 4
        assert bench.embedder.stats()["texts_refused"] == 1
        found = bench.search("a search has room of its own")
        await settled()
        assert bench.sent[-1].urgent
        for call in [*calls, found]:
            call.cancel()


async def test_a_call_larger_than_the_queue_goes_through_it_in_parts() -> None:
    async with Bench(queue_texts_max=4, batch_wait_ms=0) as bench:
        texts = [f"text {number}" for number in range(9)]
        asked = bench.ask(*texts)
        await settled()
        answered = 0
        while not asked.done():
            assert bench.embedder.stats()["texts_computing"] <= 4
            await bench.starts.link.answer(bench.sent[answered])
            answered += 1
        assert await asked == expected(*texts)


async def test_no_answer_by_the_deadline_is_unavailable_and_leaves_the_queue() -> None:
    async with Bench(batch_texts_max=1, batch_wait_ms=100) as bench:
        hung = bench.ask("in the worker", "and", "more")
        await settled()
        with pytest.raises(Unavailable, match=r"within 0\.01 s") as caught:
            await bench.embedder.documents(MODEL, ["late"], deadline_s=0.01)
        assert caught.value.where == "embedder"
        with pytest.raises(Unavailable, match=r"within 0\.01 s"):
            await bench.embedder.query(MODEL, "late", deadline_s=0.01)
        assert bench.embedder.stats()["texts_waiting"] == 1
        hung.cancel()


async def test_texts_of_a_cancelled_caller_leave_the_queue_unless_another_wants_them() -> None:
    async with Bench(batch_wait_ms=5) as bench:
        gone, stays = bench.ask("only mine", "ours"), bench.ask("ours")
        await settled()
        gone.cancel()
        await settled()
        await bench.clock.advance(0.005)
        (embed,) = bench.sent
        assert list(embed.texts) == ["ours"]
        await bench.starts.link.answer(embed)
        assert await stays == expected("ours")
        with pytest.raises(asyncio.CancelledError):
            await gone


async def test_a_caller_that_goes_while_its_text_is_computed_harms_nobody() -> None:
    async with Bench(batch_wait_ms=0) as bench:
        gone = bench.ask("a", "b")
        await settled()
        gone.cancel()
        await settled()
        await bench.starts.link.answer(bench.sent[0])
        assert bench.embedder.stats()["texts_computing"] == 0
        stays = bench.ask("a")
        await settled()
        await bench.starts.link.answer(bench.sent[1])
        assert await stays == expected("a")


async def test_the_death_of_the_worker_fails_those_who_wait_and_another_is_started() -> None:
    async with Bench(batch_texts_max=1, batch_wait_ms=0) as bench:
        callers = [bench.ask("in the worker", "waiting"), bench.ask("waiting too")]
        await settled()
        dead = bench.starts.link
        dead.die()
        for caller in callers:
            with pytest.raises(Unavailable, match="worker ended") as caught:
                await caller
            assert caught.value.where == "embedder"
        assert bench.embedder.stats()["up"] == 0
        with pytest.raises(Unavailable, match="is down"):
            await bench.embedder.documents(MODEL, ["x"], deadline_s=1)
        await bench.clock.advance(0.1)
        assert dead.stopped
        assert bench.embedder.stats()["up"] == 1
        assert bench.embedder.stats()["restarts"] == 1
        again = bench.ask("again")
        await settled()
        await bench.starts.link.answer(bench.sent[0])
        assert await again == expected("again")


async def test_a_worker_that_does_not_start_is_tried_with_growing_pauses() -> None:
    async with Bench() as bench:
        bench.starts.failures = [Unavailable("no memory", where="embedder") for _ in range(5)]
        bench.starts.link.die()
        await settled()
        for pause_s in (0.1, 0.5, 2.0, 10.0, 10.0):
            before = len(bench.starts.asked)
            await bench.clock.advance(pause_s * 0.9)
            assert len(bench.starts.asked) == before
            await bench.clock.advance(pause_s * 0.2)
            assert len(bench.starts.asked) == before + 1
            with pytest.raises(Unavailable, match="no memory"):
                await bench.embedder.query(MODEL, "x", deadline_s=1)
        await bench.clock.advance(11)
        assert bench.embedder.stats()["up"] == 1


async def killed(bench: Bench, pause_s: float) -> None:
    """Let the worker die, and see that another comes up after the pause, not before."""
    workers = len(bench.starts.links)
    bench.starts.link.die()
    await settled()
    await bench.clock.advance(pause_s * 0.9)
    assert len(bench.starts.links) == workers
    await bench.clock.advance(pause_s * 0.2)
    assert len(bench.starts.links) == workers + 1


async def test_a_worker_that_dies_soon_is_started_later_each_time() -> None:
    async with Bench() as bench:
        for lived_s, pause_s in ((0, 0.1), (0, 0.5), (59, 2.0), (0, 10.0), (0, 10.0), (61, 0.1)):
            await bench.clock.advance(lived_s)
            await killed(bench, pause_s)
        assert len(bench.starts.links) == 1 + 6, "one worker for each that died"


async def test_a_text_over_which_the_worker_dies_again_and_again_is_refused_and_no_other() -> None:
    async with Bench(batch_wait_ms=0, query_cache=0) as bench:
        for pause_s in (0.1, 0.5):
            asked = [bench.ask("bad", "good"), bench.ask("good", model=OTHER)]
            await settled()
            await killed(bench, pause_s)
            for task in asked:
                with pytest.raises(Unavailable):
                    await task
        bad, fresh, search = bench.ask("bad", "good"), bench.ask("fresh"), bench.search("sought")
        await settled()
        assert [embed.texts for embed in bench.sent] == [["bad"]]
        await killed(bench, 2.0)
        with pytest.raises(Rejected, match="died over it") as caught:
            await bad
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        for other in (fresh, search):
            with pytest.raises(Unavailable):
                await other
        with pytest.raises(Rejected, match="died over it"):
            await bench.embedder.documents(MODEL, ["good", "bad"], deadline_s=1)
        tasks = [bench.ask("good", "fresh"), bench.ask("good", "bad", model=OTHER)]
        await settled()
        for texts in (["good"], ["fresh"], ["good"], ["bad"]):
            assert bench.sent[-1].texts == texts
            await bench.starts.link.answer(bench.sent[-1])
        assert await tasks[0] == expected("good", "fresh")
        assert await tasks[1] == expected("good", "bad", model=OTHER)


async def test_a_worker_that_says_nothing_is_ended() -> None:
    async with Bench(deadline_s=4, batch_wait_ms=0) as bench:
        for _ in range(20):
            await bench.clock.advance(1)
        assert not bench.starts.link.killed  # it had nothing to say
        hung = bench.ask("x")
        await settled()
        link = bench.starts.link
        await bench.clock.advance(100)  # the proxy itself was stopped
        for _ in range(3):
            assert not link.killed
            await bench.clock.advance(1)
        await bench.clock.advance(1)
        assert link.killed
        with pytest.raises(Unavailable):
            await hung


async def test_a_text_without_a_vector_fails_its_caller_alone() -> None:
    async with Bench(batch_wait_ms=0) as bench:
        bad, unlucky, good = bench.ask("bad"), bench.ask("unlucky"), bench.ask("good")
        await settled()
        link = bench.starts.link
        await link.refuse(bench.sent[0].ids, "NoVector: length 0", text=True)
        with pytest.raises(Rejected, match="length 0") as caught:
            await bad  # for ever: backfill makes it a dead letter
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        await link.refuse(bench.sent[1].ids, "MemoryError", text=False)
        with pytest.raises(Unavailable, match="MemoryError"):
            await unlucky
        await bench.starts.link.answer(bench.sent[-1])
        assert await good == expected("good")


async def test_search_vectors_are_remembered_by_model_up_to_the_bound() -> None:
    async with Bench(query_cache=2) as bench:
        for text, model in (("a", MODEL), ("a", OTHER), ("a", MODEL), ("b", MODEL)):
            found = bench.search(text, model)
            await settled()
            if not found.done():
                await bench.starts.link.answer(bench.sent[-1])
            assert [await found] == expected(text, model=model)
        stats = bench.embedder.stats()
        assert (stats["query_cache_hits"], stats["query_cache_misses"]) == (1, 3)
        again = bench.search("a", OTHER)  # the oldest, forgotten
        await settled()
        assert not again.done()
        again.cancel()


async def test_no_cache_is_a_choice() -> None:
    async with Bench(query_cache=0) as bench:
        for number in range(2):
            found = bench.search("a")
            await settled()
            await bench.starts.link.answer(bench.sent[number])
            assert [await found] == expected("a")
        assert [embed.texts for embed in bench.sent] == [["a"], ["a"]]
        assert bench.embedder.stats()["query_cache_hits"] == 0


async def test_unknown_models_and_broken_texts_are_refused_before_they_wait() -> None:
    async with Bench() as bench:
        with pytest.raises(ConfigInvalid, match="'other'"):
            await bench.embedder.query("other", "x", deadline_s=1)
        with pytest.raises(Rejected, match="not valid Unicode") as caught:
            await bench.embedder.documents(MODEL, ["fine", "\ud800"], deadline_s=1)
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        assert caught.value.violations[0].where == "texts[1]"
        assert await bench.embedder.documents(MODEL, [], deadline_s=1) == []
        assert bench.embedder.dim(OTHER) == 6


async def test_a_model_that_cannot_be_loaded_fails_the_opening() -> None:
    bench = Bench()
    bench.starts.failures = [ConfigInvalid("The embedding model 'm' cannot be loaded: none", ())]
    with pytest.raises(ConfigInvalid, match="'m' cannot be loaded"):
        await bench.embedder.open()
    await bench.embedder.close()


async def test_closing_fails_those_who_wait_and_may_be_done_twice() -> None:
    async with Bench() as bench:
        asked = bench.ask("x")
        await settled()
        await bench.embedder.close()
        with pytest.raises(Unavailable, match="closed"):
            await asked
        assert bench.starts.link.stopped
        await bench.embedder.close()
        with pytest.raises(Unavailable, match="closed"):
            await bench.embedder.documents(MODEL, ["x"], deadline_s=1)
