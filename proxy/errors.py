"""Every error Crossfade raises, under one root: what was wrong, where, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Reason(Enum):
    """Machine-readable reason of a rejection; a front turns it into a status code."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that was wrong with a request or a configuration.

    Attributes:
        where: field path ("record.fields.token_count") or "file:line" of a configuration.
        expected: what would have been accepted.
        got: what came, shortened.
    """

    where: str
    expected: str
    got: str = ""

    def __str__(self) -> str:
        came = f", got {self.got}" if self.got else ""
        return f"{self.where}: expected {self.expected}{came}"


class CrossfadeError(Exception):
    """The root. `str(error)` is one sentence for a person; `hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Rejected(CrossfadeError):
    """The caller's fault; a retry of the same request cannot succeed. Nothing was changed."""

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.INVALID_ARGUMENT,
        violations: tuple[Violation, ...] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.violations = violations


class RolledBack(Rejected):
    """A write of an atomic batch that was undone because another write of the batch failed."""


class Unavailable(CrossfadeError):
    """Not applied, or not answered; the same request may be retried.

    `where` names the part that is down: "old", "new", "ledger", "proxy".
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.where = where


class Ambiguous(CrossfadeError):
    """The write may have been applied: a timeout or a lost connection after it was sent.

    `timed_out` tells a front to answer DEADLINE_EXCEEDED instead of UNAVAILABLE.
    """

    def __init__(
        self, message: str, *, where: str = "", timed_out: bool = False, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.where = where
        self.timed_out = timed_out


class Corrupt(CrossfadeError):
    """Stored data breaks an invariant: wrong ledger schema, a row that cannot be decoded."""


class StoreTaken(Unavailable):
    """Another process writes the store, and one alone may: waiting helps only once it has ended."""


class StaleEpoch(Unavailable):
    """The ledger refused an intent: the routing moved on. Refresh it and try again."""


class LeaseLost(Unavailable):
    """This replica's lease ran out; it must renew it before it may write."""


class ConfigInvalid(CrossfadeError):
    """A configuration with every problem found in it, each with file and line."""

    def __init__(self, message: str, violations: tuple[Violation, ...]) -> None:
        lines = "\n".join(f"  {violation}" for violation in violations)
        super().__init__(f"{message}\n{lines}" if lines else message)
        self.violations = violations


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProblem:
    """One reason why a store cannot serve its layout: a missing table, column or extension."""

    store: str
    what: str
    hint: str = field(default="")

    def __str__(self) -> str:
        return f"{self.store}: {self.what}" + (f" ({self.hint})" if self.hint else "")
