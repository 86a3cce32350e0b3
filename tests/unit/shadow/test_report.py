"""The report's JSON is stable, and its pages need nothing, hide nothing and escape everything."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.settings import ShadowSettings
from proxy.model import JsonValue
from shadow.histogram import Latencies, Shares
from shadow.page.markup import el
from shadow.report import build_report, render_migration_report, render_shadow_report
from shadow.stats import GroupKey, GroupStats, Stats

WHEN = dt.datetime(2026, 1, 31, 14, 5, tzinfo=dt.UTC)
HOSTILE = "<script>alert('1')</script><img src=x onerror=\"alert(2)\"> & ]]> ' \" \u202e"
VOID = {"meta", "br", "hr"}


class Checker(HTMLParser):
    """Collects elements, complains about what is not closed, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    names = {name for name, _ in checker.attributes}
    assert not names & {"src", "href", "srcset", "action", "formaction"}, "nothing is loaded"
    assert not any(name.startswith("on") for name in names)
    assert not {"script", "img", "iframe", "object", "link", "base"} & set(checker.tags)
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    return checker


def sample(text: str) -> dict[str, JsonValue]:
    hit: dict[str, JsonValue] = {
        "rank": 1,
        "key": text,
        "label": text,
        "score": 0.5,
        "cause": "missing",
    }
    answer: dict[str, JsonValue] = {"store": text, "latency_ms": 1.5, "count": 3, "hits": [hit]}
    return {
        "request_id": text,
        "at": "2026-01-31T14:05:00.000+00:00",
        "collection": text,
        "kind": text,
        "query": text,
        "charged": 1,
        "overlap": 0.5,
        "overlap_excused": 0.5,
        "rbo": 0.4,
        "tau": None,
        "looks": 2,
        "control": answer,
        "candidate": answer,
        "findings": [{"key": text, "side": "control", "cause": "missing", "detail": text}],
        "findings_more": 2,
    }


def example(text: str = "plain") -> Stats:
    key = GroupKey(collection=text, kind="vector search", control="old", candidate="new")
    group = GroupStats(
        queries=2,
        identical=1,
        errors={"Unavailable": 1},
        top1_agrees=1,
        causes={"missing": 1, "displaced": 1},
        score_delta_max=2_500_000,
        overlap=Shares.of(1.0) + Shares.of(0.5),
        overlap_excused=Shares.of(1.0) + Shares.of(0.5),
        jaccard=Shares.of(1.0) + Shares.of(1 / 3),
        rbo=Shares.of(1.0) + Shares.of(0.4),
        tau=Shares.of(1.0, -1),
        noise=Shares.of(1.0),
        control_ms=Latencies.of(10.0) + Latencies.of(12.0),
        candidate_ms=Latencies.of(1.0) + Latencies.of(2.0),
        worst=(sample(text),),
        failures=({"request_id": text, "at": text, "query": text, "error": text, "message": text},),
    )
    return Stats(
        observed=5,
        sampled=4,
        dropped={"queue_full": 1},
        since="2026-01-31T14:00:00+00:00",
        until="2026-01-31T14:05:00+00:00",
        replicas=frozenset({text}),
        windows=frozenset({"epoch-3:20260131T14Z"}),
        groups={key: group},
    )


def report_of(stats: Stats) -> dict[str, JsonValue]:
    return build_report(stats, ShadowSettings(), migration="doc-server", generated_at=WHEN)


def migration(text: str = "plain") -> dict[str, JsonValue]:
    return {
        "migration": text,
        "started_at": "2026-01-31T14:05:00+00:00",
        "duration_s": 123.4,
        "corpus": {"documents": 4133, "sources": 40, "source": text},
        "failed_requests": 0,
        "lost_writes": 0,
        "live_writes": 2000,
        "live_reads": 3000,
        "live_searches": 1000,
        "verify": {"matched": 5000, "mismatched": 0, "missing": 0, "extra": 0, "elapsed_s": 2.5},
        "swaps": [{"to": text, "stall_ms": 61.5}, {"to": "old", "stall_ms": 300}],
        "phases": [
            {
                "phase": "old_only",
                "started_s": 0,
                "duration_s": 5,
                "searches": 10,
                "search_p50_ms": 50,
                "search_p95_ms": 80,
                "writes": 9,
                "write_p50_ms": 3,
                "write_p95_ms": 4,
                "failed": 0,
            },
            {"phase": f"ramp 25% {text}", "started_s": 5, "duration_s": 5, "failed": 1},
        ],
        "backfill": {"rows": 4133, "seconds": 1.9, "rate_rows_per_s": 2200.0},
        "index": {text: {"ready": True, "detail": text}, "seconds": 7.5},
        "shadow": report_of(example(text)),
        "events": [{"at": text, "epoch": 1, "kind": text, "actor": text, "reason": text}],
        "damage": [{"collection": text, "key": text, "kind": "missing", "fields": [text]}],
        "passed": True,
    }


def shape(value: JsonValue) -> JsonValue:
    """Return the names and kinds of a JSON value, without its content."""
    if isinstance(value, Mapping):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def test_the_json_has_every_documented_field_in_a_fixed_order() -> None:
    report = report_of(example())
    assert list(report) == [
        "schema",
        "migration",
        "generated_at",
        "since",
        "until",
        "replicas",
        "windows",
        "reads",
        "gate",
        "total",
        "groups",
        "samples",
        "failures",
    ]
    total = report["total"]
    assert isinstance(total, dict)
    assert list(total) == [
        "control",
        "candidate",
        "queries",
        "identical",
        "errors",
        "inconclusive",
        "empty_differs",
        "counts_differ",
        "order_differs",
        "duplicates",
        "second_looks",
        "top1",
        "differences",
        "known_differences",
        "by_rank",
        "overlap",
        "overlap_excused",
        "jaccard",
        "rbo",
        "tau",
        "noise",
        "score_delta_max",
        "latency",
    ]
    assert report["schema"] == "crossfade.shadow/1"
    assert json.loads(json.dumps(report)) == report


