"""One key of a migration, immutable: two stores, the ledger, writers, a copier, a swap."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

Value = int
"""What a store holds for the key: 0 is "no record"."""

BEFORE: Value = 9
"""What the old store held before the migration began."""


class At(Enum):
    """Where a writer is."""

    IDLE = "idle"
    NUMBERED = "numbered"
    """Its intent has a number and is not committed: nobody else sees it."""
    APPENDED = "appended"
    """Its intent is visible; its store calls may begin."""
    ENDED = "ended"
    """Settled, or gone."""


class Call(Enum):
    """One store call of a writer."""

    DUE = "due"
    DONE = "done"
    FAILED = "failed"
    """Not applied."""
    UNKNOWN = "unknown"
    """Applied, and the answer was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """One live write of one replica.

    Attributes:
        value: what it writes; 0 deletes.
        number: place in sequence order, 0 until it has one.
        primary: the store that was primary when it was admitted.
        calls: on store 0 and on store 1.
        settled: its intent is closed, by itself or by whoever took it over.
        before: writers that were settled, visibly, when this one was numbered.
        taken: somebody settled it as dirty after its lease had run out.
        dead: its process was killed.
    """

    value: Value
    at: At = At.IDLE
    number: int = 0
    primary: int = 0
    calls: tuple[Call, Call] = (Call.DUE, Call.DUE)
    settled: bool = False
    before: frozenset[int] = frozenset()
    taken: bool = False
    dead: bool = False

    @property
    def visible(self) -> bool:
        """True if its intent is committed."""
        return self.at is At.APPENDED or self.settled

    @property
    def open(self) -> bool:
        """True if its intent is committed and not settled."""
        return self.at is At.APPENDED and not self.settled


class Step(Enum):
    """Where the copier is."""

    IDLE = "idle"
    SNAPSHOT = "snapshot"
    READ = "read"
    WRITTEN = "written"


class Mark(Enum):
    """A dirty mark, as the copy under way sees it."""

    SEEN = "seen"
    """Its snapshot sees the mark (or no copy is under way)."""
    LATER = "later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copier:
    """One copy of the key: backfill while the range is open, repair afterwards.

    Attributes:
        seen: writers whose intents its snapshot sees.
        highest: the highest number given out, as intents of other keys show it (what an order by
            sequence would go by).
        left_out: the key was in flight in the snapshot.
        held: the value read.
    """

    step: Step = Step.IDLE
    seen: frozenset[int] = frozenset()
    highest: int = 0
    left_out: bool = False
    held: Value = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything.

    Attributes:
        stores: the value on store 0 (old) and store 1 (new).
        primary: which one's answer is the truth.
        truth: what the writes applied on the primary, in their order there, have made of the key.
        marks: dirty marks on the key; any makes it dirty.
        open: the key's range is not backfilled yet.
        held: writes are held for a swap.
        numbers: how many intents were numbered.
        copies, swaps: how many may still begin.
        failures: how many store calls may still fail or lose their answer.
    """

    stores: tuple[Value, Value] = (BEFORE, 0)
    primary: int = 0
    truth: Value = BEFORE
    writers: tuple[Writer, ...] = ()
    copier: Copier = Copier()
    marks: frozenset[Mark] = frozenset()
    open: bool = True
    held: bool = False
    numbers: int = 0
    copies: int = 0
    swaps: int = 0
    failures: int = 0

    @property
    def fenced(self) -> bool:
        """True if a read of the key goes to the primary, whatever the traffic percentage."""
        return self.open or bool(self.marks) or any(writer.open for writer in self.writers)
