"""Which replicas may still act on an earlier routing, and which of them are given up."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.ledger.types import Replica

LOST_AFTER_S = 60.0
"""A process that still runs would be known so long after its lease."""


def unbound(replica: Replica) -> bool:
    """True if its lease says nothing about it.

    It may write to the primary alone, without the ledger (rule W6), and has not exited cleanly.
    """
    return replica.ledger_down == "primary_alone" and not replica.clean_exit


def behind(replicas: Sequence[Replica], epoch: int) -> list[Replica]:
    """Return the replicas that may still act on a routing before this epoch."""
    return [item for item in replicas if item.acked_epoch < epoch and (item.alive or unbound(item))]


def lost(replicas: Sequence[Replica]) -> list[Replica]:
    """Return the dead replicas that may have written without the ledger, and will not come back."""
    return [
        item
        for item in replicas
        if not item.alive and unbound(item) and item.lease_left_s <= -LOST_AFTER_S
    ]
