"""Verify: every record on both stores, resumable, beside live traffic (design section 5)."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace

from proxy.errors import Corrupt, Reason, Rejected
from proxy.ledger.types import Difference, RangeState
from proxy.model import JsonValue, Key
from reconcile.bench import Bench
from reconcile.checkpoint import BatchSeen, Interrupted, JobRun, save
from reconcile.compare import Comparer, Found
from reconcile.digest import OUTCOMES, clean, counts, sample
from reconcile.gate import Gate
from reconcile.params import JobParams
from reconcile.pipeline import merged
from reconcile.planning import begin_or_resume
from reconcile.ranges import parents_first
from reconcile.repair import ACTOR, VERIFY_REASON
from reconcile.roles import Pair, Roles, RolesChanged

SAMPLES_MAX = 20
"""Differences shown in the summary; all of them are in the ledger, up to differences_max."""

FAILED_SHOWN_MAX = 5
"""Ranges named in the error of a verify that could not look at everything."""

CLOCKS_DIFFER_MAX = dt.timedelta(minutes=1)
"""How far a replica's clock may be off the ledger's."""

_NEEDED = "full_verify_needed"


class Verify:
    """One run of a verify job."""

    def __init__(self, bench: Bench, run: JobRun, params: JobParams) -> None:
        self._bench = bench
        self._run = run
        self._params = params
        self._gate = Gate(bench, run)
        self._kept = 0
        self._samples: list[JsonValue] = []
        self._failed: list[str] = []
        self._known: dict[str, set[Key]] = {}
        self._fresh = False
        self._needed: JsonValue = None
        run.names = OUTCOMES

    async def run(self) -> None:
        """Compare every range that is not done, queue what differs for repair, store the outcome.

        Raises:
            Rejected(FAILED_PRECONDITION): wrong phase, or the primary changed meanwhile.
            Corrupt: some ranges could not be verified; what is skipped is not verified.
        """
        roles = await self._begin()
        try:
            await self._walk(roles)
        except RolesChanged as error:
            raise Rejected(
                f"{error.message} What verify has seen is of another time.",
                reason=Reason.FAILED_PRECONDITION,
                hint="Start a new verify.",
            ) from error
        if self._failed:
            shown = "; ".join(self._failed[:FAILED_SHOWN_MAX])
            raise Corrupt(f"{len(self._failed)} ranges could not be verified: {shown}.")
        self._run.progress.stage = "done"
        await self._note(roles)

    async def _begin(self) -> Roles:
        run, ledger = self._run, self._bench.ledger
        run.progress.stage = "plan"
        roles = await self._bench.roles()
        await self._gate.follow(roles.routing)
        names = parents_first(roles.primary.schema.collections, self._params.collections)
        pairs = await self._bench.pairs(roles, names)
        self._bench.vectors.require([pair.scope for pair in pairs.values()])
        self._needed = (await ledger.flags()).get(_NEEDED)
        collections = self._params.collections
        self._fresh = await begin_or_resume(self._bench, run, roles, collections)
        found = await ledger.differences(run.job_id, limit=self._bench.settings.differences_max)
        self._kept = len(found)
        for item in found:
            self._known.setdefault(item.collection, set()).add(item.key)
        self._samples = [sample(item) for item in found[:SAMPLES_MAX]]
        self._show()
        await run.beat()
        return roles

    async def _walk(self, roles: Roles) -> None:
        self._run.progress.stage = "compare"
        states = await self._bench.ledger.ranges(self._run.job_id)
        names = parents_first(roles.primary.schema.collections, self._params.collections)
        pairs = await self._bench.pairs(roles, names)
        todo = [state for state in states if not state.done and state.collection in pairs]

        def looks(state: RangeState) -> AsyncIterator[Found]:
            return self._range(pairs[state.collection], state)

        async with merged(todo, looks, workers=self._bench.settings.workers) as stream:
            async for _ in stream:
                self._show()
        self._run.check()

    async def _range(self, pair: Pair, state: RangeState) -> AsyncIterator[Found]:
        """Compare one range, and store its outcome before its checkpoint.

        When the job is to stop, each worker finishes the range it is at.
        """
        try:
            await self._gate.passed(pair)
        except Interrupted:
            return
        began_s = self._bench.clock.monotonic_s()
        known = self._known.get(pair.name, ())
        comparer = Comparer(self._bench, pair, job_id=self._run.job_id, known=known)

        async def once() -> Found:
            return await comparer.range(state.keys)

        try:
            found = await self._bench.retry(once, self._run.check)
        except Interrupted:
            return
        except (Corrupt, Rejected) as error:
            self._failed.append(f"{pair.name} range {state.number}: {error}")
            return
        if found.differences:
            await self._bench.released(pair.roles, self._run.check)
            await self._store(pair, found)
        await save(self._run, replace(state, done=True, tally=found.tally))
        self._run.progress.add(pair.name, found.tally)
        self._gate.spend(found.tally.get("rows", 0), 0)
        self._run.observer.batch(
            BatchSeen(
                kind="verify",
                collection=pair.name,
                rows=found.tally.get("rows", 0),
                bytes=0,
                seconds=self._bench.clock.monotonic_s() - began_s,
            )
        )
        yield found

    async def _store(self, pair: Pair, found: Found) -> None:
        """Keep differences for the report, and queue them for repair unless only reporting."""
        room = max(0, self._bench.settings.differences_max - self._kept)
        kept = found.differences[:room]
        self._kept += len(kept)
        await self._bench.ledger.add_differences(self._run.job_id, kept)
        free = SAMPLES_MAX - len(self._samples)
        self._samples += [sample(item) for item in found.differences[:free]]
        if self._params.report_only:
            return
        for kind, keys in _by_kind(found.differences).items():
            await self._bench.ledger.mark_dirty(pair.name, keys, reason=VERIFY_REASON + kind)

    def _show(self) -> None:
        facts = self._run.progress.facts
        facts["samples"] = list(self._samples)
        facts["differences_stored"] = self._kept
        facts["clean"] = self._clean()

    def _clean(self) -> bool:
        # A difference that was declared before an interruption and repaired since counts too.
        return clean(self._outcome()) and not self._kept

    def _outcome(self) -> dict[str, int]:
        return counts({name: self._run.progress.sum(name) for name in OUTCOMES})

    async def _note(self, roles: Roles) -> None:
        """Store the outcome of a full verify for the preconditions of the next phase."""
        self._show()
        if self._params.collections:
            return
        outcome = self._outcome()
        value: JsonValue = {
            "job_id": self._run.job_id,
            "at": self._bench.clock.now().isoformat(),
            "began_at": self._began_at(),
            "epoch": roles.routing.epoch,
            "primary": roles.primary.name,
            "clean": self._clean(),
            **outcome,
        }
        ledger = self._bench.ledger
        await ledger.set_flag("last_verify", value, actor=ACTOR, reason="verify finished")
        needed = (await ledger.flags()).get(_NEEDED)
        if self._clean() and needed and self._makes_up_for(needed):
            await ledger.set_flag(
                _NEEDED, False, actor=ACTOR, reason="a full verify was clean", only_if=needed
            )

    def _makes_up_for(self, needed: JsonValue) -> bool:
        """True if the writes that call for a verify were made before this one began.

        A verify that was begun in another process does not know the mark it began under: it goes
        by the time, and leaves room for clocks that differ.
        """
        if self._fresh:
            return needed == self._needed
        at = needed.get("at") if isinstance(needed, dict) else None
        if not isinstance(at, str):
            return False
        return dt.datetime.fromisoformat(at) + CLOCKS_DIFFER_MAX < self._run.job.created_at

    def _began_at(self) -> str:
        started = self._run.job.started_at or self._run.job.created_at
        return started.isoformat()


def _by_kind(differences: list[Difference]) -> dict[str, list[Key]]:
    kinds: dict[str, list[Key]] = {}
    for item in differences:
        kinds.setdefault(item.kind, []).append(item.key)
    return kinds
