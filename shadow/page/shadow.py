"""The shadow reads as a page of their own, and as a part of the migration's page."""

from __future__ import annotations

from collections.abc import Sequence

from shadow.page import charts
from shadow.page.causes import chip, style, treatment, words
from shadow.page.markup import NOTHING, Child, Markup, el
from shadow.page.samples import samples_section
from shadow.page.shell import (
    figure,
    figures,
    footer,
    masthead,
    page,
    section,
    sign,
    table,
    verdict,
    with_code,
)
from shadow.page.values import (
    DASH,
    Json,
    at,
    count,
    items,
    milliseconds,
    moment,
    num,
    obj,
    percent,
    plural,
    ratio,
    rows,
    share,
    txt,
)


def shadow_page(report: Json) -> str:
    """Return the page of a shadow report."""
    since, until = moment(txt(report, "since")), moment(txt(report, "until"))
    facts = [
        f"{since} to {until}" if since else "",
        plural(len(items(report, "replicas")), "replica"),
        f"written {moment(txt(report, 'generated_at'))}" if txt(report, "generated_at") else "",
    ]
    name = txt(report, "migration") or "migration"
    return page(
        f"Shadow reads · {name}",
        masthead("Shadow reads", name, facts),
        gate_verdict(report),
        *shadow_sections(report),
        footer(
            "Every sampled read was answered by the control and asked again of the candidate, "
            "off the client's path. RBO: extrapolated, p = 0.9 (Webber, Moffat, Zobel 2010). "
            "Percentiles come from histograms and are right to within 1 %."
        ),
    )


def gate_verdict(report: Json) -> Markup:
    """Return what the gate says in one sentence."""
    conditions = rows(report, "gate", "conditions")
    if not conditions:
        return verdict(None, "No shadow reads yet.")
    failing = [item for item in conditions if at(item, "passed") is not True]
    queries = num(report, "total", "queries") or 0
    candidate = txt(report, "total", "candidate") or "candidate"
    if failing:
        return verdict(
            False,
            f"The {candidate} store is not ready: {plural(len(failing), 'condition')} of "
            f"{len(conditions)} not met.",
            f"Not met: {', '.join(_short(item) for item in failing)}.",
        )
    return verdict(
        True,
        f"The {candidate} store answers as the control does.",
        f"{plural(queries, 'query')} compared, every condition of the gate is met.",
    )


def _short(condition: Json) -> str:
    return txt(condition, "name").removeprefix("shadow: ")


def shadow_sections(report: Json) -> list[Markup]:
    """Return the sections that the two pages share; an empty report has none."""
    total = obj(report, "total")
    if not total:
        return []
    sections = [_headline(report, total), _gate(report), _differences(total)]
    sections += [_rankings(total), _latency(total), _groups(report), _worst(report)]
    return [*sections, _failures(report)]


def _headline(report: Json, total: Json) -> Markup:
    queries, identical = num(total, "queries") or 0, num(total, "identical") or 0
    errors = sum(value for value in obj(total, "errors").values() if isinstance(value, int))
    charged = num(total, "differences", "charged")
    dropped = num(report, "reads", "dropped_share")
    return el(
        "section",
        figures(
            figure(count(queries), "queries compared", note=_reads(report)),
            figure(percent(identical, queries), "without any difference"),
            figure(
                count(charged),
                "missing, extra, stale or wrong",
                state="good" if charged == 0 else "bad",
            ),
            figure(count(errors), "errors", state="good" if errors == 0 else "bad"),
            figure(
                share(num(total, "overlap_excused", "mean")),
                "overlap after excusing",
                note=f"{share(num(total, 'overlap', 'mean'))} before",
            ),
            figure(
                ratio(num(total, "latency", "p95_ratio")),
                "p95 against the control",
                note="" if not dropped else f"{100 * dropped:.1f} % of the sample dropped",
            ),
        ),
        class_="plain",
    )


def _reads(report: Json) -> str:
    observed = num(report, "reads", "observed")
    return "" if observed is None else f"of {plural(observed, 'read')} served"


def _gate(report: Json) -> Markup:
    lines = []
    for item in rows(report, "gate", "conditions"):
        good = at(item, "passed") is True
        remedy = el("p", with_code(txt(item, "remedy")), class_="remedy") if not good else NOTHING
        text = el("div", el("b", _short(item)), el("p", txt(item, "detail")), remedy)
        lines.append(el("li", sign(good), text, class_="met" if good else "unmet"))
    return section("The gate", el("ul", *lines, class_="gate")) if lines else NOTHING


def _differences(total: Json) -> Markup:
    causes = obj(total, "differences", "causes")
    found = [(name, num(causes, name) or 0.0) for name in causes]
    ids = sum(number for _, number in found)
    title = "Why answers differ"
    if ids == 0:
        return section(title, el("p", "They do not: no id differs in any query.", class_="note"))
    bar = charts.stacked_bar(
        [(style(name), words(name).name, number) for name, number in found],
        "Differing ids by cause",
    )
    lines = [
        (chip(name), count(number), percent(number, ids), words(name).meaning, treatment(name))
        for name, number in found
        if number > 0
    ]
    heads = (("", "cause"), ("n", "ids"), ("n", "share"), ("wide", "meaning"), ("", "treatment"))
    note = f"{plural(ids, 'differing id')}, each attributed to the first cause that explains it."
    return section(title, bar, table(heads, lines), _known(total), note=note)


