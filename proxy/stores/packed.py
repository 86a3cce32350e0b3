"""Values inside a packed JSON column, as the types of the fields that they belong to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from proxy.model import FieldType, Value

EXPECTED: Final[Mapping[FieldType, type]] = {
    FieldType.TEXT: str,
    FieldType.INT: int,
    FieldType.TEXT_LIST: list,
}
"""Types whose JSON form is the value itself, and the Python type it has."""


def unpacked(kind: FieldType, item: Any) -> Value:
    """Return a JSON value that is not null as its field's type, None if it is not one."""
    if kind is FieldType.JSON:
        return item  # type: ignore[no-any-return]  # any JSON value
    if isinstance(item, bool):
        return item if kind is FieldType.BOOL else None
    if kind is FieldType.TIMESTAMP:
        return _moment(item)
    if kind is FieldType.FLOAT:
        return _float(item) if isinstance(item, int | float) else None
    expected = EXPECTED.get(kind)
    if expected is None or not isinstance(item, expected):
        return None
    return item  # type: ignore[return-value]  # a str, an int or a list


def _float(item: float) -> float | None:
    try:
        return float(item)
    except OverflowError:
        return None  # an integer of more than 308 digits


def _moment(item: Any) -> dt.datetime | None:
    """Return the time an ISO 8601 text tells; one without a zone is UTC."""
    try:
        moment = dt.datetime.fromisoformat(item)
    except (TypeError, ValueError):
        return None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
