"""The preconditions of each phase step, judged from evidence (pure)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.control.evidence import Evidence, flag_number, flag_time
from proxy.controlplane import Precondition
from proxy.ledger.types import Phase
from proxy.routing.phases import Step
from proxy.routing.replicas import behind, unbound


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """The limits that conditions compare with."""

    dirty_reads_max: int
    dirty_swap_max: int


Condition = Callable[[Evidence, JudgeSettings], Precondition]


def conditions(step: Step, evidence: Evidence, settings: JudgeSettings) -> list[Precondition]:
    """Return every condition of a step, checked, in the order an operator would look."""
    return [check(evidence, settings) for check in _checks(step)] + (
        list(evidence.gate)
        if step.target in (Phase.RAMP, Phase.NEW_PRIMARY) and step.forward
        else []
    )


def traffic_conditions(
    evidence: Evidence, settings: JudgeSettings, *, percent: float
) -> list[Precondition]:
    """Return the conditions of a traffic command; lowering the percentage has one only."""
    checks = [_phase_takes_traffic(evidence)]
    if percent > evidence.routing.percent:
        checks += [check(evidence, settings) for check in (_stores_healthy, _few_dirty, _indexes)]
        checks += list(evidence.gate)
    return checks


def _checks(step: Step) -> Sequence[Condition]:
    if not step.forward:
        return (_stores_healthy, _replicas_follow, _few_dirty) if step.swap else (_replicas_follow,)
    filled = (_stores_healthy, _replicas_follow, _backfilled, _verified, _no_letters, _indexes)
    return {
        Phase.DUAL_WRITE: (_stores_healthy, _schemas_match, _replicas_follow),
        Phase.SHADOW: (*filled, _few_dirty),
        Phase.RAMP: (*filled, _few_dirty),
        Phase.NEW_PRIMARY: (*filled, _few_dirty, _all_traffic),
        Phase.NEW_ONLY: (_stores_healthy, _replicas_follow, _verified, _no_letters, _none_dirty),
    }[step.target]


def _judged(name: str, problem: str, fine: str, remedy: str) -> Precondition:
    """A condition holds if there is no problem to tell."""
    return Precondition(
        name=name,
        passed=not problem,
        detail=problem or fine,
        remedy=remedy if problem else "",
    )


def _stores_healthy(evidence: Evidence, _: JudgeSettings) -> Precondition:
    sick = [item for item in evidence.health if not item.healthy or item.breaker == "open"]
    return _judged(
        "stores healthy",
        "; ".join(f"{item.name}: {item.detail or 'breaker ' + item.breaker}" for item in sick),
        "both stores answer",
        "Bring the store back; the writes it missed are repaired.",
    )


def _schemas_match(evidence: Evidence, _: JudgeSettings) -> Precondition:
    return _judged(
        "schemas match the layouts",
        "; ".join(str(item) for item in evidence.problems),
        "every table and column is there",
        "Create what is missing in the store, or correct the layout.",
    )


def _replicas_follow(evidence: Evidence, _: JudgeSettings) -> Precondition:
    late = behind(evidence.replicas, evidence.routing.epoch)
    return _judged(
        "replicas follow",
        "; ".join(f"{item.replica_id} is at epoch {item.acked_epoch}" for item in late),
        f"every replica has acknowledged epoch {evidence.routing.epoch}",
        "Wait for them, or stop them; a dead one is out once its lease has run out. One that may"
        " write without the ledger (primary_alone) and was killed is out after a phase step with"
        " --force, a minute after its lease at the earliest; a full verify is needed then.",
    )


def _backfilled(evidence: Evidence, _: JudgeSettings) -> Precondition:
    job = evidence.backfill
    return _judged(
        "backfill complete",
        "" if job else "no finished backfill since dual_write began",
        f"job {job.job_id} is done" if job else "",
        "Run `crossfade backfill`.",
    )


def _verified(evidence: Evidence, _: JudgeSettings) -> Precondition:
    at = flag_time(evidence.flags, "last_verify")
    return _judged(
        "verified",
        _verify_problem(evidence, at),
        f"the full verify of {at:%Y-%m-%d %H:%M:%S} UTC found no difference" if at else "",
        "Run `crossfade verify`; if it finds something, repair it and verify again.",
    )


def _verify_problem(evidence: Evidence, at: dt.datetime | None) -> str:
    flags = evidence.flags
    verify = flags.get("last_verify")
    if at is None or not isinstance(verify, dict):
        return "no full verify has been run"
    repaired_at = flag_time(flags, "last_repair")
    repaired = flag_number(flags, "last_repair", "from_verify") > 0
    since = max(flag_number(flags, "dual_write", "epoch"), flag_number(flags, "swap", "epoch"))
    problems = {
        f"the last full verify (job {verify.get('job_id')}) found differences": verify.get("clean")
        is not True,
        "differences were repaired after the last full verify": repaired
        and repaired_at is not None
        and repaired_at > at,
        "the last full verify is older than the last change of roles": flag_number(
            flags, "last_verify", "epoch"
        )
        < since,
        "writes went to the primary alone while the ledger was down": bool(
            flags.get("full_verify_needed")
        ),
        "a replica that may write without the ledger died after the last full verify": _unproven(
            evidence, at
        ),
    }
    return next((text for text, true in problems.items() if true), "")


def _unproven(evidence: Evidence, verified_at: dt.datetime) -> bool:
    """A dead replica of policy primary_alone may have written until its lease ended, or later."""
    return any(
        not item.alive
        and unbound(item)
        and evidence.at + dt.timedelta(seconds=item.lease_left_s) > verified_at
        for item in evidence.replicas
    )


def _no_letters(evidence: Evidence, _: JudgeSettings) -> Precondition:
    letters = evidence.dead_letters
    sample = ", ".join(f"{item.collection} {list(item.key)}: {item.reason}" for item in letters[:3])
    return _judged(
        "no dead letters",
        f"{len(letters)} records cannot be converted: {sample}" if letters else "",
        "none",
        "Correct or delete the records, then run `crossfade backfill` or `crossfade repair`.",
    )


def _indexes(evidence: Evidence, _: JudgeSettings) -> Precondition:
    unready = [item for item in evidence.indexes if not item.ready and not item.optional]
    return _judged(
        "indexes valid",
        "; ".join(f"{item.name} of {item.collection}: {item.detail}" for item in unready),
        "every index of the layouts is valid",
        "Run `crossfade backfill`: it builds them after the load.",
    )


def _few_dirty(evidence: Evidence, settings: JudgeSettings) -> Precondition:
    return _dirty_at_most(evidence, settings.dirty_reads_max)


def _none_dirty(evidence: Evidence, settings: JudgeSettings) -> Precondition:
    return _dirty_at_most(evidence, settings.dirty_swap_max)


def _dirty_at_most(evidence: Evidence, limit: int) -> Precondition:
    total = sum(evidence.dirty.values())
    text = f"{total} dirty keys, at most {limit} allowed"
    return _judged("dirty keys", text if total > limit else "", text, "Run `crossfade repair`.")


def _all_traffic(evidence: Evidence, _: JudgeSettings) -> Precondition:
    text = f"{evidence.routing.percent:g} % of the reads go to the new store"
    return _judged(
        "all reads moved",
        text if evidence.routing.percent < 100.0 else "",
        text,
        "Raise it with `crossfade traffic 100`.",
    )


def _phase_takes_traffic(evidence: Evidence) -> Precondition:
    phase = evidence.routing.phase
    text = f"the phase is {phase.value}"
    return _judged(
        "phase takes traffic",
        "" if phase in (Phase.RAMP, Phase.NEW_PRIMARY) else text,
        text,
        "Traffic moves in the phases ramp and new_primary.",
    )
