"""The page of a whole migration: was anything lost, how long did it take, who noticed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.model import JsonValue
from shadow.page import charts
from shadow.page.markup import NOTHING, Child, Markup, el
from shadow.page.shadow import gate_verdict, shadow_sections
from shadow.page.shell import (
    figure,
    figures,
    footer,
    masthead,
    page,
    section,
    table,
    verdict,
)
from shadow.page.values import (
    DASH,
    Json,
    at,
    count,
    duration,
    items,
    milliseconds,
    moment,
    num,
    obj,
    plural,
    rows,
    txt,
)

STALL_LIMIT_MS = 250.0
_EVENTS_MAX = 200
_DAMAGE_MAX = 100
_VERIFY_ZEROS = ("mismatched", "missing", "extra")


def migration_page(data: Json) -> str:
    """Return the page of report.json."""
    name = txt(data, "migration") or "migration"
    facts = [
        moment(txt(data, "started_at")),
        f"took {duration(num(data, 'duration_s'))}" if num(data, "duration_s") else "",
        _corpus(data),
    ]
    return page(
        f"Migration report · {name}",
        masthead("Migration report", name, facts),
        _verdict(data),
        _zeros(data),
        _damage(data),
        _phases(data),
        _swaps(data),
        _load(data),
        *_shadow(data),
        _events(data),
        footer("Written by Crossfade. report.json beside this page holds the same numbers."),
    )


def _corpus(data: Json) -> str:
    corpus = obj(data, "corpus")
    documents, sources = num(corpus, "documents"), num(corpus, "sources")
    if documents is None:
        return ""
    shown = plural(documents, "document")
    return f"{shown} of {plural(sources, 'source')}" if sources is not None else shown


def _verdict(data: Json) -> Markup:
    passed = at(data, "passed")
    good = passed if isinstance(passed, bool) else None
    wrong = _wrong(data)
    if good and not wrong:
        return verdict(
            True,
            "Cut over. Nothing was lost, nothing failed.",
            f"{plural(num(data, 'verify', 'matched') or 0, 'record')} on both stores, compared "
            "byte for byte, while live traffic ran the whole time.",
        )
    if good is None and not wrong:
        return verdict(None, "This migration has not been judged.")
    reasons = "; ".join(wrong) or "the run did not finish; see the event log below"
    return verdict(False, "Not passed.", reasons + ".")


def _wrong(data: Json) -> list[str]:
    """Name everything that has to be zero and is not."""
    found = []
    for name, word in (("failed_requests", "failed request"), ("lost_writes", "lost write")):
        number = num(data, name) or 0
        if number:
            found.append(plural(number, word))
    for name in _VERIFY_ZEROS:
        number = num(data, "verify", name) or 0
        if number:
            found.append(f"{plural(number, 'record')} {name}")
    return found


def _zeros(data: Json) -> Markup:
    stalls = [value for item in rows(data, "swaps") if (value := num(item, "stall_ms")) is not None]
    longest = max(stalls, default=None)
    zeros = [
        _zero(num(data, "failed_requests"), "failed requests"),
        _zero(num(data, "lost_writes"), "lost writes"),
        *(_zero(num(data, "verify", name), f"records {name}") for name in _VERIFY_ZEROS),
    ]
    others = [
        figure(count(num(data, "verify", "matched")), "records match on both stores"),
        figure(count(num(data, "live_writes")), "live writes"),
        figure(count(num(data, "live_reads")), "live reads"),
        figure(count(num(data, "live_searches")), "live searches"),
        figure(milliseconds(longest), "longest write stall"),
    ]
    return el(
        "section",
        figures(*zeros, style="zeros"),
        figures(*others),
        class_="plain",
    )


def _zero(number: float | None, label: str) -> Markup:
    state = "" if number is None else "good" if number == 0 else "bad"
    return figure(count(number), label, state=state)


def _damage(data: Json) -> Markup:
    damage = rows(data, "damage")
    if not damage:
        return NOTHING
    heads = (("", "collection"), ("", "key"), ("", "what"), ("", "fields"))
    lines: list[Sequence[Child]] = [
        (
            txt(item, "collection"),
            el("code", txt(item, "key")),
            txt(item, "kind"),
            ", ".join(str(name) for name in items(item, "fields")),
        )
        for item in damage[:_DAMAGE_MAX]
    ]
    more = len(damage) - _DAMAGE_MAX
    return section(
        "Records that differ",
        table(heads, lines),
        el("p", f"and {count(more)} more", class_="note") if more > 0 else NOTHING,
        note="Named by verify: missing is on the primary alone, extra on the secondary alone.",
    )


def _phases(data: Json) -> Markup:
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
    """A strip of the whole run, each phase in the mix of the two stores' colours it read from."""
    spans = [(num(item, "started_s"), num(item, "duration_s") or 0.0) for item in phases]
    begun, places = 0.0, []
    for started, lasted in spans:
        begin = begun if started is None else started
        places.append((begin, lasted))
        begun = begin + lasted
    first = min(begin for begin, _ in places)
    whole = max(begin + lasted for begin, lasted in places) - first
    if whole <= 0:
        return NOTHING
    bars = []
    for index, (item, (begin, lasted)) in enumerate(zip(phases, places, strict=True), start=1):
        left, width = (begin - first) / whole, max(0.003, lasted / whole)
        name = txt(item, "phase")
        title = el("title", f"{index}. {name}: {duration(lasted)}")
        mix = f"--mix:{_mix(name):g}%"
        bars.append(
            el(
                "rect",
                title,
                x=charts.pct(left),
                width=charts.pct(width),
                y=0,
                height=34,
                class_="phase",
                style=mix,
            )
        )
        if width > 0.035:
            middle = charts.pct(left + width / 2)
            bars.append(
                el("text", str(index), x=middle, y=22, text_anchor="middle", class_="inside")
            )
    ends = (("0", "start", "0 s"), ("100%", "end", duration(whole)))
    ticks = [el("text", text, x=x, y=50, text_anchor=a, class_="tick") for x, a, text in ends]
    return el(
        "svg",
        *bars,
        *ticks,
        class_="chart",
        width="100%",
        height=56,
        role="img",
        aria_label="Timeline of the phases",
    )


