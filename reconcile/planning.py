"""Cutting a job's work into ranges, and telling beforehand what a backfill would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.errors import Corrupt
from proxy.ledger.types import RangeState
from proxy.model import JsonValue, Key, Record
from proxy.query import KeyRange
from proxy.stores.base import Page
from reconcile.bench import Bench, Check
from reconcile.checkpoint import JobRun
from reconcile.ranges import BatchSize, narrower, parents_first, planned, rows_per_range
from reconcile.roles import Pair, Roles
from reconcile.vectors import described, lacks_vector, stand_in
from reconcile.writing import record_bytes

SAMPLES_PER_COLLECTION = 10
"""Records that would not convert and are shown; all are counted."""

SAMPLED_ROWS = 1000
"""Rows of a collection that a dry run converts unless it is asked for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionPlan:
    """What a job would do with one collection.

    Attributes:
        rows, secondary_rows: estimates.
        path: "bulk" or "record": how rows reach the secondary.
        fields: what is copied and compared; `primary_only` and `secondary_only` are not.
        vectors: where the secondary's come from, for a person: "copied", "embedded by MODEL",
            "none".
        looked_at, no_vector: records looked at (see `with_samples`), and how many of them have the
            text of a vector and none: they are copied so, and text searches do not find them.
    """

    collection: str
    rows: int
    secondary_rows: int
    ranges: tuple[KeyRange, ...]
    path: str
    order: str
    fields: tuple[str, ...]
    vector: bool
    vectors: str
    primary_only: tuple[str, ...]
    secondary_only: tuple[str, ...]
    looked_at: int = 0
    no_vector: int = 0

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as a job's summary shows it."""
        return {
            "rows_total": self.rows,
            "secondary_rows": self.secondary_rows,
            "ranges": len(self.ranges),
            "path": self.path,
            "order": self.order,
            "fields": list(self.fields),
            "vector": self.vector,
            "vectors": self.vectors,
            "primary_only": list(self.primary_only),
            "secondary_only": list(self.secondary_only),
            "looked_at": self.looked_at,
            "no_vector": self.no_vector,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job would do, collection by collection in its order."""

    primary: str
    secondary: str
    collections: tuple[CollectionPlan, ...]
    indexes: tuple[str, ...] = ()

    def ranges(self) -> list[RangeState]:
        """Return every range, numbered within its collection."""
        return [
            state for item in self.collections for state in planned(item.collection, item.ranges)
        ]

    def rows(self) -> dict[str, int]:
        """Return the estimated rows by collection."""
        return {item.collection: item.rows for item in self.collections}

    def vectors(self) -> dict[str, dict[str, JsonValue]]:
        """Return by collection what a job's summary says of vectors."""
        return {item.collection: {"vectors": item.vectors} for item in self.collections}

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as a job's summary shows it."""
        return {
            "primary": self.primary,
            "secondary": self.secondary,
            "indexes_to_build": list(self.indexes),
            "collections": {item.collection: item.as_json() for item in self.collections},
        }


async def make_plan(
    bench: Bench, roles: Roles, wanted: Sequence[str] = (), *, cut: bool = True
) -> Plan:
    """Return the plan of a job over the wanted collections, () for all; reads only.

    Args:
        cut: False leaves the ranges out, which take a look at every key.
    """
    names = parents_first(roles.primary.schema.collections, wanted)
    pairs = await bench.pairs(roles, names)
    states = await roles.secondary.index_states()
    return Plan(
        primary=roles.primary.name,
        secondary=roles.secondary.name,
        collections=tuple([await _plan_collection(bench, pair, cut) for pair in pairs.values()]),
        indexes=tuple(
            state.name for state in states if state.collection in names and not state.ready
        ),
    )


async def begin_or_resume(
    bench: Bench, run: JobRun, roles: Roles, wanted: Sequence[str] = ()
) -> bool:
    """Have the job's ranges in the ledger, and its progress where an earlier run left it.

    Returns:
        True if no run of the job came this far before.
    """
    stored = await bench.ledger.ranges(run.job_id)
    plan = await make_plan(bench, roles, wanted, cut=not stored)
    run.progress.total = plan.rows()
    run.progress.labels = plan.vectors()
    if not stored:
        await bench.ledger.add_ranges(run.job_id, plan.ranges())
    run.progress.resume(stored)
    return not stored


async def _plan_collection(bench: Bench, pair: Pair, cut: bool) -> CollectionPlan:
    here, there = pair.primary.schema, pair.secondary.schema
    rows = await pair.primary.row_estimate(pair.name)
    secondary_rows = await pair.secondary.row_estimate(pair.name)
    by_secondary = narrower(pair.name, here, there) == "secondary" and secondary_rows > 0
    cutter = pair.secondary if by_secondary else pair.primary
    size = rows_per_range(
        secondary_rows if by_secondary else rows,
        range_rows=bench.settings.range_rows,
        workers=bench.settings.workers,
    )
    ranges = await cutter.split(pair.name, rows_per_range=size, order=pair.order) if cut else []
    target = await pair.secondary.bulk_target(pair.name, pair.scope.fields)
    mine, theirs = here.stored_value_fields(pair.name), there.stored_value_fields(pair.name)
    return CollectionPlan(
        collection=pair.name,
        rows=rows,
        secondary_rows=secondary_rows,
        ranges=tuple(ranges),
        path="bulk" if target is not None and pair.scope.bulk else "record",
        order=pair.order,
        fields=pair.scope.fields,
        vector=pair.scope.vector,
        vectors=described(pair.scope),
        primary_only=tuple(sorted(mine - theirs)),
        secondary_only=tuple(sorted(theirs - mine)),
    )


@dataclass(slots=True)
class Checked:
    """How many records a dry run converted, and which would not.

    Attributes:
        no_vector: those that have the text of a vector and none.
    """

    checked: int = 0
    unconvertible: int = 0
    no_vector: int = 0
    samples: list[JsonValue] = field(default_factory=list)

    def refuse(self, key: Key, reason: str) -> None:
        """Count a record that would become a dead letter."""
        self.unconvertible += 1
        if len(self.samples) < SAMPLES_PER_COLLECTION:
            self.samples.append({"key": list(key), "reason": reason})

    def as_json(self) -> Mapping[str, JsonValue]:
        """Return it as a job's summary shows it."""
        return {
            "checked": self.checked,
            "unconvertible": self.unconvertible,
            "no_vector": self.no_vector,
            "samples": list(self.samples),
        }


class DryRun:
    """Converts records without writing them."""

    def __init__(self, bench: Bench, check: Check) -> None:
        self._bench = bench
        self._check = check

    async def convert(self, pair: Pair, ranges: Sequence[KeyRange], *, full: bool) -> Checked:
        """Try the records of a collection: all with `full`, else some of each range."""
        seen = Checked()
        share = max(1, SAMPLED_ROWS // max(1, len(ranges)))
        for keys in ranges:
            await self._range(pair, keys, seen, most=None if full else share)
            if not full and seen.checked >= SAMPLED_ROWS:
                break
        return seen

    async def _range(self, pair: Pair, keys: KeyRange, seen: Checked, most: int | None) -> None:
        settings = self._bench.settings
        size = BatchSize(rows_max=settings.batch_rows, bytes_max=settings.batch_bytes_max)
        after, done = keys.after, 0
        while most is None or done < most:
            self._check()
            limit = size.limit() if most is None else min(size.limit(), most - done)
            async with pair.primary.page(
                pair.name,
                KeyRange(after=after, upto=keys.upto),
                limit=limit,
                order=pair.order,
                deadline_s=settings.deadline_s,
            ) as page:
                if page.keys:
                    size = size.after(len(page.keys), await self._page(pair, page, seen), 0.0)
                    after, done = page.keys[-1], done + len(page.keys)
                if len(page.keys) < limit:
                    return

    async def _page(self, pair: Pair, page: Page, seen: Checked) -> int:
        """Convert one page; return its bytes."""
        foreign = frozenset(key for key in page.keys if not pair.scope.holds(key))
        try:
            records = await page.records(foreign)
        except Corrupt:
            return await self._one_by_one(pair, [k for k in page.keys if k not in foreign], seen)
        for record in records:
            seen.checked += 1
            await self._record(pair, record, seen)
        return sum(record_bytes(record) for record in records)

    async def _one_by_one(self, pair: Pair, keys: Sequence[Key], seen: Checked) -> int:
        """Name the records of a page that cannot be decoded."""
        size = 0
        for key in keys:
            seen.checked += 1
            try:
                found = await pair.primary.get(
                    pair.name,
                    [key],
                    vectors=pair.scope.vector,
                    deadline_s=self._bench.settings.deadline_s,
                )
            except Corrupt as error:
                seen.refuse(key, str(error))
                continue
            for record in found.values():
                size += record_bytes(record)
                await self._record(pair, record, seen)
        return size

    async def _record(self, pair: Pair, record: Record, seen: Checked) -> None:
        """Try one record; a vector that would be made of its text is taken for granted."""
        seen.no_vector += lacks_vector(pair.scope, record)
        reason = await pair.secondary.unconvertible(stand_in(pair.scope, record))
        if reason:
            seen.refuse(record.key, reason)


async def with_samples(bench: Bench, roles: Roles, plan: Plan) -> Plan:
    """Return the plan with what some records of each collection tell of their vectors.

    Only collections are looked at whose vectors are copied and were to be made from a text.
    """
    trial = DryRun(bench, lambda: None)
    found = []
    for item in plan.collections:
        pair = (await bench.pairs(roles, [item.collection]))[item.collection]
        target, seen = pair.scope.target, Checked()
        if pair.scope.vector and target is not None and target.embedding is not None:
            seen = await trial.convert(pair, item.ranges, full=False)
        found.append(replace(item, looked_at=seen.checked, no_vector=seen.no_vector))
    return replace(plan, collections=tuple(found))
