"""A whole proxy over PostgreSQL and LanceDB with the real model: both hold the same vectors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from crossfade.client import AsyncClient, InvalidArgument, Read

from proxy.clock import SystemClock
from proxy.config.loader import Config, load_text
from proxy.ledger.types import EventDraft, Phase, Routing
from proxy.server.build import build_ledger, build_store
from proxy.server.serve import running
from proxy.telemetry.setup import Telemetry, build_telemetry
from tests.work_items import COLLECTION, create_tables, key

pytest.importorskip("lancedb", reason="needs crossfade[lancedb]")
pytest.importorskip("sentence_transformers", reason="needs crossfade[embedder]")
ALL = Read(vector=True)
NAMES = [key(n)[0] for n in range(3)]


def configured(old: str, folder: Path, ledger: str) -> Config:
    text = {
        "migration": "items",
        "preset": "work-items",
        "listen": {"address": "127.0.0.1:0", "metrics": ""},
        "old": {"engine": "postgresql", "dsn": old},
        "new": {"engine": "lancedb", "uri": str(folder)},
        "ledger": {"dsn": ledger},
    }
    return load_text(json.dumps(text), "c.yaml", {})


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    made = build_telemetry(
        configured("dbname=o", Path("/x"), "dbname=l").settings.telemetry,
        migration="items",
        metrics_address="",
    )
    yield made
    await made.close()


async def go_dual(config: Config) -> None:
    """Put dual_write in force before the proxy starts."""
    ledger = build_ledger(config.settings, SystemClock())
    await ledger.open()
    await ledger.change_routing(
        (await ledger.routing()).epoch,
        Routing(epoch=0, phase=Phase.DUAL_WRITE, primary="old", percent=0.0),
        EventDraft(kind="phase", actor="test"),
    )
    await ledger.close()


async def test_texts_written_through_a_proxy_are_found_by_meaning_and_lie_in_both_stores(
    new_database: Callable[[], str], tmp_path: Path, telemetry: Telemetry
) -> None:
    old = new_database()
    create_tables(old)
    config = configured(old, tmp_path / "items", new_database())
    await go_dual(config)
    async with (
        running(config, telemetry, SystemClock()) as address,
        AsyncClient(address, retries=0) as client,
    ):
        texts = ["Repair the login page", "Order coffee beans", "Plan the database migration"]
        for name, title in zip(NAMES, texts, strict=True):
            await client.upsert(COLLECTION, (name,), {"title": title, "tags": ["t"]})
        ack = await client.update(COLLECTION, (NAMES[2],), {"description": "to another store"})
        assert ack.record is not None
        assert not ack.secondary_pending
        (best, *_) = (await client.search(COLLECTION, text="moving tables", limit=3)).hits
        assert best.record.key == (NAMES[2],)
        with pytest.raises(InvalidArgument):
            await client.upsert(COLLECTION, (NAMES[0],), {"title": "x"}, vector=np.zeros(3))
    found = {}
    for side, schema in (("old", config.old), ("new", config.new)):
        store = build_store(side, getattr(config.settings, side), schema, SystemClock())
        await store.open()
        found[side] = await store.get(
            COLLECTION, [(name,) for name in NAMES], vectors=True, deadline_s=10
        )
        await store.close()
    assert set(found["old"]) == {(name,) for name in NAMES}
    for name in NAMES:
        left, right = found["old"][name,], found["new"][name,]
        assert dict(left.fields) == dict(right.fields)
        assert left.vector == right.vector
        vector = np.frombuffer(left.vector or b"", "<f4")
        assert vector.shape == (384,)
        assert np.isclose(np.linalg.norm(vector), 1.0, atol=1e-5)
