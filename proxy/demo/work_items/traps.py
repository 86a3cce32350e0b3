"""Work items that break careless migrations: each has lost data in somebody's script."""

from __future__ import annotations

import datetime as dt
import random
import uuid

from proxy.demo.work_items.items import FIELDS, Item, ItemValue

ODD_RELEASE = "release-odd"
_NOON = dt.datetime(2024, 5, 5, 12, tzinfo=dt.UTC)

_ODD: tuple[tuple[str, dict[str, ItemValue]], ...] = (
    ("everything null", {}),
    ("null progress", {"progress": None, "status": "in_progress"}),
    ("no time at all", {"created_at": None, "updated_at": None}),
    ("before 1970", {"created_at": dt.datetime(1965, 3, 4, 5, 6, 7, 891, tzinfo=dt.UTC)}),
    ("far future", {"updated_at": dt.datetime(2190, 1, 1, 0, 0, 0, 999999, tzinfo=dt.UTC)}),
    ("empty lists", {"tags": [], "dependencies": [], "acceptance_criteria": []}),
    ("null lists", {"tags": None, "dependencies": None, "acceptance_criteria": None}),
    ("odd lists", {"tags": ["", " ", "a,b", "q\"uo'te", "{}", "NULL", "ü", "back\\slash"]}),
    (
        "criteria",
        {"acceptance_criteria": ["first\nline", "- [ ] a box", "x" * 3000, "日本語", "🦀"]},
    ),
    ("empty object", {"metadata": {}}),
    (
        "deep object",
        {
            "metadata": {
                "a": {"b": [1, 2.5, None, True, {"ü": "\u0001 \\ \" '"}]},
                "": "",
                "n": -0.5,
            }
        },
    ),
    ("numbers", {"estimated_hours": 1e-300, "actual_hours": 1.7976931348623157e308}),
    ("small numbers", {"estimated_hours": -0.5, "actual_hours": 0.1, "progress": 1 / 3}),
    ("big order", {"order_index": 2**53 + 1}),
    ("negative order", {"order_index": -1, "executable": True}),
    ("quotes'; DROP TABLE work_items; --", {"description": 'it\'s "quoted" `ticked` $1 \\N %s'}),
    ("naïve façade 日本語 العربية 🦀🚀", {"description": "e\u0301 differs from \u00e9"}),
    ("zero\u200bwidth\u00a0space", {"notes": "\ufeff\u202eright to left", "assignee": ""}),
    ("a long story", {"description": "Once upon a time. " * 600, "notes": "lorem " * 40_000}),
    ("wild cards", {"description": "100% of under_scores [a-z]* ?", "tags": ["%", "_"]}),
)


def odd_items(rng: random.Random) -> list[Item]:
    """Return one item a trap, in a release of their own, and one without any word."""
    named = [
        _odd(rng, title, {"description": "odd", **changes} if changes else {})
        for title, changes in _ODD
    ]
    return [*named, _odd(rng, "", {"description": None, "notes": "no vector can be made of it"})]


def _odd(rng: random.Random, title: str, changes: dict[str, ItemValue]) -> Item:
    fields: dict[str, ItemValue] = dict.fromkeys(FIELDS)
    fields |= {"title": title, "context_tags": [ODD_RELEASE]}
    if changes:
        fields |= {"tags": ["odd"], "created_at": _NOON, "order_index": 0, "metadata": {"o": 1}}
    number = uuid.UUID(int=rng.getrandbits(128), version=4)
    return Item(id=str(number), fields={**fields, **changes})
