"""A `crossfade` process that says when LanceDB is at work: one line at the begin and end of each.

Run: python -m tests.faults.harness.marked MARKS GO COMMAND...  MARKS and GO are inherited pipes:
lines go to MARKS; the command begins when GO has a byte, so that a process can be at hand with
everything imported; if GO ends without one, so does the process.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

WORK = {"_do_merge": "commit", "add": "commit", "delete": "commit", "optimize": "optimize"}
"""Methods of `lancedb.table.AsyncTable`, and what each is to a test."""


def main() -> None:
    """Wait for the word to go, then run the command with marks."""
    marks, go = int(sys.argv[1]), int(sys.argv[2])
    from lancedb.table import AsyncTable

    from proxy.cli.main import run
    from proxy.server import serve as _imported

    assert _imported is not None
    numbers = itertools.count(1)
    for method, kind in WORK.items():
        work = getattr(AsyncTable, method)
        setattr(AsyncTable, method, _marked(work, kind, marks, numbers))
    if not os.read(go, 1):
        return
    sys.argv = ["crossfade", *sys.argv[3:]]
    run()


def _marked(
    work: Callable[..., Awaitable[Any]], kind: str, marks: int, numbers: itertools.count[int]
) -> Callable[..., Awaitable[Any]]:
    async def marked(table: Any, *arguments: Any, **named: Any) -> Any:
        what = f"{next(numbers)} {kind} {table.name}\n"
        os.write(marks, f"+ {what}".encode())
        try:
            return await work(table, *arguments, **named)
        finally:
            os.write(marks, f"- {what}".encode())

    return marked


if __name__ == "__main__":
    main()
