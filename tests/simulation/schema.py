"""The collection that the simulated migration moves: renamed, repacked, keyed by a name."""

from __future__ import annotations

from functools import cache

from proxy.config.loader import load_text
from proxy.layouts import StoreSchema

COLLECTION = "notes"
_CONFIGURATION = """
migration: simulated
old: {engine: memory}
new: {engine: memory}
ledger: {engine: memory}
collections:
  notes:
    key: [name]
    fields:
      name: {type: text, required: true}
      body: {type: text, required: true}
      extra: {type: text}
    old:
      table: notes
      columns: {name: name, body: body, extra: extra}
    new:
      table: records
      columns: {title: name, content: body, rest: {packed: {extra: extra}}}
"""


@cache
def schemas() -> dict[str, StoreSchema]:
    """Return the schemas of "old" and "new"."""
    config = load_text(_CONFIGURATION, "simulated.yaml")
    return {"old": config.old, "new": config.new}
