"""The end of `serve`: its tasks end, also one whose cancellation a library swallowed."""

from __future__ import annotations

import asyncio

import pytest

from proxy.server import serve


async def deaf(times: int) -> None:
    for _ in range(times):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()


async def test_a_lost_cancellation_is_sent_again_and_no_task_is_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve, "_CANCEL_S", 0.05)
    tasks = [asyncio.create_task(deaf(times), name=f"deaf {times}") for times in (0, 1, 1000)]
    await asyncio.sleep(0)
    await serve._cancel(tasks)
    assert [task.done() for task in tasks] == [True, True, False]
    assert [record.message for record in caplog.records] == [
        "deaf 1000 does not end; the proxy stops without it"
    ]
    for _ in range(1001):
        tasks[2].cancel()
        await asyncio.sleep(0)
    assert tasks[2].done()
