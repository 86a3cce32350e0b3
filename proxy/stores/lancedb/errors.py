"""The one place where LanceDB's errors become Crossfade's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pyarrow as pa

from proxy.errors import Ambiguous, Corrupt, CrossfadeError, Unavailable

FOREIGN: Final = (RuntimeError, ValueError, OSError, TypeError, pa.ArrowException)
"""LanceDB raises builtins; which of them is nothing to rely on."""

_PANICS: Final = "pyo3"

_NOT_APPLIED: Final = ("commit conflict", "too many concurrent writers", "incompatible transaction")
_SPACE: Final = ("no space left", "permission denied", "read-only file system")
_BROKEN: Final = ("schema error", "no field named", "corrupt", "invalid input")


def is_foreign(error: BaseException) -> bool:
    """True if it is an error of LanceDB, or a panic of its Rust code.

    The classes of panics cannot be imported, and one of them is not even an Exception.
    """
    return isinstance(error, FOREIGN) or type(error).__module__.startswith(_PANICS)


def is_failure(error: BaseException) -> bool:
    """True if something failed, ours or LanceDB's; False if somebody wants an end (a cancel)."""
    return isinstance(error, Exception) or is_foreign(error)


def translate(error: BaseException, *, store: str, writing: bool, what: str) -> CrossfadeError:
    """Return the error as one of Crossfade's.

    Args:
        writing: a commit was under way, so a failure may have come after it.
        what: the collection.
    """
    told = str(error).split(", /root/", 1)[0].strip()[:300]
    low = told.lower()
    message = f"The {store} store (LanceDB) failed on {what}: {told or type(error).__name__}."
    if any(word in low for word in _NOT_APPLIED):
        return Unavailable(
            message,
            where=store,
            hint="Another process writes this table; let one process write a folder.",
        )
    if any(word in low for word in _BROKEN):
        return Corrupt(message, hint="`crossfade plan` compares the layout with the table.")
    if writing:
        return Ambiguous(message, where=store)
    hint = "Look at the disk and its permissions." if any(w in low for w in _SPACE) else ""
    return Unavailable(message, where=store, hint=hint)


@asynccontextmanager
async def reading(store: str, what: str, deadline_s: float) -> AsyncIterator[None]:
    """Give a read its deadline, and translate what it raises."""
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError as error:
        raise Unavailable(
            f"The {store} store did not answer for {what} within {deadline_s:g} s.", where=store
        ) from error
    except BaseException as error:
        if not is_foreign(error):
            raise
        raise translate(error, store=store, writing=False, what=what) from error