def _mix(phase: str) -> float:
    """Return how much of the traffic the new store answers, 0..100, told by the phase's name."""
    name = phase.lower()
    ramp = re.search(r"(\d+(?:\.\d+)?)\s*%", name)
    if ramp:
        return min(100.0, float(ramp.group(1)))
    if "rollback" in name or "old" in name:
        return 0.0
    if "new" in name or "cutover" in name or "final" in name:
        return 100.0
    known = {"dual": 8.0, "backfill": 16.0, "verify": 24.0, "shadow": 32.0, "ramp": 50.0}
    return next((mix for word, mix in known.items() if word in name), 50.0)


def _side(phase: str) -> str:
    return "candidate" if _mix(phase) > 50 else "control"


def _swaps(data: Json) -> Markup:
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
        table(heads, lines),
        note="While the primary changes, writes wait; they do not fail. Reads go on.",
    )


def _load(data: Json) -> Markup:
    backfill, index = obj(data, "backfill"), obj(data, "index")
    shown = []
    if backfill:
        rate = num(backfill, "rate_rows_per_s")
        shown += [
            figure(count(num(backfill, "rows")), "records backfilled"),
            figure(duration(num(backfill, "seconds")), "to backfill"),
            figure(DASH if rate is None else f"{count(rate)}/s", "records a second"),
        ]
    verify = obj(data, "verify")
    if num(verify, "seconds"):
        shown.append(figure(duration(num(verify, "seconds")), "to verify every byte"))
    if num(index, "seconds") is not None:
        shown.append(figure(duration(num(index, "seconds")), "to build the index"))
    facts = [_fact(name, index[name]) for name in index if name != "seconds"]
    if not shown and not facts:
        return NOTHING
    listed = el("dl", *facts, class_="facts") if facts else NOTHING
    return section("Backfill and index", figures(*shown), listed)


def _fact(name: str, value: JsonValue) -> Markup:
    text = "yes" if value is True else "no" if value is False else txt({"value": value}, "value")
    if isinstance(value, float):
        text = f"{value:g}"
    return el("div", el("dt", name.replace("_", " ")), el("dd", text))


def _shadow(data: Json) -> list[Markup]:
    report = obj(data, "shadow")
    sections = shadow_sections(report)
    if not sections:
        return []
    divider = el("div", el("h2", "Shadow reads"), class_="divider", id="shadow")
    return [divider, gate_verdict(report), *sections]


def _events(data: Json) -> Markup:
    events = rows(data, "events")
    if not events:
        return NOTHING
    heads = (("wide", "when"), ("n", "epoch"), ("", "event"), ("wide", "who"), ("", "why"))
    lines: list[Sequence[Child]] = [
        (
            moment(txt(item, "at")),
            txt(item, "epoch"),
            el("b", txt(item, "kind")),
            txt(item, "actor"),
            txt(item, "reason"),
        )
        for item in events[:_EVENTS_MAX]
    ]
    more = len(events) - _EVENTS_MAX
    return section(
        "Event log",
        table(heads, lines, style="events"),
        el("p", f"and {count(more)} more", class_="note") if more > 0 else NOTHING,
    )
