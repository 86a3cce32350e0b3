"""What the outcome of one write means for the batch it came in."""

from __future__ import annotations

from proxy.model import Applied, Write, WriteOp, WriteResult


def failed(write: Write, result: WriteResult) -> bool:
    """True if this outcome undoes an atomic batch: a delete of nothing does not."""
    nothing = result.applied is Applied.NOT_FOUND and write.op is WriteOp.DELETE
    return result.applied is not Applied.DONE and not nothing


def undone(count: int, culprit: int, result: WriteResult) -> list[WriteResult]:
    """Return the results of an atomic batch that one write undid."""
    rolled_back = WriteResult(applied=Applied.ROLLED_BACK)
    return [result if number == culprit else rolled_back for number in range(count)]
