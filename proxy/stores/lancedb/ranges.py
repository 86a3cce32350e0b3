"""Key ranges: cutting a table into them, their keys, their digests, and pages of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from proxy.canonical import key_sort_text
from proxy.errors import Corrupt, Reason, Rejected
from proxy.model import Key, Record, encode_key
from proxy.query import KeyRange, Order
from proxy.stores.arrow import DIALECT, ArrowPlan, encode_batch
from proxy.stores.base import BulkTarget, KeyDigest, RangeDigest
from proxy.stores.lancedb.bulk import logical_rows
from proxy.stores.lancedb.digests import Digester
from proxy.stores.lancedb.errors import reading
from proxy.stores.lancedb.lookup import twice
from proxy.stores.lancedb.reads import ordering
from proxy.stores.lancedb.rows import KEYS, WHOLE, Selection, select
from proxy.stores.lancedb.scan import BATCH_ROWS, batches, prepare
from proxy.stores.lancedb.sql import range_condition
from proxy.stores.lancedb.table import Table

ORDER: Final = "C"
_BULK_ROWS: Final = 4096
_NAMED: Final = 5


def check_order(table: Table, order: str, store: str) -> None:
    """Raise Rejected if keys cannot be ordered so."""
    if order != ORDER:
        raise Rejected(
            f"The {store} store cannot order the keys of {table.spec.name} as {order!r}.",
            hint=f"Its own order is {ORDER!r}.",
        )


def _ordered(handle: Any, table: Table, keys: KeyRange, selection: Selection) -> Any:
    """Return a query of a range, ascending by key."""
    query = handle.query()
    condition = range_condition(table, keys)
    if condition is not None:
        query = query.where(condition)
    order = ordering(table, [Order(field=name) for name in table.spec.key])
    query = query.select(selection.names)
    return query.order_by(order) if order else query


async def split(handle: Any, table: Table, rows_per_range: int) -> list[KeyRange]:
    """Cut the whole table into ranges of `rows_per_range` rows.

    Raises:
        Corrupt: a row has no key; it would be in none of the ranges.
    """
    selection = select(table, KEYS)
    query = _ordered(handle, table, KeyRange(), selection)
    cuts: list[Key | None] = []
    count, last = 0, None
    async for batch in await query.to_batches(max_batch_length=BATCH_ROWS):
        for key in require_whole(table, selection.keys(batch)):
            if count and count % rows_per_range == 0:
                cuts.append(last)
            count, last = count + 1, key
    return [
        KeyRange(after=after, upto=upto)
        for after, upto in zip([None, *cuts], [*cuts, None], strict=True)
    ]


async def range_keys(handle: Any, table: Table, keys: KeyRange) -> list[Key]:
    """Return every key of a range, ascending.

    Raises:
        Corrupt: a key comes twice, or is null.
    """
    selection = select(table, KEYS)
    found = selection.keys(await _ordered(handle, table, keys, selection).to_arrow())
    return require_distinct(table, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """Keys that are there more than once: how many, and the first of them."""

    count: int
    first: tuple[Key, ...]


async def repeated(handle: Any, table: Table) -> Repeated:
    """Read every key once, in order, and tell which come more than once; null ones do not count."""
    selection = select(table, KEYS)
    query = _ordered(handle, table, KeyRange(), selection)
    count, first, last, told = 0, [], None, None
    async for batch in await query.to_batches(max_batch_length=BATCH_ROWS):
        for key in selection.keys(batch):
            if key == last and key != told and None not in key:
                told, count = key, count + 1
                first += [key] if count <= _NAMED else []
            last = key
    return Repeated(count=count, first=tuple(first))


def require_whole(table: Table, keys: list[Key]) -> list[Key]:
    """Return keys that a page or a digest found; a table of an application's may lack some.

    Raises:
        Corrupt: a key is null.
    """
    for key in keys:
        if None in key:
            raise Corrupt(
                f"The table {table.name} has a row of {table.spec.name} whose key is null"
                f" ({encode_key(key)}).",
                hint="Delete the row, or give it a key, in LanceDB itself.",
            )
    return keys


def require_distinct(table: Table, keys: list[Key]) -> list[Key]:
    """Return keys that are in order; LanceDB itself lets a table have one twice.

    Raises:
        Corrupt: a key comes twice, or is null.
    """
    require_whole(table, keys)
    for one, next_one in pairwise(keys):
        if one == next_one:
            raise twice(table, one)
    return keys


async def _digested(
    handle: Any, table: Table, keys: KeyRange, digester: Digester
) -> AsyncIterator[tuple[Any, list[int]]]:
    """Yield rows with their digests; md5 is computed beside the event loop."""
    scan = prepare(table, None, range_condition(table, keys))
    async for rows in batches(handle, scan, digester.selection):
        yield rows, await asyncio.to_thread(digester.digests, rows)


async def digest(handle: Any, table: Table, keys: KeyRange, digester: Digester) -> RangeDigest:
    """Digest a range."""
    rows, total = 0, 0
    async for _, found in _digested(handle, table, keys, digester):
        rows += len(found)
        total += sum(found)
    return RangeDigest(rows=rows, sum=total % 2**128)


async def key_digests(
    handle: Any, table: Table, keys: KeyRange, digester: Digester
) -> list[KeyDigest]:
    """Digest each record of a range, ascending by key."""
    made: list[KeyDigest] = []
    async for rows, found in _digested(handle, table, keys, digester):
        named = zip(digester.selection.keys(rows), found, strict=True)
        made += [KeyDigest(key=key, digest=value) for key, value in named]
    require_whole(table, [item.key for item in made])
    made.sort(key=lambda item: key_sort_text(item.key))
    require_distinct(table, [item.key for item in made])
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A range of a table at one version: `handle` stays there, whatever is written since."""

    store: str
    handle: Any
    table: Table
    span: KeyRange
    deadline_s: float

    async def rows(self, span: KeyRange, selection: Selection) -> Any:
        """Return the rows of a part of the range, in no order, as a pyarrow.Table."""
        condition = range_condition(self.table, span)
        assert condition is not None  # noqa: S101  # every part has an upper bound
        async with reading(self.store, self.table.spec.name, self.deadline_s):
            return await self.handle.query().where(condition).select(selection.names).to_arrow()


