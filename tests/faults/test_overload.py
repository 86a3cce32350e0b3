"""More load than there is capacity for: refused soon, served as before, and well again after."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.harness.overload import Arrivals, Offered
from tests.faults.harness.trial import Trial, weight
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
DEADLINE_S = 2.0
GROWTH_MB_MAX = 100
LONG_LEASE = {"lease_s": 20.0}
"""A busy machine costs nobody the lease: only the load is tried here."""
TRIES = 3
"""A machine that is busy with others is the bottleneck itself for a while: it is tried again."""


async def held_load(arrivals: Arrivals) -> tuple[float, Sequence[Offered], Offered]:
    """Offer 1, 1.5 and 3 times the capacity, then half of it; return capacity and what came."""

    async def served() -> bool:
        """A breaker that the worst of it has opened is closed again."""
        return bool((await arrivals.offer(10.0, for_s=0.3)).acknowledged_s)

    capacity = await arrivals.capacity(for_s=1.0, workers=8)
    held = [await arrivals.offer(share * capacity, for_s=2.5) for share in (1.0, 1.5, 3.0)]
    await until(served, what="a write is served again")
    return capacity, held, await arrivals.offer(0.5 * capacity, for_s=1.0)


def complaints(capacity: float, held: Sequence[Offered], again: Offered) -> list[str]:
    """Say what of the load was not answered as it should be."""
    found: list[str] = []
    for offered in (*held, again):
        if offered.goodput <= min(offered.rate, capacity) / 2:
            found.append(f"collapse: {offered}")
        if len(offered.failed_s) >= 0.25 * offered.calls:
            found.append(f"too much is given up, not refused: {offered}")
        if max(offered.acknowledged_s, default=0.0) >= 2.5 * DEADLINE_S:
            found.append(f"served too late: {offered}")
    if not held[-1].refused_s:
        found.append(f"what is too much is not refused: {held[-1]}")
    if len(again.acknowledged_s) <= 0.8 * again.calls:
        found.append(f"it is not well although the load has fallen: {again}")
    return found


async def test_past_capacity_calls_are_refused_soon_and_what_is_accepted_is_served(
    trial: Trial,
) -> None:
    """The store is the bottleneck, so that capacity does not hang on who else uses this machine."""
    relay = await trial.relay("old")
    trial.scene.overrides.update(
        {
            "old": {"pool_size_max": 4},
            "ledger": LONG_LEASE,
            "writes": {"primary_deadline_s": DEADLINE_S, "secondary_deadline_s": DEADLINE_S},
        }
    )
    await trial.begin()
    relay.delay_s = 0.03
    arrivals = Arrivals(trial.replica.client, timeout_s=3 * DEADLINE_S)
    await arrivals.capacity(for_s=0.5, workers=8)
    before_mb, _ = weight(trial.replica.process)
    for _ in range(TRIES):
        capacity, held, again = await held_load(arrivals)
        after_mb, _ = weight(trial.replica.process)
        print(
            f"capacity {capacity:.0f}/s, {before_mb:.0f} -> {after_mb:.0f} MB",
            *held,
            again,
            sep="\n",
        )
        wrong = complaints(capacity, held, again)
        if not wrong:
            break
    assert not wrong
    assert after_mb - before_mb < GROWTH_MB_MAX
    await trial.scene.quiet()
    await trial.pair.assert_equal()
    stored = await trial.pair.old.rows("documents")
    assert arrivals.acknowledged <= stored.keys()
