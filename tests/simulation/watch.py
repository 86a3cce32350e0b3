"""The checkers that look while a run goes on: at every landing in a store or in the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.control.evidence import flag_number
from proxy.ledger.memory import MemoryLedger
from proxy.ledger.memory_state import MemoryState
from proxy.ledger.types import JobKind, JobState, Phase, Routing
from proxy.model import Key
from proxy.stores.memory import MemoryStore
from tests.simulation.checkers import CHECKERS, Finding
from tests.simulation.schema import COLLECTION

FILLED = frozenset({Phase.SHADOW, Phase.RAMP, Phase.NEW_PRIMARY})
"""In these phases the secondary holds everything that is not dirty or in flight."""
FOUND_MAX = 5


def contents(store: MemoryStore) -> dict[Key, str]:
    """Return the bodies that a store holds, by key."""
    records = store._tables[COLLECTION].records
    return {key: f"{record.fields.get('body')}" for key, record in records.items()}


def filled(state: MemoryState) -> bool:
    """True if the secondary must hold everything that is not dirty or in flight."""
    phase = state.routing.phase
    if phase in FILLED:
        return True
    since = flag_number(state.flags, "dual_write", "epoch")
    return phase is Phase.DUAL_WRITE and any(
        job.kind is JobKind.BACKFILL and job.state is JobState.DONE and job.epoch >= since
        for job in state.jobs.values()
    )


class VerifyWatch:
    """Notes which verifies began when nothing could differ but what was being written."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._state = ledger.state
        self._sound: dict[int, bool] = {}

    def look(self) -> None:
        """Note a verify that is new."""
        for number, job in self._state.jobs.items():
            if job.kind is JobKind.VERIFY and number not in self._sound:
                self._sound[number] = filled(self._state)

    def declared(self) -> dict[Key, str]:
        """Return what such verifies have declared."""
        return {
            item.key: item.kind
            for number, sound in self._sound.items()
            if sound
            for item in self._state.differences[number].values()
        }


class FenceWatch:
    """A key whose two stores differ is dirty or in flight, or a read could see the wrong side."""

    name = "a differing key is fenced"

    def __init__(self, stores: dict[str, MemoryStore], ledger: MemoryLedger) -> None:
        self._stores = stores
        self._state = ledger.state
        self._told: set[Key] = set()

    def look(self) -> Iterator[str]:
        """Yield keys that differ silently, each once."""
        if not filled(self._state):
            return
        old, new = contents(self._stores["old"]), contents(self._stores["new"])
        if old == new:
            return
        busy = {item.key for item in self._state.intents.values() if item.settled_xid is None}
        busy |= {key for _, key in self._state.dirty}
        for key in {**old, **new}:
            if old.get(key) != new.get(key) and key not in busy and key not in self._told:
                self._told.add(key)
                at_s = self._state.clock.monotonic_s()
                yield (
                    f"{key[0]} is {old.get(key)!r} in old and {new.get(key)!r} in new, unmarked,"
                    f" at {at_s:.3f}"
                )


class StepWatch:
    """No step is taken while its precondition is false, judged by the truth and not by evidence."""

    name = "no step without its precondition"

    def __init__(self, stores: dict[str, MemoryStore], ledger: MemoryLedger) -> None:
        self._stores = stores
        self._state = ledger.state
        self._before: Routing = ledger.state.routing

    def begin(self) -> None:
        """Take the routing of now for given."""
        self._before = self._state.routing

    def look(self) -> Iterator[str]:
        """Judge a change of routing that has just landed."""
        before, now = self._before, self._state.routing
        if now is before:
            return
        self._before = now
        if now.primary != before.primary:
            yield from self._swapped(before, now)
        elif now.phase is not before.phase:
            yield from self._stepped(before, now)

    def _swapped(self, before: Routing, now: Routing) -> Iterator[str]:
        what = f"the swap to {now.primary} (epoch {now.epoch})"
        open_intents = sum(item.settled_xid is None for item in self._state.intents.values())
        if not before.hold:
            yield f"{what} was made without holding writes"
        if open_intents or self._state.dirty:
            yield f"{what}: {open_intents} unsettled, {len(self._state.dirty)} dirty"
        if contents(self._stores["old"]) != contents(self._stores["new"]):
            yield f"{what}: the stores differ"
        yield from self._behind(what, before.epoch)

    def _behind(self, what: str, epoch: int) -> Iterator[str]:
        for item in self._state.replicas.values():
            if self._state.alive(item) and item.acked_epoch < epoch and not item.clean_exit:
                joined = self._state.clock.now() - item.started_at
                if joined.total_seconds() > 1.0:
                    yield f"{what}: {item.replica_id} is at epoch {item.acked_epoch}"

    def _stepped(self, before: Routing, now: Routing) -> Iterator[str]:
        order = list(Phase)
        if order.index(now.phase) < order.index(before.phase):
            return
        what = f"the step to {now.phase.value} (epoch {now.epoch})"
        if now.phase is Phase.DUAL_WRITE:
            return
        flags = self._state.flags
        since = max(flag_number(flags, name, "epoch") for name in ("dual_write", "swap"))
        filled = [
            job
            for job in self._state.jobs.values()
            if job.kind is JobKind.BACKFILL
            and job.state is JobState.DONE
            and job.epoch >= flag_number(flags, "dual_write", "epoch")
        ]
        if not filled and now.phase is not Phase.NEW_ONLY:
            yield f"{what}: no backfill of this period is done"
        verified = flags.get("last_verify")
        if not isinstance(verified, dict) or verified.get("clean") is not True:
            yield f"{what}: the last verify was not clean"
        if flag_number(flags, "last_verify", "epoch") < since:
            yield f"{what}: the last verify is of another period"
        if self._state.letters:
            yield f"{what}: {len(self._state.letters)} dead letters"


EVERY_CHECKER = (FenceWatch.name, StepWatch.name, *(checker.name for checker in CHECKERS))


class Watch:
    """Looks with every watcher, and keeps what they found."""

    def __init__(self, stores: dict[str, MemoryStore], ledger: MemoryLedger) -> None:
        self._watchers = (FenceWatch(stores, ledger), StepWatch(stores, ledger))
        self._verifies = VerifyWatch(ledger)
        self._watching = True
        self.findings: list[Finding] = []

    def begin(self) -> None:
        """Take the routing of now for given."""
        self._watchers[1].begin()

    def declared_live(self) -> dict[Key, str]:
        """Return what verify has declared while nothing was damaged."""
        return self._verifies.declared()

    def ignore(self) -> None:
        """The stores are being damaged on purpose from now on."""
        self._watching = False

    def look(self) -> None:
        """Look now."""
        if not self._watching:
            return
        self._verifies.look()
        for watcher in self._watchers:
            for text in watcher.look():
                if len(self.findings) < FOUND_MAX:
                    self.findings.append(Finding(checker=watcher.name, text=text))
