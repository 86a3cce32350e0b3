"""The guardian process: ends what a demo started if the demo itself is killed outright.

A demo that ends in any ordinary way, Ctrl-C and SIGTERM included, stops its own processes and
then says "done" here. After kill -9 nobody can say anything: the pipe just closes, and then
every process that was named is ended and the scratch directory removed.

Lines on standard input: "process PID CREATED SIGNAL", "directory PATH", "done".
"""

from __future__ import annotations

import shutil
import signal
import sys
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
            try:
                process.send_signal(kind)
            except psutil.NoSuchProcess:
                continue
            try:
                process.wait(_GRACE_S)
            except psutil.TimeoutExpired:
                process.kill()
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)


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
