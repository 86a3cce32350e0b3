"""One request's writes, and the answer that its client waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.dataplane import BatchItem, RequestContext
from proxy.dual_write.attempt import Item, answer
from proxy.dual_write.making import Made
from proxy.dual_write.resolve import request_digest
from proxy.errors import Unavailable
from proxy.ledger.base import IntentLog
from proxy.model import Write


@dataclass(slots=True, kw_only=True)
class Submission:
    """Writes of one request, and the answer that its client waits for.

    Attributes:
        ends_at_s: when the client's time is over, by the loop's clock.
        items: of the attempt under way, those that could not be resolved included.
        begun: step 3 has begun, so that the writes run to their end.
        given_up: the client no longer waits.
        made: the vectors made of its texts so far.
    """

    writes: Sequence[Write]
    atomic: bool
    context: RequestContext
    idempotency_keys: Sequence[str]
    answered: asyncio.Future[list[BatchItem]]
    ends_at_s: float
    items: Sequence[Item] = ()
    begun: bool = False
    given_up: bool = False
    made: Made = field(default_factory=Made)


def answer_early(submission: Submission) -> None:
    """Answer by the primary while the secondary is behind: ack policy `primary` (W4), or W3."""
    if not submission.answered.done():
        submission.answered.set_result([answer(item, dual=True) for item in submission.items])


async def answered_before(ledger: IntentLog, submission: Submission) -> bool:
    """True if an earlier try of each write was answered: this one only repeats the answers (W7)."""
    if not all(submission.idempotency_keys):
        return False
    for key, write in zip(submission.idempotency_keys, submission.writes, strict=True):
        # A new batch ends here at once: what is admitted keeps the next epoch waiting.
        if await ledger.answered(key, request_digest(write)) is None:
            return False
    return True


def dropped() -> Unavailable:
    """Return the error of a client that gave up before its write began."""
    return Unavailable(
        "The client's time was over before its write began; nothing was written.",
        where="proxy",
        hint="Retry, or give it more time.",
    )


def item_keys(idempotency_key: str, count: int) -> list[str]:
    """Return an idempotency key for each write of a request, "" for each if it has none."""
    return [f"{idempotency_key}#{n}" if idempotency_key else "" for n in range(count)]
