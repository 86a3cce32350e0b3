"""The page of a whole migration: was anything lost, how long did it take, who noticed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shadow.page.markup import NOTHING, Child, Markup, el
from shadow.page.phases import phases_section, swaps_section
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
    with_code,
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

_EVENTS_MAX = 200
_DAMAGE_MAX = 100
_REASONS_MAX = 12
_FINDERS = (
    ("verify", ("verify", "samples")),
    ("the independent check", ("independent_check", "differences")),
    ("the damage done on purpose", ("damage",)),
)
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
        _differences(data),
        phases_section(data),
        swaps_section(data),
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
    reasons = wrong or ["The run did not finish; see the event log below."]
    return verdict(False, "Not passed.", *(with_code(reason) for reason in reasons[:_REASONS_MAX]))


def _wrong(data: Json) -> list[str]:
    """Say why the run did not pass: its own sentences, or whatever should be zero and is not."""
    told = [str(reason) for reason in items(data, "failures")]
    if told:
        return told
    found = []
    for name, word in (("failed_requests", "failed request"), ("lost_writes", "lost write")):
        number = num(data, name) or 0
        if number:
            found.append(f"{plural(number, word)}.")
    for name in _VERIFY_ZEROS:
        number = num(data, "verify", name) or 0
        if number:
            found.append(f"{plural(number, 'record')} {name}.")
    return found


def _zeros(data: Json) -> Markup:
    stalls = [value for item in rows(data, "swaps") if (value := num(item, "stall_ms")) is not None]
    longest = max(stalls, default=None)
    live = sum(num(data, name) or 0 for name in ("live_writes", "live_reads", "live_searches"))
    verified = num(data, "verify", "matched") or 0
    zeros = [
        _zero(num(data, "failed_requests"), "failed requests", measured=live > 0),
        _zero(num(data, "lost_writes"), "lost writes", measured=bool(num(data, "live_writes"))),
        *(
            _zero(num(data, "verify", name), f"records {name}", measured=verified > 0)
            for name in _VERIFY_ZEROS
        ),
    ]
    others = [
        figure(count(num(data, "verify", "matched")), "records match on both stores"),
        figure(count(num(data, "live_writes")), "live writes"),
        figure(count(num(data, "live_reads")), "live reads"),
        figure(count(num(data, "live_searches")), "live searches"),
        figure(milliseconds(longest), "longest write stall"),
    ]
    return el("section", figures(*zeros, style="zeros"), figures(*others), class_="plain")


def _zero(number: float | None, label: str, *, measured: bool) -> Markup:
    """A zero is good news only if there was something to count."""
    if number is None or (number == 0 and not measured):
        return figure(DASH, label, note="not measured")
    return figure(count(number), label, state="good" if number == 0 else "bad")


def _differences(data: Json) -> Markup:
    """Name every record that differs, by whoever found it."""
    found: dict[tuple[str, str], _Differing] = {}
    for finder, path in _FINDERS:
        for item in rows(data, *path):
            place = (txt(item, "collection"), _key(item))
            known = found.setdefault(place, _Differing(kind=txt(item, "kind")))
            known.finders.append(finder)
            known.fields.update(str(name) for name in items(item, "fields"))
    if not found:
        return NOTHING
    heads = (("", "collection"), ("", "key"), ("", "what"), ("", "fields"), ("wide", "named by"))
    lines: list[Sequence[Child]] = [
        (
            collection,
            el("code", key),
            one.kind,
            ", ".join(sorted(one.fields)),
            " and ".join(dict.fromkeys(one.finders)),
        )
        for (collection, key), one in list(found.items())[:_DAMAGE_MAX]
    ]
    more = len(found) - _DAMAGE_MAX
    return section(
        "Records that differ",
        table(heads, lines),
        el("p", f"and {count(more)} more", class_="note") if more > 0 else NOTHING,
        note="Missing: on the primary alone. Extra: on the secondary alone.",
    )


@dataclass(slots=True, kw_only=True)
class _Differing:
    """One record that differs: how, in which fields, and who found it."""

    kind: str
    fields: set[str] = field(default_factory=set)
    finders: list[str] = field(default_factory=list)


def _key(item: Json) -> str:
    """Return a key as its one text form, whether it came as that or as a list."""
    key = item.get("key")
    return (
        key
        if isinstance(key, str)
        else json.dumps(key, ensure_ascii=False, default=str, separators=(",", ":"))
    )


def _load(data: Json) -> Markup:
    backfill, verify = obj(data, "backfill"), obj(data, "verify")
    shown = []
    if backfill:
        shown += [
            figure(count(num(backfill, "rows")), "records backfilled"),
            figure(duration(_seconds(backfill)), "to backfill"),
            _rate(backfill, "records a second"),
        ]
    if _seconds(verify) is not None:
        shown += [
            figure(duration(_seconds(verify)), "to verify every byte"),
            _rate(verify, "records verified a second"),
        ]
    facts = _index_facts(obj(data, "index"))
    if not shown and not facts:
        return NOTHING
    listed = el("dl", *facts, class_="facts") if facts else NOTHING
    return section("Backfill, verify, index", figures(*shown), listed)


def _seconds(job: Json) -> float | None:
    found = num(job, "seconds")
    return num(job, "elapsed_s") if found is None else found


def _rate(job: Json, label: str) -> Markup:
    return figure(count(num(job, "rate_rows_per_s")), label)


def _index_facts(index: Json) -> list[Markup]:
    """Return what is known of the indexes: one line each, or one line a property."""
    facts = []
    for name, value in index.items():
        if isinstance(value, Mapping):
            state = "ready" if at(value, "ready") is True else "not ready"
            detail = txt(value, "detail")
            facts.append(_fact(f"index {name}", f"{state}, {detail}" if detail else state))
        else:
            shown = "yes" if value is True else "no" if value is False else f"{value}"
            facts.append(_fact(f"index {name.replace('_', ' ')}", shown))
    return facts


def _fact(name: str, value: str) -> Markup:
    return el("div", el("dt", name), el("dd", value))


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
