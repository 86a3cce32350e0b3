"""What a marked process is at: its marks as they come, and what it died in the middle of."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

MARKED = "tests.faults.harness.marked"
_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work on a table: `kind` is "commit" or "optimize"."""

    kind: str
    table: str


@dataclass(eq=False)
class Marks:
    """The two pipes of one marked process; enter it before the process starts.

    Attributes:
        under_way: what has begun and not ended, by its number.
        ended: how often each kind has ended.
    """

    under_way: dict[str, Work] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._read, self.marks = os.pipe()
        self.go, self._word = os.pipe()
        os.set_blocking(self._read, False)
        self._rest = b""
        self._alarm: Callable[[], bool] | None = None
        self._rung = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._read, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._read)
        for number in (self._read, self.marks, self.go, self._word):
            with contextlib.suppress(OSError):
                os.close(number)

    @property
    def pass_fds(self) -> Sequence[int]:
        """What the process inherits."""
        return (self.marks, self.go)

    def say_go(self) -> None:
        """Let the process begin its command."""
        os.write(self._word, b"!")

    def doing(self, kind: str) -> list[str]:
        """Return the tables on which work of a kind is under way."""
        return [work.table for work in self.under_way.values() if work.kind == kind]

    async def alarm(self, strike: Callable[[], bool]) -> None:
        """Call `strike` at each mark, as soon as it is read, until it returns true."""
        self._rung.clear()
        self._alarm = strike
        try:
            await self._rung.wait()
        finally:
            self._alarm = None

    def drain(self) -> None:
        """Read what is left: of a dead process, everything."""
        self._take()

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._read, _BYTES):
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for line in lines:
                    self._note(*line.decode().split(" ", 3))
        if self._alarm is not None and self._alarm():
            self._alarm = None
            self._rung.set()

    def _note(self, sign: str, number: str, kind: str, table: str) -> None:
        if sign == "+":
            self.under_way[number] = Work(kind, table)
            return
        self.under_way.pop(number, None)
        self.ended[kind] = self.ended.get(kind, 0) + 1
