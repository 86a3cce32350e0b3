"""Rows of the doc server's old database, spoiled on purpose behind the proxy's back."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from proxy.demo.damage import OUTCOME, Damage
from proxy.model import Key

_CHANGE = (
    "UPDATE doc_embeddings SET content = content || ' (damaged)'"
    " WHERE crate_name = %s AND doc_path = %s"
)
_REMOVE = "DELETE FROM doc_embeddings WHERE crate_name = %s AND doc_path = %s"
# The serial number is far from those that the new store gives out: both would use them at once.
_ADD = (
    "INSERT INTO doc_embeddings (id, crate_id, crate_name, doc_path, content)"
    " SELECT (SELECT max(id) FROM doc_embeddings) + 1000000, id, name, %s,"
    " 'nobody wrote this through the proxy' FROM crates WHERE name = %s"
)


def inflict(old_dsn: str, kinds: Sequence[str], quiet: Sequence[Key]) -> list[Damage]:
    """Spoil one row of the old database for each kind.

    Args:
        quiet: keys of documents that live traffic leaves alone, at least one a kind.
    """
    done: list[Damage] = []
    with psycopg.connect(old_dsn) as connection:
        for number, (kind, key) in enumerate(zip(kinds, quiet, strict=False)):
            doc_type, crate, path = key
            if kind == "added":
                path = f"damage/added-{number}.html"
                connection.execute(_ADD, (path, crate))
            else:
                connection.execute(_CHANGE if kind == "changed" else _REMOVE, (crate, path))
            spoiled = (doc_type, crate, path)
            done.append(
                Damage(kind=kind, collection="documents", key=spoiled, outcome=OUTCOME[kind])
            )
    return done
