"""A work item as the application knows it, and as the judge compares it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from proxy.demo.oracle import Image
from proxy.model import JsonValue, Key

COLLECTION = "work_items"
STATUSES = ("not_started", "in_progress", "blocked", "completed", "cancelled")
PRIORITIES = ("low", "medium", "high", "critical")
FIELDS = (
    "item_id",
    "title",
    "description",
    "item_type",
    "status",
    "priority",
    "assignee",
    "tags",
    "estimated_hours",
    "actual_hours",
    "progress",
    "parent_id",
    "dependencies",
    "sequence_number",
    "order_index",
    "context_tags",
    "complexity",
    "notes",
    "acceptance_criteria",
    "executable",
    "execution_instructions",
    "created_at",
    "updated_at",
    "metadata",
)

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)

ItemValue: TypeAlias = (
    None | bool | int | float | str | dt.datetime | Sequence[str] | Mapping[str, object]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One work item; `fields` has each of FIELDS."""

    id: str
    fields: Mapping[str, ItemValue]

    @property
    def key(self) -> Key:
        return (self.id,)

    @property
    def text(self) -> str:
        """What the item is embedded by, as the application puts it: title and description."""
        return text_of(self.fields)

    def changed(self, **fields: ItemValue) -> Item:
        """Return the item with other values in some fields."""
        return replace(self, fields={**self.fields, **fields})

    def texts(self, name: str) -> Sequence[str]:
        """Return a list field, empty for null."""
        value = self.fields[name]
        return [] if value is None or isinstance(value, str) else list(value)  # type: ignore[arg-type]  # a list of texts


def text_of(fields: Mapping[str, object]) -> str:
    """Return "title description", without what is missing."""
    return f"{fields['title'] or ''} {fields['description'] or ''}".strip()


def image_of(item: Item) -> Image:
    """Return everything that is known of an item once it is written."""
    return plain(item.fields)


def plain(fields: Iterable[tuple[str, object]] | Mapping[str, object]) -> dict[str, JsonValue]:
    """Return fields as JSON: timestamps as microseconds since 1970, lists and objects as such."""
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    return {name: plain_value(value) for name, value in pairs}


def plain_value(value: object) -> JsonValue:
    """Return one value as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dt.datetime):
        return (value - _EPOCH) // _MICROSECOND
    if isinstance(value, Mapping):
        return {str(name): plain_value(inner) for name, inner in value.items()}
    if isinstance(value, Sequence):
        return [plain_value(inner) for inner in value]
    raise TypeError(f"{type(value).__name__} is not a work item's value")
