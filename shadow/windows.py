"""What one replica has counted so far, window by window, until the ledger has it."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field

from shadow.stats import GroupKey, GroupStats, Stats

WINDOWS_MAX = 48
"""Windows kept while the ledger is down: two days of one epoch."""


def window_name(epoch: int, at: dt.datetime) -> str:
    """Return the name of the hour that `at` lies in, such as "epoch-3:20260131T14Z"."""
    return f"epoch-{epoch}:{at.astimezone(dt.UTC):%Y%m%dT%HZ}"


@dataclass(slots=True, kw_only=True)
class Window:
    """The counts of one window. Cheap to count into; `stats` adds it all up.

    `pending` readings of it still wait or run: it must not be forgotten before they end.
    """

    observed: int = 0
    sampled: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    groups: dict[GroupKey, GroupStats] = field(default_factory=dict)
    since: str = ""
    until: str = ""
    pending: int = 0
    changed: bool = False

    def seen(self, at: str, *, sampled: bool) -> None:
        """Count a read that was served."""
        self.observed += 1
        self.sampled += sampled
        self.since = self.since or at
        self.until = at
        self.changed = True

    def drop(self, reason: str) -> None:
        """Count a sampled read that will not be compared."""
        self.dropped[reason] += 1
        self.changed = True

    def add(self, key: GroupKey, group: GroupStats) -> None:
        """Count the outcome of a query."""
        self.groups[key] = self.groups[key] + group if key in self.groups else group
        self.changed = True


class Windows:
    """The windows of one replica, oldest first; at most WINDOWS_MAX that nothing waits for."""

    def __init__(self, replica_id: str) -> None:
        self._replica_id = replica_id
        self._windows: dict[str, Window] = {}

    def of(self, name: str) -> Window:
        """Return a window, new or known. The oldest one gives way when there are too many."""
        window = self._windows.get(name)
        if window is None:
            self._make_room()
            window = self._windows[name] = Window()
        return window

    def _make_room(self) -> None:
        idle = [name for name, window in self._windows.items() if not window.pending]
        if len(self._windows) >= WINDOWS_MAX and idle:
            del self._windows[idle[0]]

    def changed(self) -> list[tuple[str, Stats]]:
        """Return the windows that were counted into since they were taken, as statistics."""
        taken: list[tuple[str, Stats]] = []
        for name, window in self._windows.items():
            if window.changed:
                window.changed = False
                taken.append((name, self._stats(name, window)))
        return taken

    def not_stored(self, name: str) -> None:
        """Offer a window again: the ledger did not take it."""
        if name in self._windows:
            self._windows[name].changed = True

    def forget_stored(self, current: str) -> None:
        """Forget windows that are over and stored."""
        over = [
            name for name, window in self._windows.items() if name != current and not window.changed
        ]
        for name in over[:-2]:  # a late comparison may still end in one that is just over
            del self._windows[name]

    def total(self) -> Stats:
        """Return everything held now, merged."""
        total = Stats()
        for name, window in self._windows.items():
            total += self._stats(name, window)
        return total

    def _stats(self, name: str, window: Window) -> Stats:
        return Stats(
            observed=window.observed,
            sampled=window.sampled,
            dropped=dict(window.dropped),
            since=window.since,
            until=window.until,
            replicas=frozenset({self._replica_id}),
            windows=frozenset({name}),
            groups=dict(window.groups),
        )
