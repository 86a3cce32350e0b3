"""When a table is optimised and old versions are removed, by rule; done by its writer alone.

Small commits leave small files and deleted rows behind, which make reads slow. Optimising beside
writes fails nearly always, so the writer does it between two groups.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import timedelta
from math import sqrt
from typing import Final

from proxy.clock import Clock
from proxy.config.settings import LanceSettings
from proxy.stores.lancedb.errors import is_failure, is_foreign
from proxy.stores.lancedb.table import OpenTable

IDLE_S: Final = 0.25
"""A writer with nothing to do for so long looks whether a table is worth tidying."""

_SHARE: Final = 4.0
"""After an optimisation, at least so many times its duration belong to writes."""
_EARLY_PART: Final = 3
"""A third of the commits or rows of the rule is enough for a writer that has nothing to do, or has
not optimised for a while: searches should not have to wait for the rule."""
_EARLY_SHARE: Final = 20.0
"""That while, in durations of the last optimisation."""
_SHORT_S: Final = 0.3
"""No write minds to wait for so long."""
_QUIET_MAX_S: Final = 5.0
_PATIENCE: Final = 10.0
"""No run is put off for more than so many times the commits of the rule."""
_FIRST_S: Final = 2.0
_RETRY_S: Final = 30.0
_KEPT_RUNS: Final = 10
_KEEP_FLOOR_S: Final = 30.0
_KEEP_ALL: Final = timedelta(days=7)

_log = logging.getLogger(__name__)


class Upkeep:
    """Counts the commits of one table and optimises it when the rule says so."""

    def __init__(self, opened: OpenTable, settings: LanceSettings, clock: Clock) -> None:
        self.opened = opened
        self._settings = settings
        self._clock = clock
        self.commits = 0
        self.rows = 0
        self.failures = 0
        self._not_before_s = 0.0
        self._rests_until_s = 0.0
        self._early_s = clock.monotonic_s() + _FIRST_S
        self._took_s = 0.0
        self._runs_s: deque[float] = deque(maxlen=_KEPT_RUNS)

    def committed(self, commits: int, rows: int) -> None:
        """Note what was committed."""
        self.commits += commits
        self.rows += rows

    def rest(self, for_s: float) -> None:
        """Begin no run for so long."""
        self._rests_until_s = self._clock.monotonic_s() + for_s

    def due(self, *, idle_s: float) -> bool:
        """True if the table should be optimised now.

        Writes wait while it runs. So the longer the last run took, the longer nothing must have
        been written before, and the more commits it takes where writes keep coming: every call
        pays for each commit since the last run, so what they pay in all grows with the square of
        the commits, and the run is due when that is what it costs itself.

        Args:
            idle_s: for so long the writer has had nothing to do, 0 if it has.
        """
        now_s = self._clock.monotonic_s()
        if now_s < max(self._not_before_s, self._rests_until_s):
            return False
        quiet = idle_s > 0 and idle_s >= min(self._took_s, _QUIET_MAX_S)
        early = now_s >= self._early_s and self._took_s <= _SHORT_S
        share = 1 / _EARLY_PART
        if not quiet and not early:
            share = min(max(1.0, sqrt(self._took_s / _SHORT_S)), _PATIENCE)
        return (
            self.commits >= self._settings.optimize_commits * share
            or self.rows >= self._settings.optimize_rows * share
        )

    async def run(self) -> None:
        """Optimise the table; a failure is logged, and tried again later."""
        started_s = self._clock.monotonic_s()
        try:
            await self.optimize()
        except BaseException as error:
            if not is_failure(error):
                raise
            self.failures += 1
            self._not_before_s = self._clock.monotonic_s() + _RETRY_S
            trace = None if is_foreign(error) else error
            _log.warning("optimising %s failed: %r", self.opened.table.name, error, exc_info=trace)
            return
        self.commits = self.rows = 0
        ended_s = self._clock.monotonic_s()
        self._runs_s.append(ended_s)
        self._took_s = ended_s - started_s
        self._not_before_s = ended_s + _SHARE * self._took_s
        self._early_s = ended_s + _EARLY_SHARE * self._took_s + _FIRST_S

    async def optimize(self) -> None:
        """Merge small files, bring the indexes up to date, remove versions nobody reads."""
        # A page that is open reads an older version: what it reads stays until it is closed.
        keep = _KEEP_ALL if self.opened.held else timedelta(seconds=self.keep_s())
        await self.opened.handle.optimize(cleanup_older_than=keep)

    def keep_s(self) -> float:
        """Return how old a version may get.

        Each run rewrites the table, and looking through thousands of versions takes seconds. So
        under a load of writes that brings many runs, the versions of the last ten are kept.
        """
        limit_s = self._settings.keep_versions_s
        if len(self._runs_s) < _KEPT_RUNS:
            return limit_s
        age_s = self._clock.monotonic_s() - self._runs_s[0]
        return min(limit_s, max(_KEEP_FLOOR_S, age_s))
