"""Call one side of a dual write with a deadline, and turn its failures into data."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from proxy.dual_write.outcome import StoreAnswer
from proxy.errors import Ambiguous, Corrupt, CrossfadeError, Rejected, Unavailable
from proxy.model import Write
from proxy.stores.sides import Side

_GRACE_S = 0.25


async def apply_on(
    side: Side, writes: Sequence[Write], *, atomic: bool, deadline_s: float
) -> list[StoreAnswer]:
    """Apply writes on one side; an answer a write, never an exception but cancellation."""
    name = side.store.name
    if not side.breaker.allow():
        skipped = f"the {name} store keeps failing, its breaker is open"
        return [StoreAnswer(skipped=skipped)] * len(writes)
    atomic = atomic and side.store.capabilities.transactions
    try:
        # The adapter keeps the deadline itself; the outer one catches an adapter that hangs.
        async with asyncio.timeout(deadline_s + _GRACE_S):
            results = await side.store.apply(writes, atomic=atomic, deadline_s=deadline_s)
    except TimeoutError:
        side.breaker.failed()
        late = Ambiguous(
            f"The {name} store did not answer within {deadline_s:g} s.",
            where=name,
            timed_out=True,
            hint="Read the record to see whether the write was applied, or retry it.",
        )
        return [StoreAnswer(error=late)] * len(writes)
    except (Unavailable, Ambiguous, Corrupt) as error:
        side.breaker.failed()
        return [StoreAnswer(error=error)] * len(writes)
    except Rejected as error:
        side.breaker.succeeded()
        return [StoreAnswer(error=error)] * len(writes)
    except asyncio.CancelledError:
        side.breaker.abandoned()
        raise
    except Exception as error:  # noqa: BLE001  # a defect of one adapter must not lose the settle
        side.breaker.failed()
        defect = CrossfadeError(f"The {name} adapter failed: {type(error).__name__}: {error}")
        return [StoreAnswer(error=defect)] * len(writes)
    side.breaker.succeeded()
    return [StoreAnswer(result=result) for result in results]
