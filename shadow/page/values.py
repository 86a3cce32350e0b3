"""Reading report JSON leniently (a missing part is empty), and numbers as a person reads them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence

from proxy.model import JsonValue

Json = Mapping[str, JsonValue]
DASH = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


def obj(data: JsonValue, *path: str) -> Json:
    """Return the object at a path, an empty one if there is none."""
    found = at(data, *path)
    return found if isinstance(found, Mapping) else {}


def rows(data: JsonValue, *path: str) -> list[Json]:
    """Return the objects of the list at a path."""
    return [item for item in items(data, *path) if isinstance(item, Mapping)]


def items(data: JsonValue, *path: str) -> Sequence[JsonValue]:
    """Return the list at a path, an empty one if there is none."""
    found = at(data, *path)
    return found if isinstance(found, Sequence) and not isinstance(found, str) else ()


def num(data: JsonValue, *path: str) -> float | None:
    """Return the finite number at a path, None if there is none."""
    found = at(data, *path)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def txt(data: JsonValue, *path: str) -> str:
    """Return what is at a path as text, "" if there is nothing."""
    found = at(data, *path)
    return "" if found is None else str(found)


def at(data: JsonValue, *path: str) -> JsonValue:
    """Return the value at a path, None if there is none."""
    for name in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(name)
    return data


def count(value: float | None) -> str:
    """12345.0 -> 12,345."""
    return DASH if value is None else f"{value:,.0f}"


def share(value: float | None, digits: int = 4) -> str:
    """0.99 -> 0.9900; only exactly 1 is shown as 1."""
    if value is None:
        return DASH
    shown = f"{value:.{digits}f}"
    return f"{1 - 10**-digits:.{digits}f}" if value < 1 and float(shown) >= 1 else shown


def percent(part: float, whole: float) -> str:
    """Return a share in percent, never rounded up to 100 or down to 0."""
    if whole <= 0:
        return DASH
    value = 100 * part / whole
    if part < whole and value > 99.9:
        return "99.9 %"
    if part > 0 and value < 0.1:
        return "0.1 %"
    return f"{value:.1f} %" if value not in (0, 100) else f"{value:.0f} %"


def milliseconds(value: float | None) -> str:
    """0.4321 -> 0.43 ms; 52.13 -> 52.1 ms; 12345 -> 12.3 s."""
    if value is None:
        return DASH
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"


def ratio(value: float | None) -> str:
    """1.0512 -> 1.05 times, as a sign."""
    return DASH if value is None else f"{value:.2f}{TIMES}"


def duration(seconds: float | None) -> str:
    """0.5 -> 0.5 s; 75 -> 1 min 15 s; 4000 -> 1 h 7 min."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(text: str) -> str:
    """2026-01-31T14:05:00.25+00:00 -> 2026-01-31 14:05:00 UTC; anything else as it is."""
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        return text
    if at.tzinfo is None:
        return f"{at:%Y-%m-%d %H:%M:%S}"
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def plural(number: float, word: str) -> str:
    """Return "1 query", "2 queries"."""
    if number == 1:
        return f"{count(number)} {word}"
    ending = word[:-1] + "ies" if word.endswith("y") and word[-2:] != "ay" else word + "s"
    return f"{count(number)} {ending}"
