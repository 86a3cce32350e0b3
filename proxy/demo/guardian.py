"""The guardian process: ends whatever a demo started that is still there when the demo has gone.

A demo that ends in any ordinary way, Ctrl-C and SIGTERM included, has stopped its own processes
before. After kill -9 nobody could: the pipe just closes, and every process that was named is
ended and the scratch directory removed.

Lines on standard input: "process PID CREATED SIGNAL", "directory PATH".
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterable

import psutil

_GRACE_S = 10.0


def watch(lines: Iterable[str]) -> None:
    """Read lines until they end; then end every process and remove every directory named."""
    processes: list[tuple[psutil.Process, signal.Signals]] = []
    directories: list[str] = []
    for line in lines:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "directory":
            directories.append(rest)
        elif word == "process":
            pid, created, number = rest.split()
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if process.create_time() == float(created):  # not another one with its number
                    processes.append((process, signal.Signals(int(number))))
    for process, kind in reversed(processes):
        _end(process, kind)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _end(process: psutil.Process, kind: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if _ended(process):
            return
        process.send_signal(kind)
        deadline_s = time.monotonic() + _GRACE_S
        while not _ended(process):
            if time.monotonic() > deadline_s:
                process.kill()
                return
            time.sleep(0.02)


def _ended(process: psutil.Process) -> bool:
    """Say whether it has ended; a zombie has, whoever still must collect it."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the terminal's Ctrl-C is the demo's to handle
    watch(sys.stdin)
