"""HTML and SVG elements. A plain string is always escaped; only `Markup` is taken as it is."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

_VOID = frozenset({"meta", "br", "hr"})


@dataclass(frozen=True, slots=True)
class Markup:
    """Text that is HTML already."""

    html: str


Child: TypeAlias = Markup | str
NOTHING = Markup("")


def el(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element.

    A trailing underscore is dropped from an attribute's name and others become hyphens
    (`class_`, `stroke_width`). An attribute that is None or "" is left out.
    """
    inner = "".join(_text(child) for child in children)
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(_value(value))}"'
        for name, value in attributes.items()
        if value is not None and value != ""
    )
    return Markup(f"<{tag}{named}>" if tag in _VOID else f"<{tag}{named}>{inner}</{tag}>")


def joined(parts: Iterable[Child]) -> Markup:
    """Return the parts one after the other."""
    return Markup("".join(_text(part) for part in parts))


def _text(child: Child) -> str:
    return child.html if isinstance(child, Markup) else html.escape(child)


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
