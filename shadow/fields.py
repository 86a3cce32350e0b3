"""Reading JSON that another replica, or an older Crossfade, wrote: typed, or a clear error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proxy.errors import Corrupt
from proxy.model import JsonValue


def integer(data: Mapping[str, JsonValue], name: str) -> int:
    """Return a whole number. Raises Corrupt."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _corrupt(name, "a whole number", value)
    return value


def text(data: Mapping[str, JsonValue], name: str) -> str:
    """Return a string. Raises Corrupt."""
    value = data.get(name)
    if not isinstance(value, str):
        raise _corrupt(name, "a string", value)
    return value


def mapping(data: Mapping[str, JsonValue], name: str) -> Mapping[str, JsonValue]:
    """Return an object. Raises Corrupt."""
    value = data.get(name)
    if not isinstance(value, Mapping):
        raise _corrupt(name, "an object", value)
    return value


def mappings(data: Mapping[str, JsonValue], name: str) -> list[Mapping[str, JsonValue]]:
    """Return a list of objects. Raises Corrupt."""
    value = data.get(name)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _corrupt(name, "a list", value)
    return [item for item in value if isinstance(item, Mapping)]


def counts(data: Mapping[str, JsonValue], name: str) -> dict[str, int]:
    """Return an object whose values are whole numbers. Raises Corrupt."""
    inner = mapping(data, name)
    return {key: integer(inner, key) for key in inner}


def integers(data: Mapping[str, JsonValue], name: str, length: int) -> tuple[int, ...]:
    """Return a list of exactly `length` whole numbers. Raises Corrupt."""
    value = data.get(name)
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or len(value) != length
        or not all(isinstance(item, int) for item in value)
    ):
        raise _corrupt(name, f"{length} whole numbers", value)
    return tuple(item for item in value if isinstance(item, int))


def _corrupt(name: str, expected: str, value: object) -> Corrupt:
    return Corrupt(
        f"shadow statistics: {name!r} should be {expected}, got {str(value)[:60]!r}.",
        hint="Were they written by another version of Crossfade?",
    )
