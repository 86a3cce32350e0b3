"""Crossfade's processes: started, made ready, paused, killed; none is left behind."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMAND = "proxy.cli.main"
_REPOSITORY = Path(__file__).resolve().parents[3]
_READY_S = 60.0
_END_S = 20.0


def environment() -> dict[str, str]:
    """Return the environment of a child: this very Crossfade, and no configuration but the file."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("CROSSFADE_")}
    paths = [str(_REPOSITORY), str(_REPOSITORY / "protos"), kept.get("PYTHONPATH", "")]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


class Process:
    """One `crossfade` process, with its log file.

    `module` runs the command (`tests.faults.harness.marked` does it too); `pass_fds` are open in
    it under the same numbers.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        *,
        module: str = COMMAND,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self.address = ""
        self._command = ("-m", module, *arguments)
        self._pass_fds = tuple(pass_fds)
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; `ready` waits until it serves."""
        with self.log.open("ab") as sink:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                env=environment(),
                cwd=_REPOSITORY,
                start_new_session=True,
                pass_fds=self._pass_fds,
            )

    async def ready(self, timeout_s: float = _READY_S) -> None:
        """Wait for the line that says it serves.

        Raises:
            AssertionError: it ended, or said nothing in time; the message has the end of its log.
        """
        child = self.child
        assert child.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    line = await child.stdout.readline()
                    if not line:
                        raise AssertionError(f"{self.name} ended before it served\n{self.tail()}")
                    said = _parsed(line)
                    if said.get("event") == "ready":
                        self.address = str(said.get("address", ""))
                        return
        except TimeoutError as error:
            raise AssertionError(f"{self.name} is not ready\n{self.tail()}") from error

    @property
    def child(self) -> asyncio.subprocess.Process:
        """The running process."""
        assert self._child is not None, f"{self.name} was not started"
        return self._child

    @property
    def running(self) -> bool:
        """True if it was started and has not ended."""
        return self._child is not None and self._child.returncode is None

    def tail(self, lines: int = 25) -> str:
        """Return the end of its log."""
        return _tail(self.log, lines)

    def signal(self, kind: signal.Signals) -> None:
        """Send a signal to it alone."""
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(kind)

    def pause(self) -> None:
        """Stop it as a suspended machine does."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self.reap()
        await self.ended()

    async def stop(self) -> int:
        """Ask it to end (SIGTERM) and return its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self, timeout_s: float = _END_S) -> int:
        """Wait until it has ended; return its exit code."""
        try:
            async with asyncio.timeout(timeout_s):
                code = await self.child.wait()
        except TimeoutError as error:
            raise AssertionError(f"{self.name} does not end\n{self.tail()}") from error
        return code

    async def output(self) -> str:
        """Return what is left of its standard output."""
        assert self.child.stdout is not None
        return (await self.child.stdout.read()).decode()

    def reap(self) -> None:
        """Kill its whole session; safe at any time."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)


def _tail(log: Path, lines: int) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


class Household:
    """Every process of a test; leaving it, or the interpreter's end, kills them all."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[Process] = []

    async def __aenter__(self) -> Household:
        atexit.register(self._reap)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reap()
        try:
            for process in self._processes:
                if process.running:
                    await process.ended()
        finally:
            atexit.unregister(self._reap)

    def _reap(self) -> None:
        for process in self._processes:
            process.reap()

    def tail(self, name: str, lines: int = 10_000) -> str:
        """Return the end of the log of the processes of a name so far."""
        return _tail(self._logs / f"{name}.log", lines)

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        module: str = COMMAND,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start `crossfade ARGUMENTS`; its log goes on where an earlier one of the name ended."""
        log = self._logs / f"{name}.log"
        process = Process(name, arguments, log, module=module, pass_fds=pass_fds)
        self._processes.append(process)
        await process.start()
        return process
