"""Nothing that a demo started may outlive it, however it ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from proxy.demo import guardian
from proxy.demo.guardian import watch
from proxy.demo.processes import environment


@pytest.fixture
def sleeper() -> Iterator[psutil.Process]:
    """Return a process that would sleep for ten minutes."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        yield psutil.Process(child.pid)
        child.kill()


def line_for(process: psutil.Process) -> str:
    return f"process {process.pid} {process.create_time()!r} {int(signal.SIGTERM)}\n"


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_when_the_pipe_closes_processes_end_and_directories_go(
    tmp_path: Path, sleeper: psutil.Process
) -> None:
    scratch = tmp_path / "scratch with spaces"
    scratch.mkdir()
    watch([line_for(sleeper), f"directory {scratch}\n"])
    assert gone(sleeper)
    assert not scratch.exists()


def test_what_has_ended_already_does_not_matter(tmp_path: Path, sleeper: psutil.Process) -> None:
    line = line_for(sleeper)
    sleeper.kill()
    watch([line, f"directory {tmp_path / 'gone'}\n"])
    assert gone(sleeper)


def test_a_process_that_ignores_its_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian, "_GRACE_S", 0.2)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(600)"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        watch([line_for(psutil.Process(child.pid))])
        assert child.wait(10) == -signal.SIGKILL


def test_another_process_with_the_same_number_is_left_alone(sleeper: psutil.Process) -> None:
    watch([f"process {sleeper.pid} 12345.0 {int(signal.SIGKILL)}\n"])
    assert not gone(sleeper)


def test_a_killed_demo_leaves_no_process_behind(sleeper: psutil.Process) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "proxy.demo.guardian"],
        stdin=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as watcher:
        assert watcher.stdin is not None
        watcher.stdin.write(line_for(sleeper))
        watcher.stdin.close()  # what the kernel does for a process killed with -9
        assert watcher.wait(30) == 0
    assert gone(sleeper)
