"""Charts as inline SVG in percent coordinates: they stretch with the page, their text does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shadow.page.markup import NOTHING, Markup, el, joined
from shadow.page.values import Json, count, items, milliseconds, num, percent

_AREA_HEIGHT = 132
_ROW_HEIGHT = 22
_SHARE_HEIGHT = 62


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAxis:
    """Milliseconds on a logarithmic axis from `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return the place of a value, 0..1."""
        span = math.log(self.high / self.low)
        place = math.log(max(value, self.low) / self.low) / span
        return min(1.0, max(0.0, place))

    def ticks(self) -> list[float]:
        """Return 1, 2, 5 times the powers of ten within, or the powers alone if those are many."""
        first = math.floor(math.log10(self.low))
        powers = range(first, math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if self.high / self.low < 1000 else (1,)
        return [
            step * 10.0**power
            for power in powers
            for step in steps
            if self.low <= step * 10.0**power <= self.high
        ]


def log_axis(values: Sequence[float]) -> LogAxis:
    """Return an axis around the values with a little room on both sides."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive) * 0.85, max(positive) * 1.15
    return LogAxis(low=low, high=max(high, low * 2.5))


def pct(place: float) -> str:
    """0.25 -> 25%."""
    return f"{100 * place:.3f}%".replace(".000%", "%")


def latency_chart(control: Json, candidate: Json) -> Markup:
    """Draw both distributions over one axis, and p50, p95 and p99 of each below."""
    sides = ((control, "control"), (candidate, "candidate"))
    edges = [
        float(edge)
        for side, _ in sides
        for bar in items(side, "histogram")
        if isinstance(bar, Sequence)
        for edge in bar[:2]
        if isinstance(edge, int | float)
    ]
    if not edges:
        return NOTHING
    axis = log_axis(edges)
    height = _AREA_HEIGHT + 2 * _ROW_HEIGHT + 24
    parts = [_grid(axis, _AREA_HEIGHT + 2 * _ROW_HEIGHT)]
    parts += [_area(side, name, axis) for side, name in sides]
    for row, (side, name) in enumerate(sides):
        middle = _AREA_HEIGHT + 12 + row * _ROW_HEIGHT
        parts.append(percentile_marks(side, name, axis, middle))
    return el(
        "svg",
        *parts,
        class_="chart",
        width="100%",
        height=height,
        role="img",
        aria_label="Latency distribution of both stores on a logarithmic axis",
    )


def _grid(axis: LogAxis, bottom: float) -> Markup:
    lines = []
    for tick in axis.ticks():
        place = axis.at(tick)
        anchor = "start" if place < 0.03 else "end" if place > 0.97 else "middle"
        label = f"{tick:g} ms" if tick < 1000 else f"{tick / 1000:g} s"
        lines.append(el("line", x1=pct(place), x2=pct(place), y1=0, y2=bottom, class_="grid"))
        lines.append(
            el("text", label, x=pct(place), y=bottom + 17, text_anchor=anchor, class_="tick")
        )
    return joined(lines)


def _area(side: Json, name: str, axis: LogAxis) -> Markup:
    """A stepped area: the height of each step is its share of the side's own queries."""
    bars = [
        (float(low), float(high), float(number))
        for low, high, number in _triples(side)
        if number > 0
    ]
    if not bars:
        return NOTHING
    tallest = max(number for _, _, number in bars)
    steps, reached = ["M0,100"], 0.0
    for low, high, number in bars:
        left, right = 1000 * axis.at(low), 1000 * axis.at(high)
        top = 100 - 92 * number / tallest
        if left > reached + 0.01:
            steps.append(f"L{reached:.2f},100 L{left:.2f},100")
        steps.append(f"L{left:.2f},{top:.2f} L{right:.2f},{top:.2f}")
        reached = right
    outline = " ".join([*steps, f"L{reached:.2f},100 L1000,100"])
    path = el("path", d=outline, class_=f"area {name}", vector_effect="non-scaling-stroke")
    return el(
        "svg",
        path,
        x="0",
        y="0",
        width="100%",
        height=_AREA_HEIGHT,
        viewBox="0 0 1000 100",
        preserveAspectRatio="none",
    )


def _triples(side: Json) -> list[tuple[float, float, float]]:
    found = []
    for bar in items(side, "histogram"):
        if isinstance(bar, Sequence) and len(bar) == 3:
            numbers = [float(value) for value in bar if isinstance(value, int | float)]
            if len(numbers) == 3:
                found.append((numbers[0], numbers[1], numbers[2]))
    return found


def percentile_marks(side: Json, name: str, axis: LogAxis, middle: float) -> Markup:
    """Draw p50 (filled), p95 (ringed) and p99 (a bar) of one side on one line."""
    places = [num(side, field) for field in ("p50_ms", "p95_ms", "p99_ms")]
    known = [axis.at(value) for value in places if value is not None]
    if not known:
        return NOTHING
    marks = [
        el("line", x1=pct(known[0]), x2=pct(known[-1]), y1=middle, y2=middle, class_=f"span {name}")
    ]
    titles = ("p50", "p95", "p99")
    for index, place in enumerate(known):
        title = el("title", f"{name} {titles[index]} {milliseconds(places[index])}")
        style = f"dot {name} {titles[index]}"
        marks.append(
            el("circle", title, cx=pct(place), cy=middle, r=5 if index < 2 else 3, class_=style)
        )
    return joined(marks)


def share_chart(shares: Json, label: str) -> Markup:
    """Draw the answers that are not perfect over low..1; the perfect ones are told in words."""
    bins = [float(value) for value in items(shares, "bins") if isinstance(value, int | float)]
    if len(bins) < 2:
        return NOTHING
    low = num(shares, "low") or 0.0
    rest = bins[:-1]
    tallest, width = max(rest), 1 / len(rest)
    bars = []
    for step, number in enumerate(rest):
        if number <= 0:
            continue
        tall = max(3.0, (_SHARE_HEIGHT - 16) * number / tallest)
        start = low + (1 - low) * step * width
        title = el("title", f"{start:.2f} to {start + (1 - low) * width:.2f}: {count(number)}")
        left, right = pct(step * width + 0.003), pct(width - 0.006)
        top = _SHARE_HEIGHT - tall
        bars.append(el("rect", title, x=left, width=right, y=top, height=tall, class_="bar"))
        middle = pct((step + 0.5) * width)
        bars.append(
            el("text", count(number), x=middle, y=top - 4, text_anchor="middle", class_="tick")
        )
    base = el("line", x1="0", x2="100%", y1=_SHARE_HEIGHT, y2=_SHARE_HEIGHT, class_="axis")
    ends = (("0", "start", low), ("50%", "middle", (low + 1) / 2), ("100%", "end", 1.0))
    ticks = [
        el("text", f"{value:g}", x=x, y=_SHARE_HEIGHT + 15, text_anchor=anchor, class_="tick")
        for x, anchor, value in ends
    ]
    return el(
        "svg",
        *bars,
        base,
        *ticks,
        class_="chart",
        width="100%",
        height=_SHARE_HEIGHT + 20,
        role="img",
        aria_label=f"Distribution of {label} among answers that are not perfect",
    )


def stacked_bar(parts: Sequence[tuple[str, str, float]], label: str) -> Markup:
    """Draw (css class, title, number) as one bar; the smallest part stays visible."""
    total = sum(number for _, _, number in parts)
    if total <= 0:
        return NOTHING
    least = 0.012
    shares = [max(least, number / total) if number > 0 else 0.0 for _, _, number in parts]
    scale = sum(shares)
    place, bars = 0.0, []
    for (style, title, number), part in zip(parts, shares, strict=True):
        if number <= 0:
            continue
        width = part / scale
        tip = el("title", f"{title}: {count(number)} ({percent(number, total)})")
        bars.append(
            el("rect", tip, x=pct(place), width=pct(width), y=0, height=26, class_=f"part {style}")
        )
        if width > 0.08:
            bars.append(
                el(
                    "text",
                    count(number),
                    x=pct(place + width / 2),
                    y=17.5,
                    text_anchor="middle",
                    class_="inside",
                )
            )
        place += width
    return el(
        "svg", *bars, class_="chart bar", width="100%", height=26, role="img", aria_label=label
    )


def range_bar(low: float | None, high: float | None, most: float, style: str) -> Markup:
    """Draw p50 to p95 of one row, on a linear axis from 0 to `most` shared by all rows."""
    if low is None or high is None or most <= 0:
        return NOTHING
    left, right = min(1.0, low / most), min(1.0, high / most)
    return el(
        "svg",
        el("line", x1="0", x2="100%", y1=11, y2=11, class_="grid"),
        el("line", x1=pct(left), x2=pct(right), y1=11, y2=11, class_=f"span {style}"),
        el(
            "circle",
            el("title", f"p50 {milliseconds(low)}"),
            cx=pct(left),
            cy=11,
            r=5,
            class_=f"dot {style} p50",
        ),
        el(
            "circle",
            el("title", f"p95 {milliseconds(high)}"),
            cx=pct(right),
            cy=11,
            r=5,
            class_=f"dot {style} p95",
        ),
        class_="chart row",
        width="100%",
        height=22,
        role="img",
        aria_label=f"p50 {milliseconds(low)}, p95 {milliseconds(high)}",
    )


def limit_bar(value: float, limit: float, label: str) -> Markup:
    """Draw one value against a limit that must not be passed."""
    most = max(value, limit) * 1.15
    style = "good" if value <= limit else "bad"
    return el(
        "svg",
        el("rect", x="0", width="100%", y=8, height=8, class_="track"),
        el("rect", x="0", width=pct(max(0.004, value / most)), y=8, height=8, class_=style),
        el("line", x1=pct(limit / most), x2=pct(limit / most), y1=2, y2=22, class_="limit"),
        class_="chart row",
        width="100%",
        height=24,
        role="img",
        aria_label=label,
    )
