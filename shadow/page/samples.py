"""The worst queries side by side: two ranked columns, with lines from each rank to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shadow.page.causes import chip, style, words
from shadow.page.markup import NOTHING, Markup, el, joined
from shadow.page.values import (
    TIMES,
    Json,
    count,
    milliseconds,
    moment,
    num,
    obj,
    plural,
    rows,
    share,
    txt,
)

_ROW = 62
_GUTTER = 64
_OPEN = 3


def samples_section(samples: Sequence[Json]) -> Markup:
    """Return every sample; the first few are open."""
    return joined(_sample(sample, index < _OPEN) for index, sample in enumerate(samples))


def _sample(sample: Json, opened: bool) -> Markup:
    control, candidate = obj(sample, "control"), obj(sample, "candidate")
    summary = el(
        "summary",
        el("span", txt(sample, "query") or "query", class_="query"),
        el(
            "span",
            f"{txt(sample, 'collection')} · {txt(sample, 'kind')} · "
            f"{moment(txt(sample, 'at'))} · request {txt(sample, 'request_id')}",
            class_="where",
        ),
        el("span", *_causes(sample), class_="chips"),
    )
    body = el(
        "div",
        el("p", *_measures(sample), class_="measures"),
        el(
            "div",
            _column(control, "control"),
            _lines(rows(control, "hits"), rows(candidate, "hits")),
            _column(candidate, "candidate"),
            class_="pair",
        ),
        _findings(sample),
    )
    return el("details", summary, body, class_="sample", open="open" if opened else None)


def _causes(sample: Json) -> list[Markup]:
    tally: dict[str, int] = {}
    for finding in rows(sample, "findings"):
        name = txt(finding, "cause")
        tally[name] = tally.get(name, 0) + 1
    return [
        el("span", f"{words(name).name} {TIMES} {number}", class_=f"chip {style(name)}")
        for name, number in tally.items()
    ]


def _measures(sample: Json) -> list[Markup]:
    pairs = [
        ("overlap", share(num(sample, "overlap"), 2)),
        ("after excusing", share(num(sample, "overlap_excused"), 2)),
        ("RBO", share(num(sample, "rbo"), 3)),
        ("tau-b", share(num(sample, "tau"), 2)),
    ]
    shown = [el("span", el("b", value), f" {name}") for name, value in pairs]
    if num(sample, "looks") == 2:
        shown.append(el("span", "confirmed by a second look"))
    return shown


def _column(answer: Json, role: str) -> Markup:
    hits = rows(answer, "hits")
    more = (num(answer, "count") or 0) - len(hits)
    title = el(
        "h4",
        el("i", class_=f"key {role}"),
        f"{role}: {txt(answer, 'store')}",
        el("span", milliseconds(num(answer, "latency_ms")), class_="took"),
    )
    listed = [_hit(hit) for hit in hits] or [el("li", "no hits", class_="none")]
    rest = el("p", f"and {count(more)} more", class_="more") if more > 0 else NOTHING
    return el("div", title, el("ol", *listed, class_="hits"), rest, class_="column")


def _hit(hit: Json) -> Markup:
    cause = txt(hit, "cause")
    score = num(hit, "score")
    side = el(
        "span",
        "" if score is None else f"{score:.5f}",
        chip(cause) if cause else NOTHING,
        class_="side",
    )
    key, label = txt(hit, "key"), txt(hit, "label")
    return el(
        "li",
        el("span", count(num(hit, "rank")), class_="rank"),
        el("span", el("b", key), el("small", label), class_="what", title=f"{key}\n{label}"),
        side,
        class_=f"hit {style(cause) if cause else ''}".strip(),
    )


def _lines(control: Sequence[Json], candidate: Sequence[Json]) -> Markup:
    """Draw where each hit of the control went; one that differs ends in a stub."""
    right = {txt(hit, "key"): place for place, hit in enumerate(candidate)}
    left = {txt(hit, "key") for hit in control}
    paths: list[Markup] = []
    for place, hit in enumerate(control):
        here, there = _middle(place), right.get(txt(hit, "key"))
        if there is None:
            paths.append(_stub(0, 12, here, hit))
            continue
        to = _middle(there)
        half = _GUTTER / 2
        curve = f"M0,{here:g} C{half:g},{here:g} {half:g},{to:g} {_GUTTER},{to:g}"
        moved = "moved" if there != place else "still"
        named = style(txt(hit, "cause")) if txt(hit, "cause") else ""
        paths.append(el("path", d=curve, class_=f"tie {moved} {named}".strip()))
    for place, hit in enumerate(candidate):
        if txt(hit, "key") not in left:
            paths.append(_stub(_GUTTER - 12, _GUTTER, _middle(place), hit))
    height = max(len(control), len(candidate), 1) * _ROW
    return el(
        "svg",
        *paths,
        class_="gutter",
        width=_GUTTER,
        height=height,
        viewBox=f"0 0 {_GUTTER} {height}",
        aria_hidden="true",
    )


def _middle(place: int) -> float:
    return (place + 0.5) * _ROW


def _stub(start: float, end: float, y: float, hit: Mapping[str, object]) -> Markup:
    cause = style(str(hit.get("cause") or ""))
    outer = start if start > 0 else end
    return joined(
        (
            el("line", x1=start, x2=end, y1=y, y2=y, class_=f"tie {cause}"),
            el("circle", cx=outer, cy=y, r=4, class_=f"end {cause}"),
        )
    )


def _findings(sample: Json) -> Markup:
    found = rows(sample, "findings")
    if not found:
        return el("p", "The same ids in another order.", class_="note")
    lines = [
        el(
            "li",
            chip(txt(item, "cause")),
            el("code", txt(item, "key")),
            f" {txt(item, 'detail')}",
        )
        for item in found
    ]
    more = num(sample, "findings_more") or 0
    rest = el("li", f"and {plural(more, 'more difference')}") if more else NOTHING
    return el("ul", *lines, rest, class_="findings")
