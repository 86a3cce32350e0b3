"""The course of a migration: its phases over time, what clients felt in each, and the swaps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shadow.page import charts
from shadow.page.markup import NOTHING, Child, Markup, el, joined
from shadow.page.shell import section, table
from shadow.page.values import Json, count, duration, milliseconds, num, rows, txt

STALL_LIMIT_MS = 250.0
_STRIP = 46
_NUMBERED = 0.045


def phases_section(data: Json) -> Markup:
    """Return the timeline and one row a phase."""
    phases = rows(data, "phases")
    if not phases:
        return NOTHING
    most = max((num(item, "search_p95_ms") or 0.0 for item in phases), default=0.0)
    heads = (
        ("n", ""),
        ("", "phase"),
        ("n wide", "lasted"),
        ("n", "p50"),
        ("range", "search, p50 to p95"),
        ("n", "p95"),
        ("n wide", "searches"),
        ("n wide", "writes"),
        ("n wide", "write p50"),
        ("n wide", "write p95"),
        ("n", "failed"),
    )
    lines = [_phase(index, item, most) for index, item in enumerate(phases, start=1)]
    return section(
        "What clients felt, phase by phase",
        _timeline(phases),
        table(heads, lines, style="phases"),
        note="Latency as the clients measured it, through the proxy.",
    )


def _phase(index: int, item: Json, most: float) -> Sequence[Child]:
    low, high = num(item, "search_p50_ms"), num(item, "search_p95_ms")
    failed = num(item, "failed")
    name = txt(item, "phase")
    return (
        el("span", str(index), class_="step"),
        el("b", name),
        duration(num(item, "duration_s")),
        milliseconds(low),
        charts.range_bar(low, high, most, _side(name)),
        milliseconds(high),
        count(num(item, "searches")),
        count(num(item, "writes")),
        milliseconds(num(item, "write_p50_ms")),
        milliseconds(num(item, "write_p95_ms")),
        el("span", count(failed), class_="bad" if failed else ""),
    )


def _timeline(phases: Sequence[Json]) -> Markup:
    """Draw the whole run: in each phase, the share of reads that either store answers."""
    begun, places = 0.0, []
    for item in phases:
        started, lasted = num(item, "started_s"), num(item, "duration_s") or 0.0
        begin = begun if started is None else started
        places.append((begin, lasted))
        begun = begin + lasted
    first = min(begin for begin, _ in places)
    whole = max(begin + lasted for begin, lasted in places) - first
    if whole <= 0:
        return NOTHING
    bars = [
        _slice(index, item, (begin - first) / whole, lasted / whole)
        for index, (item, (begin, lasted)) in enumerate(zip(phases, places, strict=True), start=1)
    ]
    ends = (("0", "start", "0 s"), ("100%", "end", duration(whole)))
    ticks = [
        el("text", text, x=x, y=_STRIP + 17, text_anchor=anchor, class_="tick")
        for x, anchor, text in ends
    ]
    strip = el(
        "svg",
        *bars,
        *ticks,
        class_="chart",
        width="100%",
        height=_STRIP + 22,
        role="img",
        aria_label="Timeline of the phases, with the share of reads that each store answers",
    )
    legend = el(
        "p",
        el("span", el("i", class_="key control"), "old answers reads", class_="legend"),
        el("span", el("i", class_="key candidate"), "new answers reads", class_="legend"),
        class_="legends",
    )
    return el("div", strip, legend)


def _slice(index: int, phase: Json, left: float, share: float) -> Markup:
    """One phase of the timeline: the new store's share grows from the bottom."""
    name, width = txt(phase, "phase"), max(0.003, share)
    new = _new_share(name)
    top = _STRIP * (1 - new)
    title = el("title", f"{index}. {name}: {duration(num(phase, 'duration_s'))}")
    place = {"x": charts.pct(left), "width": charts.pct(width)}
    parts = [
        el("rect", title, y=0, height=top, class_="phase old", **place) if top else NOTHING,
        el("rect", title, y=top, height=_STRIP - top, class_="phase new", **place)
        if new
        else NOTHING,
        el("line", x1=place["x"], x2=place["x"], y1=0, y2=_STRIP, class_="cut"),
    ]
    if width > _NUMBERED:
        middle = charts.pct(left + width / 2)
        parts.append(
            el(
                "text",
                str(index),
                x=middle,
                y=_STRIP / 2 + 5,
                text_anchor="middle",
                class_="inside",
            )
        )
    return joined(parts)


def _new_share(phase: str) -> float:
    """Return the share of reads that the new store answers, 0..1, told by the phase's name."""
    name = phase.lower()
    ramp = re.search(r"(\d+(?:\.\d+)?)\s*%", name)
    if ramp:
        return min(100.0, float(ramp.group(1))) / 100
    if "rollback" in name:
        return 0.0
    return 1.0 if any(word in name for word in ("new", "cutover", "final")) else 0.0


def _side(phase: str) -> str:
    return "candidate" if _new_share(phase) > 0.5 else "control"


def swaps_section(data: Json) -> Markup:
    """Return how long each swap of the primary held a write."""
    swaps = rows(data, "swaps")
    if not swaps:
        return NOTHING
    lines: list[Sequence[Child]] = []
    for item in swaps:
        stall = num(item, "stall_ms")
        bar = (
            NOTHING
            if stall is None
            else charts.limit_bar(
                stall, STALL_LIMIT_MS, f"{milliseconds(stall)} of {milliseconds(STALL_LIMIT_MS)}"
            )
        )
        lines.append((f"to {txt(item, 'to')}", milliseconds(stall), bar))
    heads = (("", "primary"), ("n", "writes held"), ("range", "against the limit of 250 ms"))
    return section(
        "The swaps",
        table(heads, lines, style="swaps"),
        note="While the primary changes, writes wait; they do not fail. Reads go on.",
    )
