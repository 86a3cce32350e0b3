"""When a proxy reconciles itself, and that its reconciler never ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import pytest

from proxy.clock import SystemClock
from proxy.config.settings import ReconcileSettings
from proxy.errors import Unavailable
from proxy.server import reconciling
from proxy.server.opening import Opening
from proxy.server.reconciling import in_proxy, owner_name, reconcile_beside
from proxy.stores.base import Store
from proxy.stores.memory import MemoryStore
from reconcile.jobs import Reconciler
from tests.doc_server import schemas


def store(*, single_writer: bool = False) -> MemoryStore:
    made = MemoryStore("new", schemas()["new"], SystemClock())
    made.capabilities = replace(made.capabilities, single_writer=single_writer)
    return made


@pytest.mark.parametrize(
    ("asked", "single_writer", "runs"),
    [
        ("auto", False, False),
        ("auto", True, True),
        ("always", False, True),
        ("never", True, False),
    ],
)
def test_a_proxy_reconciles_if_asked_or_if_nobody_else_may(
    asked: Literal["auto", "always", "never"], single_writer: bool, runs: bool
) -> None:
    stores = (store(), store(single_writer=single_writer))
    assert in_proxy(ReconcileSettings(in_proxy=asked), stores) is runs


def test_every_start_has_a_name_of_its_own() -> None:
    assert owner_name() != owner_name()


class Fake:
    """A reconciler that only knows whether it was stopped."""

    stopping = False


class Hurry(SystemClock):
    """A clock whose sleeps only give way."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(0)


async def test_an_unexpected_error_begins_the_reconciler_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake, runs = Fake(), 0

    async def serve(_: object) -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("a defect")
        fake.stopping = True

    monkeypatch.setattr(reconciling, "serve", serve)
    await reconcile_beside(cast(Reconciler, fake), Opening({}, Hurry()), Hurry())
    assert runs == 3


class Late(MemoryStore):
    """A store that another process keeps for a while."""

    free = False

    async def open(self) -> None:
        if not self.free:
            raise Unavailable("another process writes it already", where=self.name)


async def test_the_reconciler_begins_when_both_stores_are_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake()
    late = Late("new", schemas()["new"], SystemClock())
    stores: Mapping[str, Store] = {"old": store(), "new": late}
    opening = Opening(stores, Hurry())
    await opening.open()
    begun_with: list[bool] = []

    async def serve(_: object) -> None:
        begun_with.append(opening.complete)
        fake.stopping = True

    monkeypatch.setattr(reconciling, "serve", serve)
    reconciler: Any = fake
    async with asyncio.TaskGroup() as group:
        group.create_task(opening.run())
        group.create_task(reconcile_beside(reconciler, opening, Hurry()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert begun_with == []
        late.free = True
    assert begun_with == [True]


async def test_a_proxy_that_is_stopped_before_its_stores_are_open_does_not_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    fake = Fake()
    opening = Opening({"new": Late("new", schemas()["new"], SystemClock())}, Hurry())
    await opening.open()
    fake.stopping = True
    async with asyncio.timeout(5):
        await reconcile_beside(cast(Reconciler, fake), opening, Hurry())
    assert not opening.complete
    assert "reconciles too" not in caplog.text
