"""A job that could only fail is refused when it is asked for."""

from __future__ import annotations

import pytest

from proxy.config.settings import ReconcileSettings
from proxy.errors import Reason, Rejected
from proxy.ledger.types import JobKind
from reconcile.jobs import Reconciler
from tests.rig import replica
from tests.unit.proxy.control import control


async def test_a_job_with_wrong_parameters_is_refused_and_not_left_for_a_runner() -> None:
    async with replica() as rig:
        reconciler = Reconciler(rig.stores, rig.ledger, ReconcileSettings(), owner="runner")
        operator = control(rig, check_job=reconciler.check)
        for wrong in ({"nonsense": True}, {"workers": 0}, {"collections": ["nobody"]}):
            with pytest.raises(Rejected) as caught:
                await operator.start_job(JobKind.VERIFY, wrong, actor="me")
            assert caught.value.reason is Reason.INVALID_ARGUMENT
            assert caught.value.violations
        assert await operator.jobs() == []
        started = await operator.start_job(JobKind.VERIFY, {"workers": 1}, actor="me")
        assert [job.job_id for job in await operator.jobs()] == [started.job_id]
