"""What the clients of a run asked and were told, with times: the ground that checkers judge by."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from proxy.model import Key


class Outcome(Enum):
    """How a write ended for its client."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(slots=True, kw_only=True)
class Written:
    """One write of one key.

    Attributes:
        body: what it stores, unique in the run; None: a delete.
        began_s, ended_s: when it was sent, and when its outcome was known.
        latest_s: after this it cannot land any more.
        replica: which one was asked.
    """

    number: int
    key: Key
    op: str
    body: str | None
    began_s: float
    replica: str
    ended_s: float = float("inf")
    latest_s: float = float("inf")
    outcome: Outcome = Outcome.UNKNOWN
    existed: bool | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One key as one read gave it. `body` None: it was not there."""

    key: Key
    body: str | None
    began_s: float
    ended_s: float
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One answer of the traffic flag."""

    targeting_key: str
    percent: float
    new: bool
    replica: str


@dataclass(slots=True)
class History:
    """Everything of one run. `initial`: the bodies that were there before it began."""

    initial: dict[Key, str] = field(default_factory=dict)
    writes: list[Written] = field(default_factory=list)
    reads: list[Seen] = field(default_factory=list)
    choices: list[Chosen] = field(default_factory=list)

    def of(self, key: Key) -> list[Written]:
        """Return the writes of a key, oldest first."""
        return [item for item in self.writes if item.key == key]
