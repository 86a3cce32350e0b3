"""The `crossfade` command under cProfile, its imports left out.

Run: python -m tests.bench.profiled FILE COMMAND...  The profile begins with the work: for `serve`
with SIGUSR1, so that the start is left out too, else at once. It is written when the command ends.
"""

from __future__ import annotations

import cProfile
import importlib
import signal
import sys
import time

_IMPORTED = (
    "proxy.cli.main",
    "proxy.cli.local",
    "proxy.ledger.postgres",
    "proxy.server",
    "proxy.stores.postgres",
    "reconcile.jobs",
)


def main() -> None:
    """Run the command."""
    file = sys.argv.pop(1)
    for name in _IMPORTED:
        importlib.import_module(name)
    from proxy.cli.main import run

    profile = cProfile.Profile(time.thread_time)
    if sys.argv[1] == "serve":
        signal.signal(signal.SIGUSR1, lambda number, frame: profile.enable())
    else:
        profile.enable()
    try:
        run()
    finally:
        profile.disable()
        profile.dump_stats(file)


if __name__ == "__main__":
    main()
