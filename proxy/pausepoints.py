"""The named points of a write and of a switch at which a test can stop a process or kill it.

The reconciler's are in `reconcile.snapshot.Step`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum


class PausePoint(Enum):
    """Where a write, an acknowledgement or a change of routing is, by what comes next."""

    AFTER_ADMISSION = "write: admitted, its keys not locked yet"
    BEFORE_INTENT_APPEND = "write: keys locked, nothing durable yet"
    AFTER_INTENT_APPEND = "write: its intents are durable, if the phase needs any"
    AFTER_PRIMARY_WRITE = "write: the primary has answered or failed"
    AFTER_SECONDARY_WRITE = "write: the secondary has answered or failed"
    BEFORE_SETTLE = "write: both stores have, it is not settled"
    BEFORE_ACKNOWLEDGE = "member: nothing of an earlier epoch is left, not told yet"
    BEFORE_HOLD = "swap: nothing dirty was left, writes go on"
    AFTER_HOLD = "swap: writes are held"
    BEFORE_SWAP = "swap: every replica has stopped writing"
    AFTER_SWAP = "swap: the roles have changed"
    BEFORE_RELEASE = "swap: given up, writes are still held"
    AFTER_STEP = "phase: a step is in force, not everybody follows yet"


Reach = Callable[[PausePoint], Awaitable[None]]
"""Called at each point; it returns when the process may go on."""


async def pass_by(point: PausePoint) -> None:
    """Go on at once."""
