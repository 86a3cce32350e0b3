"""What a phase step is judged by never takes silence for good news."""

from __future__ import annotations

import pytest

from proxy.clock import SystemClock
from proxy.control.evidence import index_states
from proxy.errors import Unavailable
from proxy.stores.base import IndexState
from proxy.stores.memory import MemoryStore
from tests.doc_server import schemas


async def test_indexes_of_a_store_that_does_not_answer_are_not_valid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore("new", schemas()["new"], SystemClock())

    async def silent() -> list[IndexState]:
        raise Unavailable("gone", where="new")

    monkeypatch.setattr(store, "index_states", silent)
    (state,) = await index_states(store)
    assert not state.exists
    assert not state.ready
    assert "gone" in state.detail
