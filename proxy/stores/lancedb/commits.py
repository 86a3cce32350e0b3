"""The commits themselves: one merge for the upserts of a table, one delete for its deletes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from proxy.errors import Corrupt
from proxy.model import Key, encode_key
from proxy.stores.lancedb.group import Changes
from proxy.stores.lancedb.rows import encode_rows
from proxy.stores.lancedb.sql import keys_in
from proxy.stores.lancedb.table import OpenTable

_KEYS_A_DELETE: Final = 5000


async def merge(opened: OpenTable, changes: Changes) -> None:
    """Merge the upserts of a table in one commit.

    Raises:
        Corrupt: it did something else than was asked; the table has a key twice, or another
            process writes it.
    """
    rows = encode_rows(opened.table, list(changes.upserts.values()))
    on = [column.name for column in opened.table.key_columns]
    builder = opened.handle.merge_insert(on).when_matched_update_all()
    # "null" is how LanceDB is told that a null vector is meant; numbers that are not finite have
    # been refused before (`fitness`).
    result = await builder.when_not_matched_insert_all().execute(rows, on_bad_vectors="null")
    count_merged(opened, changes, result)


def count_merged(opened: OpenTable, changes: Changes, result: Any) -> None:
    """Hold the counters of a merge against what it was to do."""
    inserted, updated = result.num_inserted_rows, result.num_updated_rows
    total = len(changes.upserts)
    there = sum(changes.known.values())
    new = len(changes.known) - there
    if inserted + updated == total and there <= updated and new <= inserted:
        return
    raise Corrupt(
        f"A merge of {total} records into {opened.table.name} ({there} there, {new} new,"
        f" {total - there - new} unknown) inserted {inserted} and updated {updated}.",
        hint="The table has a key twice, or another process writes it too.",
    )


async def delete(opened: OpenTable, keys: Sequence[Key]) -> None:
    """Delete keys that are there, in one commit (or one for each 5,000).

    Raises:
        Corrupt: as many rows as keys were not deleted.
    """
    for start in range(0, len(keys), _KEYS_A_DELETE):
        part = keys[start : start + _KEYS_A_DELETE]
        result = await opened.handle.delete(keys_in(opened.table, part))
        if result.num_deleted_rows != len(part):
            raise Corrupt(
                f"A delete of {len(part)} records from {opened.table.name} removed"
                f" {result.num_deleted_rows} rows (the first key: {encode_key(part[0])}).",
                hint="The table has a key twice, or another process writes it too.",
            )
