"""A small disk that a test can fill up and free again.

A file system in memory where this user may mount one; elsewhere the kernel's limit on the size of
files, set on running processes: a write past it fails as it does on a full disk.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_BALLAST = ".ballast"
_CHUNK = 2**20
_FILE_BYTES_MAX = 4096


class Disk(Protocol):
    """Where something lies that a test wants to run out of room."""

    @property
    def folder(self) -> Path:
        """The folder on it."""

    def fill(self, pids: Iterable[int]) -> None:
        """Leave no room; `pids`: the processes that write to it."""

    def free(self) -> None:
        """Give the room back."""


@dataclass
class MountedDisk:
    """A file system of its own."""

    folder: Path

    def fill(self, pids: Iterable[int]) -> None:
        """See Disk."""
        with (self.folder / _BALLAST).open("ab", buffering=0) as ballast:
            for size in (_CHUNK, 1):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def free(self) -> None:
        """See Disk."""
        (self.folder / _BALLAST).unlink(missing_ok=True)


@dataclass
class LimitedDisk:
    """A plain folder; processes that write to it may write no file past a few bytes."""

    folder: Path
    _before: dict[int, tuple[int, int]] = field(default_factory=dict)

    def fill(self, pids: Iterable[int]) -> None:
        """See Disk. The server's own new children inherit the limit."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                self._before.setdefault(pid, before)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (_FILE_BYTES_MAX, before[1]))

    def free(self) -> None:
        """See Disk."""
        for pid, before in self._before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        self._before.clear()


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Disk]:
    """Make a disk of a size at `folder` for the length of the context."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "crossfade-test"]
    mounted = os.environ.get("CROSSFADE_NO_MOUNT") is None and _runs([*command, str(folder)])
    disk: Disk = MountedDisk(folder) if mounted else LimitedDisk(folder)
    try:
        yield disk
    finally:
        disk.free()
        if mounted and not _runs(["umount", str(folder)]):
            _runs(["umount", "--lazy", str(folder)])


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