class LancePage:
    """The first rows of a range, as they were when it was opened."""

    def __init__(self, store: str, moment: Moment, keys: Sequence[Key]) -> None:
        self._store = store
        self._moment = moment
        self.keys = keys

    async def records(self, exclude: frozenset[Key]) -> list[Record]:
        """Return the page's records, ascending, without those excluded."""
        selection = select(self._moment.table, WHOLE)
        found: list[Record] = []
        async for rows in self._rows(selection, exclude):
            found += selection.records(rows)
        return found

    async def _rows(self, selection: Selection, exclude: frozenset[Key]) -> AsyncIterator[Any]:
        """Yield the page's rows in order, some thousand at a time."""
        after = self._moment.span.after
        for start in range(0, len(self.keys), _BULK_ROWS):
            keys = self.keys[start : start + _BULK_ROWS]
            span = KeyRange(after=after, upto=keys[-1])
            after = keys[-1]
            wanted = [key for key in keys if key not in exclude]
            if not wanted:
                continue
            rows = await self._moment.rows(span, selection)
            places = {key: at for at, key in enumerate(selection.keys(rows))}
            yield rows.take([places[key] for key in wanted])

    async def bulk(self, exclude: frozenset[Key], target: BulkTarget) -> AsyncIterator[bytes]:
        """Stream the same rows in the format "arrow"."""
        plan = target.plan
        if target.dialect != DIALECT or not isinstance(plan, ArrowPlan):
            raise Rejected(
                f"The {self._store} store cannot write the bulk format {target.dialect}.",
                reason=Reason.UNIMPLEMENTED,
            )
        async for rows in self._rows(select(self._moment.table, WHOLE), exclude):
            yield encode_batch(logical_rows(self._moment.table, plan, rows))


async def open_page(store: str, moment: Moment, limit: int) -> LancePage:
    """Read the page's keys, and one more: it may be the last one again.

    Raises:
        Corrupt: a key comes twice.
    """
    selection = select(moment.table, KEYS)
    query = _ordered(moment.handle, moment.table, moment.span, selection).limit(limit + 1)
    async with reading(store, moment.table.spec.name, moment.deadline_s):
        rows = await query.to_arrow()
    keys = require_distinct(moment.table, selection.keys(rows))
    return LancePage(store, moment, keys[:limit])
