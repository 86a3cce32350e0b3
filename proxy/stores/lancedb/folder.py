"""Where a LanceDB database lies, and the lock that lets one process alone write a local folder.

The lock is the kernel's (flock), so it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from proxy.errors import ConfigInvalid, StoreTaken, Unavailable, Violation

LOCK_FILE: Final = ".crossfade.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A database's place: `path` for a local folder, None for an object store."""

    uri: str
    path: Path | None

    def obstacle(self) -> str:
        """Say what will keep a writer from making this folder, or from writing it; "" for nothing.

        A look, not a proof: that it can be written shows when it is.
        """
        if self.path is None:
            return ""
        try:
            there = next(place for place in (self.path, *self.path.parents) if place.exists())
        except PermissionError as error:
            return str(error)
        if not there.is_dir():
            return f"{there} is no folder"
        return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written"


def locate(store: str, uri: str, namespace: str) -> Folder:
    """Return the place that a configuration names; a namespace is a folder below it.

    Raises:
        ConfigInvalid: there is no uri.
    """
    if not uri:
        where = Violation(where=f"{store}.uri", expected="a folder or an object store's URI")
        raise ConfigInvalid(f"The {store} store does not say where it lies.", (where,))
    parts = urlsplit(uri)
    if parts.scheme and parts.scheme != "file" and "://" in uri:
        return Folder(uri="/".join((uri.rstrip("/"), namespace)).rstrip("/"), path=None)
    text = uri.removeprefix("file://") if parts.scheme == "file" else uri
    path = Path(text).expanduser().absolute() / namespace
    return Folder(uri=str(path), path=path)


class WriterLock:
    """The right to write a local folder."""

    def __init__(self, store: str, path: Path) -> None:
        self._store = store
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock, and leave word of who holds it.

        Raises:
            StoreTaken: another process holds it.
            Unavailable: the folder cannot be written.
        """
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            file = (self._path / LOCK_FILE).open("a+", encoding="utf-8")
        except OSError as error:
            raise Unavailable(
                f"The {self._store} store cannot write its folder {self._path}: {error}.",
                where=self._store,
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _told(file)
            file.close()
            raise StoreTaken(
                f"The {self._store} store cannot write {self._path}: {holder} writes it already.",
                where=self._store,
                hint="One process alone writes a LanceDB folder: stop that one, or let it end. If"
                " it is this migration's proxy, use that one: there can be no second replica.",
            ) from error
        file.truncate(0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "since": started}, file)
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock up; safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _told(file: IO[str]) -> str:
    """Say who holds the lock, as far as the file tells."""
    try:
        file.seek(0)
        told = json.loads(file.read())
        return f"process {told['pid']} (since {told['since']})"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"
