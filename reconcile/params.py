"""What a job may be asked for: parameters as they come from a person, checked all at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

from pydantic import ValidationError

from proxy.config.settings import ReconcileSettings
from proxy.errors import Rejected, Violation
from proxy.ledger.types import JobKind
from proxy.model import JsonValue

OVERRIDES = (
    "batch_rows",
    "range_rows",
    "workers",
    "rows_per_s_max",
    "bytes_per_s_max",
    "primary_latency_ms_max",
)
"""Settings of the configuration that one job may override."""

INTERVAL_S = {JobKind.VERIFY: 60.0, JobKind.REPAIR: 1.0}
"""Pause between two passes of a continuous job that says nothing else."""

ROUNDS_MAX = 20
"""Repair rounds of one job; a key that is still dirty then needs a person or more time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParams:
    """The checked parameters of a job.

    Attributes:
        collections: only these, () for all.
        dry_run: backfill: report what it would do, write nothing.
        full: a dry run converts every row instead of a sample.
        report_only: verify: do not queue differences for repair.
        continuous: verify and repair: begin again after each pass.
        interval_s: pause between two passes of a continuous job.
        follows: verify: the number of the pass that this one follows after the pause; set by the
            reconciler.
        build_indexes: backfill: build the secondary's indexes after the load.
    """

    collections: tuple[str, ...] = ()
    dry_run: bool = False
    full: bool = False
    report_only: bool = False
    continuous: bool = False
    interval_s: float = 1.0
    follows: int = 0
    build_indexes: bool = True


ALLOWED: Mapping[JobKind, frozenset[str]] = {
    JobKind.BACKFILL: frozenset({"collections", "dry_run", "full", "build_indexes", *OVERRIDES}),
    JobKind.VERIFY: frozenset(
        {
            "collections",
            "report_only",
            "continuous",
            "interval_s",
            "follows",
            "range_rows",
            "workers",
            "rows_per_s_max",
            "primary_latency_ms_max",
        }
    ),
    JobKind.REPAIR: frozenset({"collections", "continuous", "interval_s", "batch_rows"}),
}


def parse_params(
    kind: JobKind, given: Mapping[str, JsonValue], known: Collection[str]
) -> JobParams:
    """Return a job's parameters.

    Args:
        known: the names of the configured collections.

    Raises:
        Rejected(INVALID_ARGUMENT): with every problem found.
    """
    allowed = ALLOWED[kind]
    problems = [
        Violation(where=f"params.{name}", expected="one of " + ", ".join(sorted(allowed)))
        for name in given
        if name not in allowed
    ]
    names = given.get("collections", ())
    if isinstance(names, str) or not isinstance(names, list | tuple):
        problems.append(Violation(where="params.collections", expected="a list of names"))
        names = ()
    problems += [
        Violation(
            where="params.collections",
            expected="one of " + ", ".join(sorted(known)),
            got=repr(name)[:80],
        )
        for name in names
        if name not in known
    ]
    values: dict[str, JsonValue] = {"interval_s": INTERVAL_S.get(kind, 0.0)}
    for field in fields(JobParams):
        if field.name != "collections" and field.name in given:
            values[field.name] = given[field.name]
            problems += _type_problem(field.name, given[field.name])
    if problems:
        raise Rejected(f"The parameters of {kind.value} are wrong.", violations=tuple(problems))
    return JobParams(
        collections=tuple(str(name) for name in names),
        **values,  # type: ignore[arg-type]  # checked against the field just above
    )


def _type_problem(name: str, value: JsonValue) -> list[Violation]:
    if name == "interval_s":
        good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        expected = "seconds, 0 or more"
    elif name == "follows":
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        expected = "the number of a verify"
    else:
        good, expected = isinstance(value, bool), "true or false"
    if good:
        return []
    return [Violation(where=f"params.{name}", expected=expected, got=repr(value)[:80])]


def settings_for(base: ReconcileSettings, given: Mapping[str, JsonValue]) -> ReconcileSettings:
    """Return the settings of one job: the configuration's, with the job's own on top.

    Raises:
        Rejected(INVALID_ARGUMENT): a value is out of its range.
    """
    own = {name: given[name] for name in OVERRIDES if name in given}
    try:
        return ReconcileSettings.model_validate({**base.model_dump(), **own})
    except ValidationError as error:
        raise Rejected(
            "The parameters of the job are wrong.",
            violations=tuple(
                Violation(
                    where="params." + ".".join(str(part) for part in item["loc"]),
                    expected=item["msg"],
                    got=repr(item["input"])[:80],
                )
                for item in error.errors()
            ),
        ) from error
