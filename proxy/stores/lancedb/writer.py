"""The one task that writes a family of tables: it gathers writes, commits them, then answers.

A family is the tables that are bound by parents: their writes are decided together, so that a
parent cannot go while a child comes. Any other table is a family of its own.

The commits of a group come in an order that leaves no orphan wherever a crash may fall: merges,
parents first; then deletes, children first. No write is answered before its own commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.clock import Clock
from proxy.config.settings import LanceSettings
from proxy.errors import Ambiguous, Corrupt, CrossfadeError, Unavailable
from proxy.model import Applied, Key, Write, WriteResult
from proxy.stores.lancedb import commits
from proxy.stores.lancedb.disk import Disk
from proxy.stores.lancedb.errors import is_failure, is_foreign, translate
from proxy.stores.lancedb.group import (
    Changes,
    Known,
    Needs,
    Place,
    Resolver,
    needs_of,
    parents_of,
)
from proxy.stores.lancedb.lookup import children, existing, rows_by_key, selection_for
from proxy.stores.lancedb.queue import Job, Queue, Work
from proxy.stores.lancedb.table import OpenTable
from proxy.stores.lancedb.upkeep import IDLE_S, Upkeep

_CLOSE_DEADLINE_S: Final = 60.0
_RETRY_S: Final = 1.0
_OF_OTHERS: Final = (Applied.PARENT_MISSING, Applied.HAS_CHILDREN)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    """How far the commits of a group have come: the keys that are safe, and what stopped it."""

    done: set[Place] = field(default_factory=set)
    doubtful: set[Place] = field(default_factory=set)
    undone: set[Place] = field(default_factory=set)
    error: CrossfadeError | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """The jobs that are under way."""

    jobs: Sequence[Job]
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Writer:
    """Owns the writes of one family of tables.

    Args:
        family: the tables by collection, parents before children.
        disk: made durable before a write is answered; None: it is not.
    """

    def __init__(
        self,
        store: str,
        family: Mapping[str, OpenTable],
        settings: LanceSettings,
        clock: Clock,
        disk: Disk | None = None,
    ) -> None:
        self._store = store
        self._family = family
        self._tables = {name: opened.table for name, opened in family.items()}
        self._settings = settings
        self._clock = clock
        self._disk = disk
        self._queue = Queue(store, settings.queue_rows_max)
        self.upkeep = {name: Upkeep(opened, settings, clock) for name, opened in family.items()}
        self._tidied = asyncio.Event()
        self._tidied.set()
        self._group: _Group | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"lancedb-writer-{self._store}-{next(iter(self._family))}"
        )

    @property
    def waiting_rows(self) -> int:
        """How many rows wait to be written."""
        return self._queue.rows

    async def apply(self, writes: Sequence[Write], *, deadline_s: float) -> list[WriteResult]:
        """Apply writes in order, each on its own; see `Store.apply`."""
        result: list[WriteResult] = await self._queue.ask(Job(writes=writes), deadline_s=deadline_s)
        return result

    async def alone(self, work: Work, *, deadline_s: float, lands: bool = True) -> Any:
        """Run work between two groups: nothing else writes these tables meanwhile."""
        return await self._queue.ask(Job(work=work, lands=lands), deadline_s=deadline_s)

    async def rest(self, *, for_s: float, deadline_s: float) -> None:
        """Begin no optimisation for so long; return when what waited for one has been written.

        Raises:
            Unavailable: it does not end within `deadline_s`.
        """
        self._put_off(deadline_s + for_s)
        try:
            async with asyncio.timeout(deadline_s):
                if not self._tidied.is_set():
                    await self._tidied.wait()
                    await self.alone(_nothing, deadline_s=deadline_s, lands=False)
        except TimeoutError as error:
            raise Unavailable(
                f"The {self._store} store still optimises {self._names}.", where=self._store
            ) from error
        finally:
            self._put_off(for_s)

    def _put_off(self, for_s: float) -> None:
        for upkeep in self.upkeep.values():
            upkeep.rest(for_s)

    async def landed(self, *, deadline_s: float) -> None:
        """Return once nothing that was given up can still be committed; see `Store.landed`."""
        group = self._group
        if group is None or not any(job.given_up and job.lands for job in group.jobs):
            return
        try:
            async with asyncio.timeout(deadline_s):
                await group.over.wait()
        except TimeoutError as error:
            raise Unavailable(
                f"The {self._store} store still has a write of {self._names} that was given up.",
                where=self._store,
                hint="Look at its disk.",
            ) from error

    async def close(self) -> None:
        """Write what waits, then end."""
        await self._queue.close()
        if self._task is None:
            return
        task, self._task = self._task, None
        _, late = await asyncio.wait([task], timeout=_CLOSE_DEADLINE_S)
        if late:
            task.cancel()
            await asyncio.wait([task])
        self._queue.refuse(self._closed())

    def _closed(self) -> Unavailable:
        return Unavailable(f"The {self._store} store is closed.", where=self._store)

    async def _run(self) -> None:
        """Do what is asked for until the store is closed, whatever fails."""
        idle_s: float | None = 0.0
        try:
            while idle_s is not None:
                try:
                    idle_s = await self._turn(idle_s)
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    _log.exception("the writer of %s failed; it goes on", self._names)
                    await self._clock.sleep(_RETRY_S)
        finally:
            self._queue.closed = True
            self._queue.refuse(self._closed())

    async def _turn(self, idle_s: float) -> float | None:
        """Do the next thing; return for how long nothing was asked for, None: it is over."""
        try:
            more = await self._queue.first(IDLE_S)
        except TimeoutError:
            await self._tidy(idle_s + IDLE_S)
            return idle_s + IDLE_S
        if not more:
            return None
        if not self._queue.work_is_next:
            await self._queue.fill(self._settings.flush_rows, self._settings.flush_ms / 1000)
        jobs = await self._queue.take(self._settings.flush_rows)
        self._group = group = _Group(jobs)
        try:
            if jobs and jobs[0].work is not None:
                await self._work(jobs[0])
            elif jobs:
                await self._write_safely(jobs)
        finally:
            self._group = None
            group.over.set()
        await self._tidy(0.0)
        return 0.0

    async def _tidy(self, idle_s: float) -> None:
        for upkeep in self.upkeep.values():
            if upkeep.due(idle_s=idle_s):
                self._tidied.clear()
                try:
                    await upkeep.run()
                    await self._sync()
                finally:
                    self._tidied.set()

    async def _sync(self) -> None:
        if self._disk is not None:
            await self._disk.sync()

    async def _work(self, job: Job) -> None:
        assert job.work is not None  # noqa: S101  # the caller looked
        try:
            result = await job.work()
            await self._sync()
            job.succeed(result)
        except asyncio.CancelledError:
            job.fail(Ambiguous(f"The {self._store} store was closed meanwhile.", where=self._store))
            raise
        except BaseException as error:
            if not is_failure(error):
                raise
            job.fail(self._told(error, writing=True))

    def _told(self, error: BaseException, *, writing: bool) -> CrossfadeError:
        """Return a failure as an error of Crossfade's; the log has all of one that is our own."""
        if isinstance(error, CrossfadeError):
            return error
        if is_foreign(error):
            return translate(error, store=self._store, writing=writing, what=self._names)
        _log.error("the writer of %s failed", self._names, exc_info=error)
        told = f"The {self._store} store failed on {self._names}: {error!r}."
        return Ambiguous(told, where=self._store)

    @property
    def _names(self) -> str:
        return ", ".join(self._family)

    async def _write_safely(self, jobs: Sequence[Job]) -> None:
        """Write a group; a defect of ours fails the group and not the writer."""
        try:
            await self._write(jobs)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._fail(jobs, self._told(error, writing=True))

    @staticmethod
    def _fail(jobs: Sequence[Job], error: CrossfadeError) -> None:
        for job in jobs:
            job.fail(error)

    async def _write(self, jobs: Sequence[Job]) -> None:
        """Resolve a group, commit it, and answer each of its jobs."""
        try:
            known = await self.read([write for job in jobs for write in job.writes])
            resolver = Resolver(self._store, self._tables, known, self._clock.now())
            results = [[resolver.apply(write) for write in job.writes] for job in jobs]
            changes = resolver.changes()
        except BaseException as error:
            if not is_failure(error):
                raise
            # Nothing of the group was applied: what is stored could not be read.
            self._fail(jobs, self._told(error, writing=False))
            return
        progress = await self._commit(changes)
        await self._secure(progress)
        for job, outcome in zip(jobs, results, strict=True):
            self._answer(job, outcome, progress)

    async def read(self, writes: Sequence[Write]) -> Known:
        """Read what the outcome of these writes depends on."""
        needs = needs_of(self._tables, writes)
        known = Known()
        for name, keys in needs.rows.items():
            opened = self._family[name]
            selection = selection_for(opened.table, vectors=name in needs.vectors)
            found = await rows_by_key(opened, keys, selection)
            known.rows.update({(name, key): found.get(key) for key in keys})
        for name, wanted in parents_of(self._tables, writes, known.rows).items():
            if name in self._family:
                there = await existing(self._family[name], wanted)
                known.parents.update((name, key) for key in there)
        await self._read_children(writes, needs, known)
        return known

    async def _read_children(self, writes: Sequence[Write], needs: Needs, known: Known) -> None:
        for name, key in needs.childless:
            if known.rows.get((name, key)) is None:
                continue
            found: list[Place] = []
            for child, opened in self._family.items():
                spec = opened.table.spec
                if spec.parent is not None and spec.parent.collection == name:
                    touched = {write.key for write in writes if write.collection == child}
                    keys = await children(opened, key, len(touched) + 1)
                    found += [(child, item) for item in keys]
            known.children[name, key] = found

    async def _commit(self, changes: Mapping[str, Changes]) -> _Progress:
        progress = _Progress()
        for name in self._family:
            if name in changes and changes[name].upserts:
                places: set[Place] = {(name, key) for key in changes[name].upserts}
                await self._step(progress, places, self.merge(name, changes[name]), name)
        for name in reversed(tuple(self._family)):
            if name in changes and changes[name].deletes:
                places = {(name, key) for key in changes[name].deletes}
                await self._step(progress, places, self.delete(name, changes[name].deletes), name)
        return progress

    async def _step(
        self, progress: _Progress, places: set[Place], commit: Any, collection: str
    ) -> None:
        """Run one commit, unless one before it failed: what follows could leave orphans."""
        if progress.error is not None:
            commit.close()
            progress.undone |= places
            return
        try:
            await commit
        except BaseException as error:
            if not is_failure(error):
                raise
            progress.error = told = self._told(error, writing=True)
            undone = isinstance(told, Unavailable) and is_foreign(error)
            (progress.undone if undone else progress.doubtful).update(places)
        else:
            progress.done |= places

    async def _secure(self, progress: _Progress) -> None:
        """Make what was committed durable; if that fails nobody knows what a crash would leave."""
        if not progress.done:
            return
        try:
            await self._sync()
        except OSError as error:
            progress.error = progress.error or self._told(error, writing=True)
            progress.doubtful |= progress.done
            progress.done = set()

    async def merge(self, collection: str, changes: Changes) -> None:
        """Commit the upserts of one table."""
        await commits.merge(self._family[collection], changes)
        self.upkeep[collection].committed(1, len(changes.upserts))

    async def delete(self, collection: str, keys: Sequence[Key]) -> None:
        """Commit the deletes of one table."""
        await commits.delete(self._family[collection], keys)
        self.upkeep[collection].committed(1, len(keys))

    def _answer(self, job: Job, results: list[WriteResult], progress: _Progress) -> None:
        error = progress.error
        touched = {(write.collection, write.key) for write in job.writes}
        failed = not touched.isdisjoint(progress.doubtful | progress.undone)
        # What was said of a parent, or of children, may rest on what others of the group did.
        rests = any(result.applied in _OF_OTHERS for result in results)
        if error is None or not (failed or rests):
            job.succeed(results)
        elif touched.isdisjoint(progress.doubtful) and touched.isdisjoint(progress.done):
            job.fail(Unavailable(f"Not applied: {error}", where=self._store))
        elif isinstance(error, Corrupt):
            job.fail(error)
        else:
            job.fail(Ambiguous(str(error), where=self._store))


async def _nothing() -> None:
    """Work that has its turn after every write before it."""


def families(tables: Mapping[str, OpenTable]) -> list[dict[str, OpenTable]]:
    """Return the tables bound by parents together, parents before children."""
    found: dict[str, dict[str, OpenTable]] = {}
    for name in sorted(tables, key=lambda item: len(_line(tables, item))):
        found.setdefault(_line(tables, name)[-1], {})[name] = tables[name]
    return list(found.values())


def _line(tables: Mapping[str, OpenTable], name: str) -> list[str]:
    """Return a collection and its ancestors in this store, itself first."""
    line = [name]
    while True:
        parent = tables[line[-1]].table.spec.parent
        if parent is None or parent.collection not in tables or parent.collection in line:
            return line
        line.append(parent.collection)
