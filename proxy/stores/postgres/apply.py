"""Applying writes: one in one round trip, several in one pipelined transaction."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from proxy.errors import Ambiguous
from proxy.model import Applied, Write, WriteOp, WriteResult
from proxy.stores.batches import failed, undone
from proxy.stores.fitting import meets
from proxy.stores.patches import patched_fields
from proxy.stores.postgres import changes, writes
from proxy.stores.postgres.connection import Connection
from proxy.stores.postgres.errors import (
    STALE_PLAN,
    is_foreign_key,
    is_refusal,
    refusal_text,
    translate,
)
from proxy.stores.postgres.fitness import values_misfit, write_misfit
from proxy.stores.postgres.reads import decoded
from proxy.stores.postgres.rows import PLAIN, WHOLE, select
from proxy.stores.postgres.table import Table
from proxy.stores.postgres.writes import Tables

_CHUNK = 200
_DONE = WriteResult(applied=Applied.DONE)
_CHANGED = WriteResult(applied=Applied.CHANGED)
_Outcome = Callable[[], Awaitable[WriteResult]]
_Cursor = psycopg.AsyncCursor[TupleRow]


@dataclass(frozen=True, slots=True)
class Writer:
    """Applies writes on a connection. `tables` are those of one store."""

    store: str
    tables: Tables

    async def apply(
        self, connection: Connection, items: Sequence[Write], *, atomic: bool
    ) -> list[WriteResult]:
        """Apply writes in order, one result each.

        Writes that stand alone are still sent in transactions of many while nothing goes wrong:
        one commit serves all. When the server refuses one, the transaction is undone and each
        is applied on its own.

        Raises:
            Ambiguous: not atomic, and it failed when some had been applied.
        """
        if len(items) == 1:
            return [await self._alone(connection, items[0])]
        if atomic:
            return await self._transaction(connection, items, atomic=True)
        results: list[WriteResult] = []
        try:
            for start in range(0, len(items), _CHUNK):
                await self._chunk(connection, items[start : start + _CHUNK], results)
        except psycopg.Error as error:
            if not results:
                raise
            if error.sqlstate in STALE_PLAN:
                await connection.close()
            raise self._half_done(error, len(results)) from error
        return results

    async def _chunk(
        self, connection: Connection, chunk: Sequence[Write], results: list[WriteResult]
    ) -> None:
        """Apply some of the writes that stand alone, adding their results."""
        try:
            results += await self._transaction(connection, chunk, atomic=False)
        except psycopg.Error as error:
            if connection.closed or not is_refusal(error):
                raise
            for write in chunk:
                results.append(await self._alone(connection, write))  # kept if a later one fails

    def _half_done(self, error: psycopg.Error, done: int) -> Ambiguous:
        failure = translate(error, store=self.store, writing=True)
        return Ambiguous(
            f"{failure.message} The first {done} writes of the batch had been applied.",
            where=self.store,
            timed_out=isinstance(failure, Ambiguous) and failure.timed_out,
            hint=failure.hint,
        )

    async def _alone(self, connection: Connection, write: Write) -> WriteResult:
        """Apply one write; a single statement needs no transaction of its own."""
        table = self.tables[write.collection]
        if not self._is_single(table, write):
            (result,) = await self._transaction(connection, [write], atomic=True)
            return result
        why = write_misfit(table, write, self.store)
        if why:
            return WriteResult(applied=Applied.REFUSED, detail=why)
        try:
            cursor = await _execute(connection, *self._statement(table, write))
            return await _result(table, write, cursor)
        except psycopg.Error as error:
            if connection.closed or not is_refusal(error):
                raise
            return _refused(table, write, error)

    def _is_single(self, table: Table, write: Write) -> bool:
        if write.op is WriteOp.DELETE:
            return not changes.children_of(table, self.tables)
        if write.op is WriteOp.UPSERT and write.expected is not None:
            return write.expected.fields is None
        return write.op is not WriteOp.PATCH

    def _statement(self, table: Table, write: Write) -> tuple[str, list[Any]]:
        if write.op is WriteOp.DELETE:
            return changes.delete(table), table.key_params(write.key)
        if _must_be_new(write):
            write = replace(write, op=WriteOp.INSERT)
        statement = writes.upsert(table, write, self.tables)
        return statement.sql, statement.params(write)

    # Transactions.

    async def _transaction(
        self, connection: Connection, items: Sequence[Write], *, atomic: bool
    ) -> list[WriteResult]:
        """Apply writes in one pipelined transaction.

        Raises:
            psycopg.Error: not atomic, and the server refused one; nothing was applied.
        """
        queue = _Queue()
        alone = len(items) == 1
        try:
            async with connection.pipeline():
                await connection.execute("BEGIN")
                for number, write in enumerate(items):
                    queue.number = number
                    queue.outcomes.append(await self._queued(connection, write, queue))
                # Where no outcome can undo the others the commit needs no second round trip.
                if not atomic or alone:
                    await connection.execute("COMMIT")
                results = [await outcome() for outcome in queue.outcomes]
            if not atomic or alone:
                return results
            culprit = _first_failed(items, results)
            if culprit is None:
                await connection.commit()
                return results
            # Not inside the pipeline: the driver forgets its prepared statements at a rollback,
            # and there it would do so too late.
            await connection.rollback()
            return undone(len(items), culprit, results[culprit])
        except psycopg.Error as error:
            if connection.closed:
                raise
            await connection.rollback()
            if not atomic or not is_refusal(error):
                raise
            culprit = queue.culprit()
            write = items[culprit]
            why = _refused(self.tables[write.collection], write, error)
            return undone(len(items), culprit, why)

    async def _queued(self, connection: Connection, write: Write, queue: _Queue) -> _Outcome:
        """Send one write of a transaction; return what awaits its outcome."""
        table = self.tables[write.collection]
        why = write_misfit(table, write, self.store)
        if why:
            return _known(WriteResult(applied=Applied.REFUSED, detail=why))
        if write.op is WriteOp.PATCH:
            return await self._patch(connection, table, write, queue)
        if write.op is WriteOp.UPSERT and not self._is_single(table, write):
            return await self._upsert_expecting(connection, table, write, queue)
        if self._is_single(table, write):
            cursor = await queue.execute(connection, *self._statement(table, write))
            return lambda: _result(table, write, cursor)
        key = table.key_params(write.key)
        locked = await queue.execute(connection, changes.lock(table), key)
        statement = changes.delete_childless(table, self.tables)
        deleted = await queue.execute(connection, statement, key)

        async def outcome() -> WriteResult:
            if await locked.fetchone() is None:
                return WriteResult(applied=Applied.NOT_FOUND)
            gone = await deleted.fetchone() is not None
            return _DONE if gone else WriteResult(applied=Applied.HAS_CHILDREN)

        return outcome

    async def _upsert_expecting(
        self, connection: Connection, table: Table, write: Write, queue: _Queue
    ) -> _Outcome:
        """Look at the record under a lock, and send the upsert if it is as expected."""
        read = changes.read_for_patch(table)
        cursor = await queue.execute(connection, read, table.key_params(write.key))
        found = await decoded(cursor, table, select(table, WHOLE))
        if not meets(table.spec, write.expected, found[0] if found else None):
            return _known(_CHANGED)
        updated = await queue.execute(connection, *self._statement(table, write))
        return lambda: _result(table, write, updated)

    async def _patch(
        self, connection: Connection, table: Table, write: Write, queue: _Queue
    ) -> _Outcome:
        """Read the record under a lock, merge, and send the update."""
        cursor = await queue.execute(
            connection, changes.read_for_patch(table), table.key_params(write.key)
        )
        found = await decoded(cursor, table, select(table, WHOLE))
        if not found:
            return _known(WriteResult(applied=Applied.NOT_FOUND))
        (stored,) = found
        if not meets(table.spec, write.expected, stored):
            return _known(_CHANGED)
        parent = changes.find_parent(table, write, self.tables)
        if parent is not None:
            cursor = await queue.execute(connection, parent.sql, parent.params(write))
            if await cursor.fetchone() is None:
                return _known(WriteResult(applied=Applied.PARENT_MISSING))
        fields = patched_fields(table.spec, stored.fields, write.fields)
        merged = replace(write, fields=fields)
        statement = changes.update(table, merged, self.tables)
        updated = await queue.execute(connection, statement.sql, statement.params(merged))
        vector = write.vector if write.set_vector else stored.vector

        async def outcome() -> WriteResult:
            (record,) = await decoded(updated, table, select(table, PLAIN))
            return WriteResult(applied=Applied.DONE, record=replace(record, vector=vector))

        return outcome


class _Queue:
    """What a pipelined transaction has sent: cursors and outcomes by the number of their write."""

    def __init__(self) -> None:
        self.number = 0
        self.outcomes: list[_Outcome] = []
        self._cursors: list[tuple[int, _Cursor]] = []

    async def execute(self, connection: Connection, statement: str, params: list[Any]) -> _Cursor:
        """Queue a statement of the current write."""
        cursor = await _execute(connection, statement, params)
        self._cursors.append((self.number, cursor))
        return cursor

    def culprit(self) -> int:
        """Return the number of the write that failed: the first that has no result."""
        unanswered = (n for n, cursor in self._cursors if cursor.pgresult is None)
        return next(unanswered, self.number)


async def _execute(connection: Connection, statement: str, params: list[Any]) -> _Cursor:
    """Execute a prepared statement; a value that cannot even be sent is a DataError."""
    try:
        return await connection.execute(statement, params, prepare=True, binary=True)
    except (UnicodeError, OverflowError, ValueError, struct.error) as error:
        raise psycopg.DataError(f"a value cannot be sent: {error}") from error


async def _result(table: Table, write: Write, cursor: _Cursor) -> WriteResult:
    """Return the outcome of a single statement."""
    if _must_be_new(write):
        made = await _result(table, replace(write, op=WriteOp.INSERT), cursor)
        return _CHANGED if made.applied is Applied.EXISTS else made
    if write.op is WriteOp.INSERT and writes.counts_parents(table, write):
        parents, made = await cursor.fetchone() or (0, 0)
        if made:
            return _DONE
        return WriteResult(applied=Applied.EXISTS if parents else Applied.PARENT_MISSING)
    if await cursor.fetchone() is not None:
        return _DONE
    if write.op is WriteOp.DELETE:
        return WriteResult(applied=Applied.NOT_FOUND)
    missing = write.op is WriteOp.UPSERT
    return WriteResult(applied=Applied.PARENT_MISSING if missing else Applied.EXISTS)


def _must_be_new(write: Write) -> bool:
    """True for an upsert that is to find no record; it is sent as an insert."""
    expected = write.expected
    return write.op is WriteOp.UPSERT and expected is not None and expected.fields is None


async def _known_result(result: WriteResult) -> WriteResult:
    return result


def _known(result: WriteResult) -> _Outcome:
    return lambda: _known_result(result)


def _first_failed(items: Sequence[Write], results: Sequence[WriteResult]) -> int | None:
    pairs = enumerate(zip(items, results, strict=True))
    return next((number for number, pair in pairs if failed(*pair)), None)


def _refused(table: Table, write: Write, error: psycopg.Error) -> WriteResult:
    """Return the result of a write that the server refused, with a reason that names a field."""
    if is_foreign_key(error):
        deleted = write.op is WriteOp.DELETE
        applied = Applied.HAS_CHILDREN if deleted else Applied.PARENT_MISSING
        return WriteResult(applied=applied, detail=refusal_text(error))
    why = values_misfit(table, write.key, write.fields, whole=False)
    return WriteResult(applied=Applied.REFUSED, detail=why or refusal_text(error))
