"""Backfill: copy what was there before dual writing began, range by range (rules B0 to B7)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from proxy.errors import Reason, Rejected
from proxy.ledger.types import RangeState, Routing
from proxy.model import JsonValue, Key
from proxy.stores.base import BulkTarget
from reconcile.batch import Copied, PageAsk
from reconcile.bench import Bench
from reconcile.checkpoint import BatchSeen, Interrupted, JobRun
from reconcile.copy import Copier
from reconcile.gate import Gate
from reconcile.indexing import IndexBuild
from reconcile.letters import DeadLetters
from reconcile.params import ROUNDS_MAX, JobParams
from reconcile.pipeline import merged
from reconcile.planning import DryRun, begin_or_resume, make_plan
from reconcile.ranges import BatchSize, parents_first
from reconcile.repair import ACTOR, Repair, note_repair
from reconcile.roles import Held, Pair, Roles, RolesChanged, roles_of
from reconcile.snapshot import TooSlow

NAMES = ("bytes", "copied", "unchanged", "left_to_repair", "in_flight", "dead_letters")
"""Counts that a backfill's summary always has."""


class Backfill:
    """One run of a backfill job."""

    def __init__(self, bench: Bench, run: JobRun, params: JobParams) -> None:
        self._bench = bench
        self._run = run
        self._params = params
        self._letters = DeadLetters(bench.ledger, run.job_id)
        self._copier: Copier = bench.copier(self._letters)
        self._sizes: dict[str, BatchSize] = {}
        self._gate = Gate(bench, run)
        run.names = NAMES

    async def run(self) -> None:
        """Copy every range that is not done, build the indexes, repair what was left.

        Raises:
            Rejected(FAILED_PRECONDITION): wrong phase, a replica lags, or the roles are not those
                the job began with.
            Interrupted: paused or cancelled between two batches.
        """
        roles = await self._begin()
        try:
            await self._walk(roles)
        except RolesChanged as error:
            raise Rejected(
                f"{error.message} A backfill copies in one direction only.",
                reason=Reason.FAILED_PRECONDITION,
                hint="Start a new backfill if one is still needed.",
            ) from error
        await self._finish(roles)

    async def _begin(self) -> Roles:
        """Check rule B0, and have the ranges in the ledger before the first batch."""
        run = self._run
        run.progress.stage = "plan"
        routing = await self._bench.retry(self._acknowledged, run.check)
        roles = roles_of(routing, self._bench.stores)
        await self._gate.follow(routing)
        names = parents_first(roles.primary.schema.collections, self._params.collections)
        pairs = await self._bench.pairs(roles, names)
        self._bench.vectors.require([pair.scope for pair in pairs.values()], loading=True)
        await begin_or_resume(self._bench, run, roles, self._params.collections)
        await run.beat()
        await self._letters.load()
        return roles

    async def _acknowledged(self) -> Routing:
        return await self._bench.acknowledged(self._run.check)

    async def _walk(self, roles: Roles) -> None:
        """Copy collection by collection, so that parents are there before their children."""
        self._run.progress.stage = "copy"
        states = await self._bench.ledger.ranges(self._run.job_id)
        names = parents_first(roles.primary.schema.collections, self._params.collections)
        for name, pair in (await self._bench.pairs(roles, names)).items():
            target = await self._bulk_target(pair)
            todo = [state for state in states if state.collection == name and not state.done]
            await self._collection(pair, todo, target)

    async def _bulk_target(self, pair: Pair) -> BulkTarget | None:
        if not pair.scope.bulk:
            return None
        return await pair.secondary.bulk_target(pair.name, pair.scope.fields)

    async def _collection(
        self, pair: Pair, todo: Sequence[RangeState], target: BulkTarget | None
    ) -> None:
        def batches(state: RangeState) -> AsyncIterator[Copied]:
            return self._batches(pair, state, target)

        progress = self._run.progress
        async with merged(todo, batches, workers=self._bench.settings.workers) as stream:
            async for copied in stream:
                progress.add(pair.name, copied.tally)
        self._run.check()
        progress.total[pair.name] = progress.tally.get(pair.name, {}).get("rows", 0)

    async def _batches(
        self, pair: Pair, state: RangeState, target: BulkTarget | None
    ) -> AsyncIterator[Copied]:
        """Copy one range from its checkpoint to its end, a batch at a time.

        When the job is to stop, each worker finishes the batch it is at and ends here; the stream
        then runs dry and the consumer raises.
        """
        while not state.done:
            try:
                await self._gate.passed(pair)
                began_s = self._bench.clock.monotonic_s()
                copied = await self._batch(pair, state, target)
            except Held:
                continue
            except Interrupted:
                return
            if copied.progress is not None:
                state = copied.progress
            self._account(pair, copied, self._bench.clock.monotonic_s() - began_s)
            with suppress(Interrupted):  # what is not repaired stays dirty
                await self._repair_now(pair, copied.again)
            yield copied

    async def _batch(self, pair: Pair, state: RangeState, target: BulkTarget | None) -> Copied:
        async def once() -> Copied:
            size = self._size(pair)
            ask = PageAsk(pair=pair, state=state, limit=size.limit(), target=target)
            try:
                return await self._copier.copy_page(ask)
            except TooSlow:
                self._sizes[pair.name] = size.too_slow()
                raise

        return await self._bench.retry(once, self._run.check)

    async def _repair_now(self, pair: Pair, keys: Sequence[Key]) -> None:
        """Repair what the batch found different; what cannot be done yet stays dirty."""
        limit = self._size(pair).limit()
        for start in range(0, len(keys), limit):
            some = keys[start : start + limit]

            async def once(some: Sequence[Key] = some) -> Copied:
                return await self._copier.copy_keys(pair, some)

            await self._bench.retry(once, self._run.check)

    def _size(self, pair: Pair) -> BatchSize:
        settings = self._bench.settings
        rows_max = settings.batch_rows
        if pair.scope.bulk and "batch_rows" not in self._run.job.params:
            rows_max = max(rows_max, pair.secondary.capabilities.bulk_rows)
        fresh = BatchSize(rows_max=rows_max, bytes_max=settings.batch_bytes_max)
        return self._sizes.get(pair.name, fresh)

    def _account(self, pair: Pair, copied: Copied, seconds: float) -> None:
        loaded = copied.tally.get("copied", 0)
        size = self._size(pair)
        self._sizes[pair.name] = size.after(loaded or copied.rows, copied.bytes, seconds)
        self._gate.spend(copied.rows, copied.bytes)
        seen = BatchSeen(
            kind="backfill",
            collection=pair.name,
            rows=copied.rows,
            bytes=copied.bytes,
            seconds=seconds,
        )
        self._run.observer.batch(seen)

    async def _finish(self, roles: Roles) -> None:
        """After the load: indexes (rule B7), sequences, dirty keys, and the flag for the gate."""
        run = self._run
        if self._params.build_indexes:
            run.progress.stage = "index"
            await self._build_indexes(roles)
        await roles.secondary.align_sequences()
        run.progress.stage = "repair"
        repair = Repair(self._bench, job_id=run.job_id, check=run.check)
        done = await repair.until_clean(self._params.collections, rounds_max=ROUNDS_MAX)
        run.progress.facts["repaired"] = done.repaired
        run.progress.facts["still_dirty"] = done.left + done.in_flight
        if done.repaired:
            await note_repair(self._bench, done)
        run.progress.stage = "done"
        if not self._params.collections:
            await self._note_done(roles)

    async def _build_indexes(self, roles: Roles) -> None:
        names = parents_first(roles.primary.schema.collections, self._params.collections)
        for index in await roles.secondary.index_states():
            if index.collection in names and not index.ready:
                await IndexBuild(self._bench, self._run, roles.secondary).build(index)

    async def _note_done(self, roles: Roles) -> None:
        progress = self._run.progress
        value: JsonValue = {
            "job_id": self._run.job_id,
            "at": self._bench.clock.now().isoformat(),
            "epoch": roles.routing.epoch,
            "primary": roles.primary.name,
            "rows": progress.sum("rows"),
            "dead_letters": progress.sum("dead_letters"),
        }
        await self._bench.ledger.set_flag(
            "last_backfill", value, actor=ACTOR, reason="backfill finished"
        )


async def dry_run(bench: Bench, run: JobRun, params: JobParams) -> None:
    """Report what a backfill would do and which records would not convert; writes nothing."""
    run.progress.stage = "dry run"
    roles = await bench.roles(read_only=True)
    plan = await make_plan(bench, roles, params.collections)
    trial = DryRun(bench, run.check)
    run.progress.total = plan.rows()
    collections: dict[str, JsonValue] = {}
    unconvertible = 0
    for item in plan.collections:
        pairs = await bench.pairs(roles, [item.collection])
        checked = await trial.convert(pairs[item.collection], item.ranges, full=params.full)
        unconvertible += checked.unconvertible
        collections[item.collection] = {**item.as_json(), **checked.as_json()}
        run.progress.add(item.collection, {"rows": checked.checked})
    run.progress.facts.update(
        plan.as_json(), dry_run=True, unconvertible=unconvertible, collections=collections
    )
    run.progress.stage = "done"