def _known(total: Json) -> Markup:
    """Return what the known differences are, most ids first."""
    reasons = obj(total, "known_differences")
    if not reasons:
        return NOTHING
    lines = [
        (reason, count(num(reasons, reason)))
        for reason in sorted(reasons, key=lambda name: (-(num(reasons, name) or 0.0), name))
    ]
    return table((("", "known difference"), ("n", "ids")), lines)


def _rankings(total: Json) -> Markup:
    cards = [
        _share_card(total, "overlap", "Overlap", "the same ids, ties at the cut-off allowed"),
        _share_card(total, "overlap_excused", "Overlap after excusing", "what the gate judges"),
        _share_card(total, "rbo", "Rank-biased overlap", "the same order, the top weighing most"),
        _share_card(total, "tau", "Kendall's tau-b", "the order of the ids both returned"),
    ]
    noise = num(total, "noise", "mean")
    measured = plural(num(total, "noise", "count") or 0, "query")
    delta = num(total, "score_delta_max")
    by_rank = obj(total, "by_rank")
    facts = [
        f"First hit agrees in {_top1(total)} of the queries.",
        f"Jaccard {share(num(total, 'jaccard', 'mean'))} on average.",
        "" if delta is None else f"Greatest difference of a score: {delta:.2g}.",
        *(
            f"Ranks alone were compared in {plural(num(by_rank, reason) or 0, 'query')}: {reason}."
            for reason in sorted(by_rank)
        ),
        ""
        if noise is None
        else f"The control read twice agrees with itself to {share(noise)} "
        f"({measured}): no candidate can do better than that.",
    ]
    return section(
        "How alike the rankings are",
        el("div", *cards, class_="cards"),
        el("p", " ".join(fact for fact in facts if fact), class_="note"),
    )


def _top1(total: Json) -> str:
    return percent(num(total, "top1") or 0.0, 1.0) if num(total, "top1") is not None else DASH


def _share_card(total: Json, name: str, title: str, note: str) -> Markup:
    shares = obj(total, name)
    bins = [value for value in items(shares, "bins") if isinstance(value, int)]
    whole = sum(bins)
    perfect = bins[-1] if bins else 0
    shown: Child = charts.share_chart(shares, title)
    if whole == 0:
        shown = el("p", "not measured", class_="empty")
    elif perfect == whole:
        shown = el("p", "every one of them", class_="empty")
    return el(
        "div",
        el("h3", title),
        el("p", note, class_="sub"),
        el("p", el("b", share(num(shares, "mean"))), " mean", class_="mean"),
        el(
            "p",
            f"{count(perfect)} of {count(whole)} perfect, the others:"
            if perfect < whole
            else f"{count(perfect)} of {count(whole)} perfect",
            class_="sub",
        ),
        shown,
        class_="card",
    )


def _latency(total: Json) -> Markup:
    control, candidate = obj(total, "latency", "control"), obj(total, "latency", "candidate")
    if not num(control, "count"):
        return NOTHING
    heads = (
        ("", ""),
        ("n", "p50"),
        ("n", "p95"),
        ("n", "p99"),
        ("n wide", "mean"),
        ("n wide", "queries"),
    )
    lines: list[Sequence[Child]] = [
        (
            _legend(role, txt(total, role)),
            *(milliseconds(num(side, name)) for name in ("p50_ms", "p95_ms", "p99_ms", "mean_ms")),
            count(num(side, "count")),
        )
        for role, side in (("control", control), ("candidate", candidate))
    ]
    return section(
        "How fast they answer",
        charts.latency_chart(control, candidate),
        table(heads, lines),
        note="Store calls alone. Dots: p50 filled, p95 ringed, p99 small.",
    )


def _legend(role: str, store: str) -> Markup:
    return el("span", el("i", class_=f"key {role}"), f"{role}: {store}", class_="legend")


def _groups(report: Json) -> Markup:
    groups = rows(report, "groups")
    if not groups:
        return NOTHING
    heads = (
        ("", "query"),
        ("wide", "control → candidate"),
        ("n", "queries"),
        ("n", "errors"),
        ("n wide", "overlap"),
        ("n", "excused"),
        ("n wide", "RBO"),
        ("n wide", "p95 control"),
        ("n wide", "p95 candidate"),
        ("n", "ratio"),
    )
    return section("By collection and kind of query", table(heads, [_group(one) for one in groups]))


def _group(group: Json) -> Sequence[Child]:
    errors = sum(value for value in obj(group, "errors").values() if isinstance(value, int))
    return (
        el("span", el("b", txt(group, "collection")), f" {txt(group, 'kind')}"),
        f"{txt(group, 'control')} → {txt(group, 'candidate')}",
        count(num(group, "queries")),
        count(errors),
        share(num(group, "overlap", "mean")),
        share(num(group, "overlap_excused", "mean")),
        share(num(group, "rbo", "mean")),
        milliseconds(num(group, "latency", "control", "p95_ms")),
        milliseconds(num(group, "latency", "candidate", "p95_ms")),
        ratio(num(group, "latency", "p95_ratio")),
    )


def _worst(report: Json) -> Markup:
    samples = rows(report, "samples")
    if not samples:
        return NOTHING
    note = (
        "Worst first. A line joins the same record in both rankings; a stub is a record that "
        "only one of them returned, coloured by its cause."
    )
    return section("The worst queries, side by side", samples_section(samples), note=note)


def _failures(report: Json) -> Markup:
    failures = rows(report, "failures")
    if not failures:
        return NOTHING
    heads = (("wide", "when"), ("", "query"), ("", "error"), ("", "message"))
    lines = [
        (moment(txt(item, "at")), txt(item, "query"), txt(item, "error"), txt(item, "message"))
        for item in failures
    ]
    return section("Queries the candidate failed", table(heads, lines))
