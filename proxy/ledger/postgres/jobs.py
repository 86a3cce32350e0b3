"""Jobs, their ranges and their differences in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from proxy.errors import LeaseLost, Reason, Rejected
from proxy.ledger.postgres.database import LedgerDatabase
from proxy.ledger.types import Difference, Job, JobKind, JobState, RangeState
from proxy.model import JsonValue, Key, decode_key, encode_key
from proxy.query import KeyRange

_COLUMNS = (
    "job_id, kind, state, wanted, epoch, params, summary, owner,"
    " lease_until > clock_timestamp() AS owner_alive, created_at, started_at, finished_at, error"
)
_INSERT_RANGES = (
    "INSERT INTO crossfade.ranges (job_id, collection, number, after, upto)"
    " SELECT %s, t.collection, t.number, t.after, t.upto"
    " FROM unnest(%s::text[], %s::int[], %s::text[], %s::text[])"
    " AS t (collection, number, after, upto)"
)


def range_update(progress: RangeState) -> tuple[str, tuple[object, ...]]:
    """Return the statement that stores a range's checkpoint."""
    return (
        "UPDATE crossfade.ranges SET cursor = %s, done = %s, tally = %s"
        " WHERE job_id = %s AND collection = %s AND number = %s",
        (
            _text(progress.cursor),
            progress.done,
            Jsonb(dict(progress.tally)),
            progress.job_id,
            progress.collection,
            progress.number,
        ),
    )


