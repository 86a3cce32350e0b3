"""More load than there is capacity for: refused soon, served as before, and well again after."""

from __future__ import annotations

import pytest

from tests.faults.harness.overload import Arrivals
from tests.faults.harness.trial import Trial, weight
from tests.faults.harness.waiting import until

pytestmark = pytest.mark.faults
DEADLINE_S = 2.0
GROWTH_MB_MAX = 100
ENOUGH = 60.0
"""Writes a second, half of what the store can take: with less this machine is the bottleneck."""
PATIENCE = 20
"""Seconds in which it may get over what keeps it busy."""
LONG_LEASE = {"lease_s": 20.0}
"""A busy machine costs nobody the lease: only the load is tried here."""


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
    for _ in range(PATIENCE):
        capacity = await arrivals.capacity(for_s=1.0, workers=8)
        if capacity > ENOUGH:
            break
    before_mb, _ = weight(trial.replica.process)
    held = [await arrivals.offer(share * capacity, for_s=2.5) for share in (1.0, 1.5, 3.0)]
    after_mb, _ = weight(trial.replica.process)

    async def served() -> bool:
        """A breaker that the worst of it has opened is closed again."""
        return bool((await arrivals.offer(10.0, for_s=0.3)).acknowledged_s)

    await until(served, what="a write is served again")
    again = await arrivals.offer(0.5 * capacity, for_s=1.0)
    print(
        f"capacity {capacity:.0f}/s, {before_mb:.0f} -> {after_mb:.0f} MB", *held, again, sep="\n"
    )

    for offered in (*held, again):
        assert offered.goodput > min(offered.rate, capacity) / 2, "no collapse"
        assert len(offered.failed_s) < 0.25 * offered.calls, "too much is refused, not given up"
        assert max(offered.acknowledged_s) < 2.5 * DEADLINE_S
    assert held[-1].refused_s, "what is too much is refused"
    assert after_mb - before_mb < GROWTH_MB_MAX
    assert len(again.acknowledged_s) > 0.8 * again.calls, "the load has fallen"
    await trial.scene.quiet()
    await trial.pair.assert_equal()
    stored = await trial.pair.old.rows("documents")
    assert arrivals.acknowledged <= stored.keys()
