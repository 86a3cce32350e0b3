"""Child processes of a run: started with their own logs, ended in every case, even kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from proxy.errors import CrossfadeError

_STOP_S = 15.0
_REPOSITORY = Path(__file__).resolve().parents[2]
_LINE_BYTES_MAX = 2**24  # a client's last line carries its whole account


class ChildFailed(CrossfadeError):
    """A process of the demo ended when it should not have, or with an error."""


@dataclass(slots=True)
class Child:
    """One running process and where its standard error goes."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def check(self) -> None:
        """Raise ChildFailed if it is no longer running."""
        if self.process.returncode is not None:
            raise ChildFailed(
                f"The {self.name} process ended by itself with {self.process.returncode}.",
                hint=f"Its last lines:\n{self.tail()}",
            )

    async def stop(self, kind: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, kill it if it does not, and return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(kind)
        try:
            async with asyncio.timeout(_STOP_S):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()


@dataclass(slots=True)
class Household:
    """Every process of a run. Leaving it stops them, the youngest first.

    Attributes:
        logs: directory of one log file a process.
    """

    logs: Path
    _children: list[Child] = field(default_factory=list)
    _guardian: subprocess.Popen[str] | None = None

    async def __aenter__(self) -> Household:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._guardian = subprocess.Popen(  # noqa: ASYNC220 - our own module, starts at once
            [sys.executable, "-m", "proxy.demo.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
            text=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopping = asyncio.ensure_future(self._stop_all())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:  # a second Ctrl-C: finish the stopping, then go
            await stopping
            raise

    def guard_directory(self, path: Path) -> None:
        """Have `path` removed if this process is killed outright."""
        self._tell(f"directory {path}")

    def guard_process(self, pid: int, kind: signal.Signals) -> None:
        """Have a process ended by this signal if this one is killed outright."""
        self._tell(f"process {pid} {psutil.Process(pid).create_time()!r} {int(kind)}")

    def release(self) -> None:
        """Say that nothing is left to end; the guardian goes home."""
        if self._guardian is None:
            return
        self._tell("done")
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        self._guardian.wait(_STOP_S)
        self._guardian = None

    async def start(self, name: str, arguments: Sequence[str], *, talk: bool = False) -> Child:
        """Start `python ARGUMENTS`; with `talk` its standard input and output are pipes."""
        log = self.logs / f"{name}.log"
        pipe = asyncio.subprocess.PIPE
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=pipe if talk else asyncio.subprocess.DEVNULL,
                stdout=pipe if talk else sink,
                stderr=sink,
                env=environment(),
                start_new_session=True,  # Ctrl-C reaches the demo alone, which stops them in order
                limit=_LINE_BYTES_MAX,
            )
        child = Child(name=name, process=process, log=log)
        self._children.append(child)
        self.guard_process(process.pid, signal.SIGTERM)
        return child

    def check(self) -> None:
        """Raise ChildFailed if one of the long-running processes has ended."""
        for child in self._children:
            child.check()

    async def stop(self, child: Child) -> int:
        """Stop one process and forget it."""
        self._children.remove(child)
        return await child.stop()

    def forget(self, child: Child) -> None:
        """Take a process that ended as it should off the list."""
        self._children.remove(child)

    async def _stop_all(self) -> None:
        while self._children:
            await self._children.pop().stop()

    def _tell(self, line: str) -> None:
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.write(line + "\n")
            self._guardian.stdin.flush()


def environment() -> dict[str, str]:
    """Return the environment of a child: it finds this very Crossfade, installed or not."""
    paths = [str(_REPOSITORY), str(_REPOSITORY / "protos"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }
