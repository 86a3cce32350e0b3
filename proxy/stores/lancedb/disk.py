"""Makes a local folder's data durable: LanceDB leaves what it wrote to the kernel.

One call makes everything of a file system durable, so it is asked for once a group of writes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path


class Disk:
    """The disk of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def sync(self) -> None:
        """Return once everything that was written is on the disk.

        Raises:
            OSError: it is not.
        """
        await asyncio.to_thread(self._sync)

    def _sync(self) -> None:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:  # not on Linux
            os.sync()
            return
        place = os.open(self._folder, os.O_RDONLY)
        try:
            if syncfs(place):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(self._folder))
        finally:
            os.close(place)
