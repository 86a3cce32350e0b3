"""Which store keeps a proxy from starting: one that the phase uses."""

from __future__ import annotations

import asyncio

import pytest

from proxy.clock import SystemClock
from proxy.errors import (
    ConfigInvalid,
    Corrupt,
    CrossfadeError,
    StoreProblem,
    StoreTaken,
    Unavailable,
)
from proxy.server.opening import Opening
from proxy.stores.memory import MemoryStore
from tests.doc_server import schemas


class Dropped(MemoryStore):
    """A store whose tables are gone, or that fails to open."""

    def __init__(self, name: str, error: CrossfadeError | None = None) -> None:
        super().__init__(name, schemas()[name], SystemClock())
        self._error = error
        self.closed = False

    async def open(self) -> None:
        """Fail if told to."""
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Remember it."""
        self.closed = True

    async def check(self) -> list[StoreProblem]:
        """Miss the table."""
        what = "the table crates is missing"
        return [StoreProblem(store=self.name, what=what, hint="create it")]


class Slow(MemoryStore):
    """A store that is open a little later than others."""

    opened = False

    async def open(self) -> None:
        """Give way first."""
        for _ in range(5):
            await asyncio.sleep(0)
        self.opened = True


def opening(old: MemoryStore, new: MemoryStore | None = None) -> Opening:
    new = new or MemoryStore("new", schemas()["new"], SystemClock())
    return Opening({"old": old, "new": new}, SystemClock())


async def test_a_store_that_does_not_fit_keeps_a_proxy_from_starting() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        await opening(Dropped("old"), Dropped("new")).open()
    assert str(caught.value).splitlines()[1:] == [
        "  old: the table crates is missing (create it)",
        "  new: the table crates is missing (create it)",
    ]


@pytest.mark.parametrize("error", [None, Corrupt("a strange catalogue")])
async def test_in_new_only_an_old_store_without_its_tables_is_logged_and_left_closed(
    caplog: pytest.LogCaptureFixture, error: CrossfadeError | None
) -> None:
    old = Dropped("old", error)
    made = opening(old)
    await made.open(only="new")
    made.require("new")
    assert old.closed
    assert ("strange" if error else "crates is missing") in caplog.text
    await made.run()  # it ends: nobody waits for that store


async def test_in_new_only_an_old_store_that_is_gone_keeps_no_proxy_from_starting() -> None:
    made = opening(Dropped("old", Unavailable("gone", where="old")))
    await made.open(only="new")
    made.require("new")
    assert made.complete, "nobody needs the old store"
    with pytest.raises(Unavailable, match="gone"):
        made.require("old")


async def test_in_new_only_the_new_store_must_fit() -> None:
    old = MemoryStore("old", schemas()["old"], SystemClock())
    with pytest.raises(ConfigInvalid, match="crates is missing"):
        await opening(old, Dropped("new")).open(only="new")


async def test_a_store_that_another_process_writes_keeps_a_proxy_from_starting() -> None:
    """Serving without it would leave it out of every write while the other one lives."""
    new = Dropped("new", StoreTaken("written already", where="new"))
    with pytest.raises(StoreTaken, match="written already"):
        await opening(MemoryStore("old", schemas()["old"], SystemClock()), new).open()


async def test_a_store_that_a_command_writes_is_waited_for_a_told_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Taken(MemoryStore):
        tries = 0

        async def open(self) -> None:
            self.tries += 1
            if self.tries < 4 or endless:
                raise StoreTaken("process 7 writes it already", where=self.name)
            await super().open()

    class Hurry(SystemClock):
        at_s = 0.0

        def monotonic_s(self) -> float:
            return self.at_s

        async def sleep(self, delay_s: float) -> None:
            self.at_s += delay_s

    endless = False
    clock = Hurry()
    stores = {name: Taken(name, schemas()[name], clock) for name in ("old", "new")}
    await Opening(stores, clock).open(taken_wait_s=30)
    assert [store.tries for store in stores.values()] == [4, 4]
    assert caplog.text.count("waiting up to 30 s: process 7 writes it already") == 2
    endless, began_s = True, clock.at_s
    with pytest.raises(StoreTaken, match="process 7"):
        await Opening({"new": stores["new"]}, clock).open(taken_wait_s=30)
    assert clock.at_s - began_s == 30


async def test_a_new_store_that_is_only_down_keeps_no_proxy_from_starting() -> None:
    new = Dropped("new", Unavailable("down", where="new"))
    made = opening(MemoryStore("old", schemas()["old"], SystemClock()), new)
    await made.open()
    made.require("old")
    assert not made.complete
    with pytest.raises(Unavailable, match="down"):
        made.require("new")


async def test_an_error_waits_until_the_other_store_is_open_so_that_it_can_be_closed() -> None:
    old = Slow("old", schemas()["old"], SystemClock())
    with pytest.raises(StoreTaken):
        await opening(old, Dropped("new", StoreTaken("written already", where="new"))).open()
    assert old.opened
