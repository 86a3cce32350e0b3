"""The guardian process: ends what a demo started if the demo itself is killed outright.

A demo that ends in any ordinary way, Ctrl-C and SIGTERM included, stops its own processes and
then says "done" here. After kill -9 nobody can say anything: the pipe just closes, and then
every process that was named is ended and the scratch directory removed.

Lines on standard input: "process PID CREATED SIGNAL", "directory PATH", "done".
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import psutil

_GRACE_S = 10.0


@dataclass(slots=True)
class _Charge:
    """What the guardian answers for."""

    processes: list[tuple[psutil.Process, signal.Signals]] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    done: bool = False

    def take(self, line: str) -> None:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "done":
            self.done = True
        elif word == "directory":
            self.directories.append(rest)
        elif word == "process":
            pid, created, number = rest.split()
            try:
                process = psutil.Process(int(pid))
            except psutil.NoSuchProcess:
                return
            if process.create_time() == float(created):  # not another process with its number
                self.processes.append((process, signal.Signals(int(number))))

    def end(self) -> None:
        for process, kind in reversed(self.processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(kind)
                if not _ended(process):
                    process.kill()
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)


def _ended(process: psutil.Process) -> bool:
    """Wait for its end; a zombie has ended, whoever still has to collect it."""
    deadline_s = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline_s:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def watch(lines: Iterable[str]) -> None:
    """Read lines until they end; then end everything unless "done" was among them."""
    charge = _Charge()
    for line in lines:
        charge.take(line)
    if not charge.done:
        charge.end()


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the terminal's Ctrl-C is the demo's to handle
    watch(sys.stdin)
