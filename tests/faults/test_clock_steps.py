"""The wall clock of a proxy is stepped, far and back: order, leases and repair do not go by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from crossfade.client.control_types import JobKind

from tests.faults.harness.trial import Trial

pytestmark = pytest.mark.faults
STEPPED = "tests.faults.harness.stepped"
HOUR_S = 3600.0
LEASE_S = 15.0
"""Longer than a busy machine may stop a process for: only a stepped clock could end it."""


async def test_hours_forward_and_days_back_lose_nothing_and_cost_no_lease(
    trial: Trial, tmp_path: Path
) -> None:
    off = tmp_path / "off"
    off.write_text("0")
    trial.scene.overrides["ledger"] = {"lease_s": LEASE_S}
    trial.module, trial.before = STEPPED, [str(off)]
    await trial.begin()
    async with trial.under_load():
        for step_s in (6 * HOUR_S, -72 * HOUR_S, 0.0):
            off.write_text(str(step_s))
            await trial.more(30)
    assert "lease was lost" not in trial.tails(), "no lease goes by the wall clock"
    await trial.ends_well()
    verified = await trial.scene.job(trial.replica, JobKind.VERIFY)
    assert verified.summary["clean"], verified.summary
