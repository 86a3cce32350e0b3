"""A `crossfade` process whose wall clock a test can step, as an operator or a bad NTP server does.

Run: python -m tests.faults.harness.stepped FILE COMMAND...  FILE holds the seconds that the wall
clock is off by; it is read each time somebody asks for the time. The monotonic clock is the
machine's, as it is when a real clock is stepped.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

from proxy.clock import SystemClock


class SteppedClock(SystemClock):
    """The machine's clocks, the wall clock off by what the file says."""

    path: Path

    def now(self) -> dt.datetime:
        """See Clock."""
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=off_s(self.path))


def off_s(path: Path) -> float:
    """Return by how much the wall clock is off."""
    return float(path.read_text(encoding="utf-8") or 0)


def main() -> None:
    """Run the command under a clock that the file steps."""
    path = Path(sys.argv[1])

    class Clock(SteppedClock):
        pass

    Clock.path = path
    import proxy.server.housekeeping
    import proxy.server.serve
    from proxy.cli.main import run

    for module in (proxy.server.serve, proxy.server.housekeeping):
        vars(module)["SystemClock"] = Clock
    sys.argv = ["crossfade", *sys.argv[2:]]
    run()


if __name__ == "__main__":
    main()