def test_an_empty_report_has_the_same_fields() -> None:
    empty, full = shape(report_of(Stats())["total"]), shape(report_of(example())["total"])
    assert isinstance(empty, dict)
    assert isinstance(full, dict)
    assert list(empty) == list(full)


def test_the_numbers_of_the_report_are_those_of_the_statistics() -> None:
    report = report_of(example())
    total = report["total"]
    assert isinstance(total, dict)
    assert total["top1"] == 0.5
    assert total["differences"] == {
        "ids": 2,
        "excused": 0,
        "charged": 1,
        "causes": {
            "in_flight": 0,
            "tie": 0,
            "semantic": 0,
            "missing": 1,
            "extra": 0,
            "stale": 0,
            "vector": 0,
            "displaced": 1,
            "index_recall": 0,
        },
    }
    assert total["score_delta_max"] == 0.0025
    assert report["reads"] == {
        "observed": 5,
        "sampled": 4,
        "dropped": {"queue_full": 1},
        "waiting": 0,
        "dropped_share": 0.25,
    }
    gate = report["gate"]
    assert isinstance(gate, dict)
    assert gate["passed"] is False


def test_the_same_statistics_make_the_same_pages() -> None:
    one, two = report_of(example()), report_of(Stats() + example())
    assert json.dumps(one) == json.dumps(two)
    assert render_shadow_report(one) == render_shadow_report(two)


def test_hostile_text_is_escaped_on_both_pages() -> None:
    for page in (
        render_shadow_report(report_of(example(HOSTILE))),
        render_migration_report(migration(HOSTILE)),
    ):
        checker = checked(page)
        assert "<script>alert('1')</script>" in checker.text  # shown, as text
        assert "<script" not in page
        assert 'onerror="' not in page


def test_a_class_name_never_comes_from_outside() -> None:
    stats = example()
    report = report_of(stats)
    text = json.dumps(report).replace('"cause": "missing"', '"cause": "x\\" onload=\\"y"')
    checker = checked(render_shadow_report(json.loads(text)))
    classes = {value for name, value in checker.attributes if name == "class"}
    assert not any("onload" in value for value in classes)


def test_the_pages_forbid_themselves_to_load_anything() -> None:
    page = render_migration_report(migration())
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_the_migration_page_says_what_has_to_be_zero() -> None:
    text = checked(render_migration_report({**migration(), "damage": []})).text
    assert "Cut over. Nothing was lost, nothing failed." in text
    for label in ("failed requests", "lost writes", "records mismatched", "5,000", "300 ms"):
        assert label in text


def test_a_zero_that_nobody_measured_is_not_good_news() -> None:
    page = render_migration_report(
        {"failed_requests": 0, "lost_writes": 0, "verify": {"matched": 0, "missing": 0}}
    )
    assert page.count("not measured") == 5
    assert 'class="figure good"' not in page


def test_a_migration_that_did_not_pass_says_why_and_names_every_record() -> None:
    text = checked(
        render_migration_report(
            {
                **migration(),
                "passed": False,
                "failures": ["The last verify found 1 rows that differ."],
                "verify": {
                    "matched": 10,
                    "mismatched": 1,
                    "missing": 0,
                    "extra": 0,
                    "samples": [
                        {
                            "collection": "documents",
                            "key": ["rust", "serde", "index.html"],
                            "kind": "mismatched",
                            "fields": ["content"],
                        }
                    ],
                },
            }
        )
    ).text
    assert "Not passed." in text
    assert "The last verify found 1 rows that differ." in text
    assert '["rust","serde","index.html"]' in text


def test_a_run_that_claims_to_have_passed_with_a_lost_write_is_not_believed() -> None:
    text = checked(render_migration_report({**migration(), "lost_writes": 1})).text
    assert "Not passed." in text
    assert "1 lost write." in text


@pytest.mark.parametrize("missing", sorted(migration()))
def test_the_migration_page_does_without_any_one_part(missing: str) -> None:
    data = migration()
    del data[missing]
    assert "Migration report" in checked(render_migration_report(data)).text


def test_empty_reports_make_pages() -> None:
    assert "No shadow reads yet." in checked(render_shadow_report({})).text
    assert "has not been judged" in checked(render_migration_report({})).text
    assert "not ready" in checked(render_shadow_report(report_of(Stats()))).text


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(migration())), JUNK, st.data())
def test_pages_survive_parts_of_the_wrong_kind(
    name: str, junk: JsonValue, data: st.DataObject
) -> None:
    broken = migration()
    broken[name] = junk
    assert "Migration report" in checked(render_migration_report(broken)).text
    report = report_of(example())
    report[data.draw(st.sampled_from(sorted(report)))] = junk
    assert "Shadow reads" in checked(render_shadow_report(report)).text


@given(st.text(), st.text())
def test_an_element_escapes_its_text_and_its_attributes(text: str, value: str) -> None:
    made = el("p", text, title=value).html
    checker = Checker()
    checker.feed(made)
    checker.close()
    assert checker.tags == ["p"]
    if value:
        assert [name for name, _ in checker.attributes] == ["title"]
    assert re.fullmatch(r"<p[^<>]*>[^<>]*</p>", made)
