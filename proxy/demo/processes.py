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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended, and the last lines of its log."""

    code: int
    tail: str


@dataclass(slots=True)
class Guard:
    """The line to the guardian process; enter it first, so that it is left last."""

    _guardian: subprocess.Popen[str] | None = None

    def __enter__(self) -> Guard:
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "proxy.demo.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._guardian is not None:
            self._guardian.communicate(timeout=2 * _STOP_S)  # closes the pipe: it cleans up, ends
            self._guardian = None

    def directory(self, path: Path) -> None:
        """Have `path` removed when this process has gone."""
        self._tell(f"directory {path}")

    def process(self, pid: int, kind: signal.Signals) -> None:
        """Have a process ended by this signal when this one has gone."""
        self._tell(f"process {pid} {psutil.Process(pid).create_time()!r} {int(kind)}")

    def _tell(self, line: str) -> None:
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.write(line + "\n")
            self._guardian.stdin.flush()


@dataclass(slots=True)
class Household:
    """Every process of a run. Leaving it stops them, the youngest first.

    Attributes:
        logs: directory of one log file a process.
    """

    logs: Path
    guard: Guard
    _children: list[Child] = field(default_factory=list)

    async def __aenter__(self) -> Household:
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
        self.guard.process(process.pid, signal.SIGTERM)
        return child

    def check(self) -> None:
        """Raise ChildFailed if one of the long-running processes has ended."""
        for child in self._children:
            child.check()

    def usage(self) -> dict[str, dict[str, float]]:
        """Return what each running process has used so far, by name."""
        return {child.name: usage(child.process.pid) for child in self._children}

    async def stop(self, child: Child) -> int:
        """Stop one process and forget it."""
        self._children.remove(child)
        return await child.stop()

    async def run(self, name: str, arguments: Sequence[str], *, timeout_s: float) -> Ended:
        """Run `python ARGUMENTS` to its end.

        Raises:
            ChildFailed: it did not end in time; it was stopped.
        """
        child = await self.start(name, arguments)
        try:
            async with asyncio.timeout(timeout_s):
                code = await child.process.wait()
        except TimeoutError as error:
            raise ChildFailed(
                f"{name} did not end within {timeout_s:.0f} s.",
                hint=f"Its last lines:\n{child.tail()}",
            ) from error
        finally:
            await self.stop(child)
        return Ended(code=code, tail=child.tail())

    async def _stop_all(self) -> None:
        while self._children:
            await self._children.pop().stop()


def usage(pid: int) -> dict[str, float]:
    """Return seconds of CPU, ended children included, and MiB of memory, children included.

    Shared memory is divided among its users where the system says how (Linux: PSS). A process
    that has gone used 0.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        ended = process.cpu_times()
        cpu_s = ended.children_user + ended.children_system
        memory = 0
        for one in family:
            times = one.cpu_times()
            cpu_s += times.user + times.system
            held = one.memory_full_info()
            memory += getattr(held, "pss", held.rss)
    except psutil.Error:
        return {"cpu_s": 0.0, "memory_mib": 0.0}
    return {"cpu_s": round(cpu_s, 2), "memory_mib": round(memory / 2**20, 1)}


def environment() -> dict[str, str]:
    """Return the environment of a child: it finds this very Crossfade, installed or not."""
    paths = [str(_REPOSITORY), str(_REPOSITORY / "protos"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }
