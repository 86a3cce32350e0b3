"""Judge what two stores did with one write: what the client hears, and whether the key is clean."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.errors import Corrupt, CrossfadeError, Reason, Rejected, RolledBack, Unavailable
from proxy.model import Applied, Write, WriteOp, WriteResult, encode_key

_REASONS = {
    Applied.EXISTS: Reason.ALREADY_EXISTS,
    Applied.NOT_FOUND: Reason.NOT_FOUND,
    Applied.PARENT_MISSING: Reason.FAILED_PRECONDITION,
    Applied.HAS_CHILDREN: Reason.FAILED_PRECONDITION,
    Applied.REFUSED: Reason.INVALID_ARGUMENT,
    Applied.ROLLED_BACK: Reason.FAILED_PRECONDITION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAnswer:
    """What one store said: a result, or the error that kept it from saying one.

    `skipped` says why the store was not asked (its breaker is open, it cannot hold the record).
    """

    result: WriteResult | None = None
    error: CrossfadeError | None = None
    skipped: str = ""

    def changed(self, op: WriteOp) -> bool:
        """True if the store now holds what the write asked for."""
        if self.result is None:
            return False
        gone = op is WriteOp.DELETE and self.result.applied is Applied.NOT_FOUND
        return gone or self.result.applied is Applied.DONE

    @property
    def uncertain(self) -> bool:
        """True if the write may still land: it was sent, and nobody knows how it ended."""
        known = isinstance(self.error, Unavailable | Rejected | Corrupt)
        return self.error is not None and not known


def dirty_reason(op: WriteOp, primary: StoreAnswer, secondary: StoreAnswer) -> str:
    """Return why the key is dirty, "" if both stores certainly did the same (step 5)."""
    if primary.error is not None:
        return f"primary: {primary.error.message}"
    if secondary.error is not None:
        return f"secondary: {secondary.error.message}"
    if secondary.skipped:
        return f"secondary: {secondary.skipped}"
    if primary.result is None or secondary.result is None:
        return "the write was interrupted before both stores answered"
    if primary.changed(op) == secondary.changed(op):
        return ""
    ours, theirs = primary.result.applied.value, secondary.result.applied.value
    return f"primary: {ours}, secondary: {theirs} {secondary.result.detail}".strip()


def refusal(write: Write, result: WriteResult) -> CrossfadeError | None:
    """Return the error a client gets for a result of the primary, None if the write succeeded."""
    if result.applied is Applied.DONE:
        return None
    if write.op is WriteOp.DELETE and result.applied is Applied.NOT_FOUND:
        return None
    name = f"{write.collection} {encode_key(write.key)}"
    if result.applied is Applied.CHANGED:
        return Unavailable(
            f"{name} keeps changing under this write; nothing was written.",
            where="proxy",
            hint="Retry.",
        )
    messages = {
        Applied.EXISTS: f"{name} exists already.",
        Applied.NOT_FOUND: f"{name} does not exist.",
        Applied.PARENT_MISSING: f"The parent of {name} does not exist.",
        Applied.HAS_CHILDREN: f"{name} still has children.",
        Applied.REFUSED: f"The store refused {name}.",
        Applied.ROLLED_BACK: f"{name} was not written: another write of its batch failed.",
    }
    hints = {
        Applied.EXISTS: "Use Upsert to replace it.",
        Applied.NOT_FOUND: "Use Upsert or Insert to create it.",
        Applied.PARENT_MISSING: "Write the parent first.",
        Applied.HAS_CHILDREN: "Somebody keeps adding children; try again.",
    }
    text = messages[result.applied] + (f" {result.detail}" if result.detail else "")
    made = RolledBack if result.applied is Applied.ROLLED_BACK else Rejected
    return made(text, reason=_REASONS[result.applied], hint=hints.get(result.applied, ""))


def refused_if_skipped(told: StoreAnswer, target: str) -> StoreAnswer:
    """Return the answer of a primary: one that was not asked refuses the write."""
    if not told.skipped:
        return told
    return StoreAnswer(
        error=Unavailable(
            f"The {target} store keeps failing; writes are refused until it answers.",
            where=target,
            hint="Retry with backoff.",
        )
    )


def unproven(error: CrossfadeError, target: str) -> Unavailable:
    """Return the error of an insert that found a record whose writer cannot be told."""
    return Unavailable(
        f"The record exists, and whose it is cannot be read: {error.message}",
        where=target,
        hint="Retry with the same idempotency key.",
    )