class JobTable:
    """`JobLog` over the tables jobs, ranges and differences."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._db = database

    async def create_job(
        self, kind: JobKind, params: Mapping[str, JsonValue], *, ranges: Sequence[RangeState] = ()
    ) -> Job:
        """See `JobLog.create_job`."""
        rows = await self._db.fetch(
            "INSERT INTO crossfade.jobs (migration, kind, epoch, params)"
            " SELECT number, %s, epoch, %s FROM crossfade.migrations WHERE number = %s"
            f" RETURNING {_COLUMNS}",
            (kind.value, Jsonb(dict(params)), self._db.migration_number),
        )
        job = _job(rows[0])
        if ranges:
            await self.add_ranges(job.job_id, ranges)
        return job

    async def add_ranges(self, job_id: int, ranges: Sequence[RangeState]) -> None:
        """See `JobLog.add_ranges`."""
        await self._db.fetch(
            _INSERT_RANGES,
            (
                job_id,
                [item.collection for item in ranges],
                [item.number for item in ranges],
                [_text(item.keys.after) for item in ranges],
                [_text(item.keys.upto) for item in ranges],
            ),
        )

    async def claim_job(self, job_id: int, *, owner: str, lease_s: float) -> Job:
        """See `JobLog.claim_job`."""
        rows = await self._db.fetch(
            "UPDATE crossfade.jobs SET owner = %s, state = 'running', wanted = 'running',"
            " lease_until = clock_timestamp() + make_interval(secs => %s),"
            " started_at = coalesce(started_at, clock_timestamp()), error = ''"
            " WHERE job_id = %s AND migration = %s AND state NOT IN ('done', 'cancelled')"
            " AND (owner = %s OR lease_until <= clock_timestamp())"
            f" RETURNING {_COLUMNS}",
            (owner, lease_s, job_id, self._db.migration_number, owner),
        )
        if rows:
            return _job(rows[0])
        job = await self.job(job_id)
        what = f"is run by {job.owner}" if job.owner_alive else f"is {job.state.value}"
        raise Rejected(
            f"Job {job_id} ({job.kind.value}) {what}.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Wait for it, or ask it to pause first.",
        )

    async def renew_job(
        self, job_id: int, *, owner: str, lease_s: float, summary: Mapping[str, JsonValue]
    ) -> Job:
        """See `JobLog.renew_job`."""
        rows = await self._db.fetch(
            "UPDATE crossfade.jobs SET summary = %s,"
            " lease_until = clock_timestamp() + make_interval(secs => %s)"
            f" WHERE job_id = %s AND owner = %s AND state = 'running' RETURNING {_COLUMNS}",
            (Jsonb(dict(summary)), lease_s, job_id, owner),
        )
        return _job(rows[0]) if rows else _lost(job_id)

    async def end_job(
        self,
        job_id: int,
        *,
        owner: str,
        state: JobState,
        summary: Mapping[str, JsonValue],
        error: str = "",
    ) -> Job:
        """See `JobLog.end_job`."""
        ended = state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
        rows = await self._db.fetch(
            "UPDATE crossfade.jobs SET state = %s, wanted = %s, summary = %s, error = %s,"
            " owner = '', lease_until = '-infinity',"
            " finished_at = CASE WHEN %s THEN clock_timestamp() END"
            f" WHERE job_id = %s AND owner = %s RETURNING {_COLUMNS}",
            (state.value, state.value, Jsonb(dict(summary)), error, ended, job_id, owner),
        )
        return _job(rows[0]) if rows else _lost(job_id)

    async def want(self, job_id: int, wanted: JobState) -> Job:
        """See `JobLog.want`: an owned job is asked, one without a live owner changes at once."""
        rows = await self._db.fetch(
            "UPDATE crossfade.jobs SET wanted = %(w)s,"
            " state = CASE WHEN lease_until > clock_timestamp() THEN state ELSE %(s)s END"
            " WHERE job_id = %(j)s AND migration = %(m)s AND state NOT IN ('done', 'cancelled')"
            f" RETURNING {_COLUMNS}",
            {
                "w": JobState.RUNNING.value if wanted is JobState.REQUESTED else wanted.value,
                "s": JobState.REQUESTED.value if wanted is JobState.RUNNING else wanted.value,
                "j": job_id,
                "m": self._db.migration_number,
            },
        )
        if rows:
            return _job(rows[0])
        job = await self.job(job_id)
        raise Rejected(
            f"Job {job_id} ({job.kind.value}) is {job.state.value} and cannot be"
            f" {wanted.value} any more.",
            reason=Reason.FAILED_PRECONDITION,
            hint="Start a new one.",
        )

    async def job(self, job_id: int) -> Job:
        """See `JobLog.job`."""
        rows = await self._db.fetch(
            f"SELECT {_COLUMNS} FROM crossfade.jobs WHERE job_id = %s AND migration = %s",
            (job_id, self._db.migration_number),
        )
        if not rows:
            raise Rejected(
                f"There is no job {job_id}.",
                reason=Reason.NOT_FOUND,
                hint="`crossfade status` lists them.",
            )
        return _job(rows[0])

    async def jobs(self, *, kind: JobKind | None = None, limit: int = 20) -> list[Job]:
        """See `JobLog.jobs`."""
        rows = await self._db.fetch(
            f"SELECT {_COLUMNS} FROM crossfade.jobs WHERE migration = %s"
            " AND (%s::text IS NULL OR kind = %s) ORDER BY job_id DESC LIMIT %s",
            (
                self._db.migration_number,
                kind.value if kind else None,
                kind.value if kind else None,
                limit,
            ),
        )
        return [_job(row) for row in rows]

    async def ranges(self, job_id: int) -> list[RangeState]:
        """See `JobLog.ranges`."""
        rows = await self._db.fetch(
            "SELECT collection, number, after, upto, cursor, done, tally FROM crossfade.ranges"
            " WHERE job_id = %s ORDER BY collection, number",
            (job_id,),
        )
        return [
            RangeState(
                job_id=job_id,
                collection=row[0],
                number=row[1],
                keys=KeyRange(after=_key(row[2]), upto=_key(row[3])),
                cursor=_key(row[4]),
                done=row[5],
                tally=row[6],
            )
            for row in rows
        ]

    async def save_range(self, progress: RangeState) -> None:
        """See `JobLog.save_range`."""
        await self._db.fetch(*range_update(progress))

    async def add_differences(self, job_id: int, differences: Sequence[Difference]) -> None:
        """See `JobLog.add_differences`."""
        for item in differences:
            await self._db.fetch(
                "INSERT INTO crossfade.differences VALUES (%s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (job_id, collection, key) DO UPDATE SET kind = excluded.kind,"
                " fields = excluded.fields, detail = excluded.detail",
                (
                    job_id,
                    item.collection,
                    encode_key(item.key),
                    item.kind,
                    list(item.fields),
                    Jsonb(dict(item.detail)),
                ),
            )

    async def differences(self, job_id: int, *, limit: int = 1000) -> list[Difference]:
        """See `JobLog.differences`."""
        rows = await self._db.fetch(
            "SELECT collection, key, kind, fields, detail FROM crossfade.differences"
            " WHERE job_id = %s ORDER BY collection, key LIMIT %s",
            (job_id, limit),
        )
        return [
            Difference(
                collection=row[0],
                key=decode_key(row[1]),
                kind=row[2],
                fields=tuple(row[3]),
                detail=row[4],
            )
            for row in rows
        ]


def _job(row: tuple[Any, ...]) -> Job:
    return Job(
        job_id=row[0],
        kind=JobKind(row[1]),
        state=JobState(row[2]),
        wanted=JobState(row[3]),
        epoch=row[4],
        params=row[5],
        summary=row[6],
        owner=row[7],
        owner_alive=row[8],
        created_at=row[9],
        started_at=row[10],
        finished_at=row[11],
        error=row[12],
    )


def _lost(job_id: int) -> Job:
    raise LeaseLost(f"Job {job_id} belongs to another runner now.", where="ledger")


def _text(key: Key | None) -> str | None:
    return None if key is None else encode_key(key)


def _key(text: str | None) -> Key | None:
    return None if text is None else decode_key(text)
