"""The command line beside a store that one process alone may write: the proxy does the work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.ledger.postgres import PostgresLedger
from proxy.stores.postgres import PostgresStore
from tests.integration.test_cli import Site, crossfade, logs_as_they_were, proxy
from tests.integration.test_hosted_jobs import free_port
from tests.work_items import create_tables, item, schemas

__all__ = ["logs_as_they_were"]

ITEMS = 200


async def fill(dsn: str) -> None:
    store = PostgresStore("old", dsn, schemas()["old"], pool_min=1, pool_max=1)
    await store.open()
    try:
        await store.apply([item(number) for number in range(ITEMS)], atomic=True, deadline_s=30)
    finally:
        await store.close()


@pytest.fixture
def site(new_database: Callable[[], str], tmp_path: Path) -> Site:
    old, ledger = new_database(), new_database()
    create_tables(old)
    asyncio.run(fill(old))
    config = tmp_path / "crossfade.yaml"
    text = {
        "migration": "items",
        "preset": "work-items",
        "listen": {"address": f"127.0.0.1:{free_port()}", "metrics": ""},
        "old": {"engine": "postgresql", "dsn": old},
        "new": {"engine": "lancedb", "uri": str(tmp_path / "lance")},
        "ledger": {"dsn": ledger},
        "collections": {"work_items": {"embedding": None}},  # no model: writers give vectors
    }
    config.write_text(json.dumps(text))
    return Site(config=config, old=old, new=str(tmp_path / "lance"))


def test_the_plan_of_a_store_that_is_not_made_yet_makes_nothing(site: Site) -> None:
    text = site.run("plan")
    assert "no problems" in text
    assert "copied" in text
    assert not Path(site.new).exists()


def test_the_proxy_does_what_it_alone_may_do_and_without_it_the_commands_do(site: Site) -> None:
    with proxy(site) as address:
        crossfade("phase", "dual_write", "--reason", "test", "--address", address)
        done = site.json("backfill")
        assert (done["state"], done["summary"]["copied"]) == ("done", ITEMS)
        assert done["summary"]["collections"]["work_items"]["vectors"] == "copied"
        planned = site.json("plan")["plan"]["collections"]["work_items"]
        assert (planned["secondary_rows"], planned["path"]) == (ITEMS, "bulk")
        told = site.json("reconcile", expect=1)
        assert "reconciles itself" in told["error"]["message"]
        assert "crossfade backfill" in told["error"]["hint"]
        assert site.json("verify")["summary"]["matched"] == ITEMS
    assert site.json("verify")["summary"]["matched"] == ITEMS


def test_after_a_crash_a_command_leaves_the_store_to_the_proxy_unless_told_otherwise(
    site: Site,
) -> None:
    with proxy(site) as address:
        crossfade("phase", "dual_write", "--reason", "test", "--address", address)
    assert site.json("backfill")["summary"]["copied"] == ITEMS  # it went in order
    asyncio.run(crashed(site))
    for command in ("backfill", "verify", "repair", "reconcile"):
        told = site.json(command, expect=3)
        assert "went down" in told["error"]["message"]
        assert "--here" in told["error"]["hint"]
    assert site.json("verify", "--here")["summary"]["matched"] == ITEMS


async def crashed(site: Site) -> None:
    """Leave in the ledger what a proxy leaves that is killed."""
    ledger = PostgresLedger(json.loads(site.config.read_text())["ledger"]["dsn"], "items")
    await ledger.open()
    try:
        await ledger.register_replica("killed", address="", lease_s=0.001, ledger_down="refuse")
    finally:
        await ledger.close()
